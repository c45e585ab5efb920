"""What an operator sees at a glance, from the state directory alone; the same with and without a daemon."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selflearn.config import LearningSettings
from selflearn.experience import funnel, new_examples, why_not
from selflearn.experience.roles.lines import LAST_CHANGE
from selflearn.learning import rates
from selflearn.store import Store
from selflearn.store.audit import newest_digest, write_audit
from selflearn.versions import held, past_updates, running_canary, version_directory, version_name, work_directory
from selflearn.versions.alarms import list_alarms
from selflearn.versions.curves import TRAINING_LOG, learning_curve
from selflearn.versions.names import refused_directory
from selflearn.versions.overrides import kept_candidates as kept_of
from selflearn.versions.pins import pins as pins_of
from selflearn.versions.rebuilds import rebuild_status

PAUSED_KEY = "learning.paused"
PROGRESS = "progress.jsonl"
_NEWEST = 2**62  # above every number


def served(store: Store, learner: str) -> dict[str, Any]:
    """``{"version", "name", "sha256", "since", "action", "forced"}`` of what the rollout log says is served.

    ``sha256`` is that of the adapter, for the base (version 0) that of the base weights; ``since`` is None for a base
    that never was replaced. ``forced`` says that an operator put it there against the gate.
    """
    rows = store.read(LAST_CHANGE, (learner,))
    last: dict[str, Any] = rows[0] if rows else {"version": 0, "action": None, "created_at": None}
    number = int(last["version"])
    return {
        "version": number,
        "name": version_name(number),
        "sha256": weights_sha256(store, learner, number),
        "since": last["created_at"],
        "action": last["action"],
        "forced": bool(store.read("SELECT 1 FROM versions WHERE id = ? AND forced", (number,))),
    }


def canary(store: Store, learner: str, now: Callable[[], float] = time.time) -> dict[str, Any] | None:
    """``{"version", "name", "sha256", "share", "since", "until", "actor", "reason"}`` of the canary, None if none runs.

    ``until`` is None for a canary that runs until it is promoted or aborted.
    """
    found = running_canary(store.connection(), learner, now())
    if found is None:
        return None
    return {
        "version": found.version,
        "name": version_name(found.version),
        "sha256": weights_sha256(store, learner, found.version),
        "share": found.share,
        "since": found.since,
        "until": found.until,
        "actor": found.actor,
        "reason": found.reason,
    }


def pins(store: Store, learner: str) -> list[dict[str, Any]]:
    """``{"version", "held", "actor", "reason", "since"}`` of each version that an operator pinned."""
    return [asdict(pin) for pin in pins_of(store.connection(), learner)]


def audit_digest(store: Store) -> str:
    """The newest digest of the audit log: kept elsewhere, it shows later whether the log was changed or cut off."""
    return newest_digest(store.connection())


def weights_sha256(store: Store, learner: str, version: int) -> str:
    """Hash of a version's adapter, of version 0 that of the base weights; "" if it isn't known."""
    if version == 0:
        rows = store.read("SELECT base_sha256 AS sha FROM learners WHERE name = ?", (learner,))
    else:
        rows = store.read("SELECT adapter_sha256 AS sha FROM versions WHERE id = ? AND learner = ?", (version, learner))
    return str(rows[0]["sha"]) if rows else ""


def base_model(store: Store, learner: str) -> str | None:
    """Name of the base model that a learner's versions adapt; None before the first start."""
    rows = store.read("SELECT base_model FROM learners WHERE name = ?", (learner,))
    return str(rows[0]["base_model"]) if rows else None


def kept_candidates(state: Path) -> dict[str, Any]:
    """``{"updates", "bytes"}``: the candidates that are kept although they were not promoted, newest first."""
    kept = kept_of(state)
    return {"updates": [each.update for each in kept], "bytes": sum(each.bytes for each in kept)}


def is_paused(store: Store) -> bool:
    """Whether an operator paused learning."""
    rows = store.read("SELECT value FROM settings_kv WHERE key = ?", (PAUSED_KEY,))
    return bool(rows) and str(rows[0]["value"]).lower() in ("1", "true")


def set_paused(store: Store, paused: bool, *, actor: str, now: Callable[[], float] = time.time) -> None:
    """Pauses or resumes learning, with an audit row; doing it twice changes nothing."""

    def work(connection: Any) -> None:
        connection.execute(
            "INSERT INTO settings_kv(key, value) VALUES (?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value",
            (PAUSED_KEY, "true" if paused else "false"),
        )
        action = "learning.pause" if paused else "learning.resume"
        write_audit(connection, actor=actor, action=action, detail={}, at=now())

    store.write(work)


