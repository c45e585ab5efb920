"""Alarms: what the watchdog found wrong with a version in service, and what it did; an append-only log.

A row holds numbers, never anybody's words. Actions: ``rollback`` (to ``detail.to``), ``abort`` (of a canary),
``reopen`` (the same version was loaded anew), ``none`` (``detail.why`` says why nothing could be done).
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from selflearn.errors import VersionError
from selflearn.store import Store, rows
from selflearn.versions.rollouts import CHANGES, kept_below, verify_registered

ACTOR: Final = "watchdog"

Signal = Literal["negative_feedback", "collapse", "errors", "anchor"]
Action = Literal["rollback", "abort", "reopen", "none"]


def raise_alarm(
    connection: sqlite3.Connection,
    *,
    learner: str,
    version: int,
    signal: Signal,
    action: Action,
    detail: Mapping[str, Any],
    at: float,
) -> int:
    """Appends an alarm and returns its id."""
    cursor = connection.execute(
        "INSERT INTO alarms (learner, version, signal, action, detail, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        (learner, version, signal, action, json.dumps(detail), at),
    )
    return int(cursor.lastrowid or 0)


def list_alarms(store: Store, learner: str, limit: int = 100, version: int | None = None) -> list[dict[str, Any]]:
    """``{"id", "version", "signal", "action", "detail", "created_at"}``, latest first; of one ``version`` if given."""
    condition, values = ("", ()) if version is None else (" AND version = ?", (version,))
    found = store.read(
        f"SELECT id, version, signal, action, detail, created_at FROM alarms WHERE learner = ?{condition}"
        " ORDER BY id DESC LIMIT ?",
        (learner, *values, limit),
    )
    return [{**row, "detail": json.loads(row["detail"])} for row in found]


def alarms_since(connection: sqlite3.Connection, learner: str, version: int, since: float) -> set[str]:
    """The signals that raised an alarm about a version since a moment (unix seconds)."""
    found = rows(
        connection,
        "SELECT DISTINCT signal FROM alarms WHERE learner = ? AND version = ? AND created_at >= ?",
        (learner, version, since),
    )
    return {str(row["signal"]) for row in found}


def in_good_standing(connection: sqlite3.Connection, learner: str, version: int) -> bool:
    """Whether no alarm was raised about a version since it last was promoted. The base always is."""
    promoted = rows(
        connection,
        "SELECT max(created_at) AS at FROM rollouts WHERE learner = ? AND version = ? AND action = 'promote'",
        (learner, version),
    )
    return version == 0 or not alarms_since(connection, learner, version, promoted[0]["at"] or 0.0)


def last_good(connection: sqlite3.Connection, learner: str, state: Path) -> int:
    """Where to go back to: the nearest of what was served before that is kept, intact and in good standing; else 0.

    What was rolled back is not among them, unless an operator promoted it again.
    """
    for version in kept_below(connection, learner):
        if not in_good_standing(connection, learner, version):
            continue
        try:
            verify_registered(connection, state, version)
        except VersionError:
            continue
        return version
    return 0


def cooling_until(connection: sqlite3.Connection, learner: str, cooldown_seconds: float) -> float:
    """When the pause after the watchdog's last rollback ends (unix seconds); 0 if there was none."""
    found = rows(
        connection,
        "SELECT max(created_at) AS at FROM alarms WHERE learner = ? AND action = 'rollback'",
        (learner,),
    )
    return 0.0 if found[0]["at"] is None else float(found[0]["at"]) + cooldown_seconds


def why_cooling(store: Store, learner: str, cooldown_seconds: float, now: Callable[[], float] = time.time) -> str:
    """A sentence while the pause lasts, else nothing."""
    left = cooling_until(store.connection(), learner, cooldown_seconds) - now()
    if left <= 0.0:
        return ""
    return f"the watchdog rolled back; the next update starts in {left / 60:.0f} min at the earliest"


@dataclass(frozen=True, slots=True)
class Service:
    """What is served: since when (unix seconds), by which action, and which version was served before it."""

    version: int
    since: float
    action: str
    before: int


def in_service(connection: sqlite3.Connection, learner: str) -> Service | None:
    """What the rollout log says is served; None for a base that never was replaced."""
    marks = ", ".join("?" * len(CHANGES))
    found = rows(
        connection,
        f"SELECT version, action, created_at FROM rollouts WHERE learner = ? AND action IN ({marks})"
        " ORDER BY id DESC LIMIT 2",
        (learner, *CHANGES),
    )
    if not found:
        return None
    last, before = found[0], found[1]["version"] if len(found) > 1 else 0
    return Service(int(last["version"]), float(last["created_at"]), str(last["action"]), int(before))