def last_alarm(store: Store, learner: str) -> dict[str, Any] | None:
    """The watchdog's newest alarm, as :func:`~selflearn.versions.alarms.list_alarms` shows it; None if there's none."""
    found = list_alarms(store, learner, 1)
    return found[0] if found else None


def learning(store: Store, learner: str, settings: LearningSettings) -> dict[str, Any]:
    """The shape of ``LearningControl.status()``, for when no daemon answers."""
    paused, (fresh, _) = is_paused(store), new_examples(store, learner)
    waiting = "no daemon runs; start one with 'selflearn serve'"
    waiting += ", then 'selflearn learn resume' (learning is paused)" if paused else ""
    if (version := held(store.connection(), learner)) is not None:
        waiting += f", then 'selflearn rollout unpin {version}' (it is held)"
    waiting += f"; {fresh} new examples, {settings.min_examples} needed" if fresh < settings.min_examples else ""
    found = {
        "enabled": settings.enabled,
        "paused": paused,
        "waiting_for": waiting,
        "fresh": fresh,
        "needed": settings.min_examples,
        "running": None,
        "last": last_update(store, learner),
        "rebuild": rebuild_status(store.connection(), learner),
        "rate_factor": rate_factor(store.connection(), learner, settings),
    }
    return {**found, "why_not": why_not(found, funnel(store, learner))}


def rate_factor(connection: sqlite3.Connection, learner: str, settings: LearningSettings) -> float:
    """The factor on the learning rate that a learner's next update starts with; 1 unless ``adapt_rate`` is on.

    Only updates with the present learning rate and optimizer count: other ones are the operator's new word on it.
    """
    if not settings.adapt_rate:
        return 1.0
    past = past_updates(
        connection,
        learner,
        learning_rate=settings.learning_rate,
        optimizer=settings.optimizer,
        most=rates.LOOK_BACK,
    )
    return rates.rate_factor([rates.outcome_of(update) for update in past])


def last_update(store: Store, learner: str) -> dict[str, Any] | None:
    """``{"update", "state", "reason", "finished_at"}`` of the newest update that ended, None if there's none."""
    rows = store.read(
        'SELECT id AS "update", state, reason, finished_at FROM updates'
        " WHERE learner = ? AND state != 'running' ORDER BY id DESC LIMIT 1",
        (learner,),
    )
    return rows[0] if rows else None


def update(store: Store, learner: str, number: int) -> dict[str, Any] | None:
    """One update's row with its JSON columns parsed (config, report, verdict), None if there's none."""
    rows = store.read("SELECT * FROM updates WHERE learner = ? AND id = ?", (learner, number))
    if not rows:
        return None
    parsed = {name: json.loads(rows[0][name]) if rows[0][name] else None for name in ("config", "report", "verdict")}
    return {**rows[0], **parsed}


def updates(
    store: Store, learner: str, *, state: str | None = None, before: int | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """Updates, latest first, each with its verdict parsed and without what its worker reported.

    ``before`` is the number of the last update of the page before.
    """
    found = store.read(
        "SELECT id, parent, trigger, state, reason, started_at, finished_at, rebuild_of, verdict FROM updates"
        " WHERE learner = ? AND (? IS NULL OR state = ?) AND id < ? ORDER BY id DESC LIMIT ?",
        (learner, state, state, _NEWEST if before is None else before, limit),
    )
    return [{**row, "verdict": json.loads(row["verdict"]) if row["verdict"] else None} for row in found]


def curve(store: Store, state: Path, learner: str, number: int) -> dict[str, Any] | None:
    """What training looks like in an update that runs, or looked like; None if there's no such update.

    The shape of :func:`~selflearn.versions.curves.learning_curve`; without points where nothing is kept of it.
    """
    rows = store.read("SELECT state FROM updates WHERE learner = ? AND id = ?", (learner, number))
    if not rows:
        return None
    log = work_directory(state, number) / PROGRESS
    if rows[0]["state"] != "running":
        promoted = rows[0]["state"] == "promoted"
        log = (version_directory if promoted else refused_directory)(state, number) / TRAINING_LOG
    return learning_curve(log)


def progress(state: Path, number: int) -> dict[str, Any] | None:
    """The worker's last progress line of a running update, None if it wrote none yet."""
    file = work_directory(state, number) / PROGRESS
    if not file.is_file():
        return None
    for line in reversed(file.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            found = json.loads(line)
        except ValueError:  # the line that the worker is writing right now
            continue
        if isinstance(found, dict):
            return found
    return None
