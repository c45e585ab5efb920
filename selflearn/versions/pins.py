"""Pins: versions that an operator wants to keep, and at most one that is held, so that nothing replaces it by itself.

Retention leaves a pinned version. While one is held no update starts, nothing is promoted and nothing is rolled back by
itself; it ends when an operator unpins it or changes what is served. Pins are rows, so they work with the daemon down.
A pin changes nothing in service, so it is no rollout: the audit log has it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from selflearn.errors import Conflict
from selflearn.experience.roles.lines import served_version
from selflearn.store import rows
from selflearn.store.audit import write_audit
from selflearn.versions.removal import require_kept, unknown_version

#: Who acts by itself. Forgetting's rebuild is none of them: an operator ordered it, and what is forgotten must go.
AUTOMATIC: Final = frozenset({"gate", "watchdog"})


@dataclass(frozen=True, slots=True)
class Pin:
    """A version that is kept, since when (unix seconds), by whom and why; ``held`` if it also stays in service."""

    version: int
    held: bool
    actor: str
    reason: str
    since: float


def pins(connection: sqlite3.Connection, learner: str) -> list[Pin]:
    """All pins of a learner, by version."""
    found = rows(
        connection,
        "SELECT version, held, actor, reason, created_at FROM pins WHERE learner = ? ORDER BY version",
        (learner,),
    )
    return [Pin(row["version"], bool(row["held"]), row["actor"], row["reason"], row["created_at"]) for row in found]


def pinned(connection: sqlite3.Connection, learner: str) -> set[int]:
    """The versions that retention must leave."""
    return {pin.version for pin in pins(connection, learner)}


def held(connection: sqlite3.Connection, learner: str) -> int | None:
    """The version that nothing replaces by itself, or None."""
    found = hold(connection, learner)
    return None if found is None else found.version


def hold(connection: sqlite3.Connection, learner: str) -> Pin | None:
    """The pin that holds, or None."""
    return next((pin for pin in pins(connection, learner) if pin.held), None)


def refusal(found: Pin, what: str) -> Conflict:
    """The error for what must not happen while a version is held; ``what`` is a main clause."""
    return Conflict(
        f"Version {found.version} is held by {found.actor} ({found.reason}): {what}. To end that: selflearn rollout "
        f"unpin {found.version}.",
        code="held",
    )


def require_unheld(connection: sqlite3.Connection, learner: str, what: str) -> None:
    """Raises :class:`Conflict` if a version is held; ``what`` says what does not happen therefore."""
    if (found := hold(connection, learner)) is not None:
        raise refusal(found, what)


def end_hold(connection: sqlite3.Connection, learner: str, *, actor: str, because: str, at: float) -> None:
    """Ends the hold, as every change of what is served does, with an audit row; the version stays pinned.

    Raises :class:`Conflict` for who acts by itself. Does nothing if no version is held.
    """
    found = hold(connection, learner)
    if found is None:
        return
    if actor in AUTOMATIC:
        raise refusal(found, "nothing replaces it by itself")
    connection.execute("UPDATE pins SET held = 0 WHERE learner = ? AND version = ?", (learner, found.version))
    detail = {"learner": learner, "version": found.version, "reason": because}
    write_audit(connection, actor=actor, action="rollout.unhold", detail=detail, at=at)


def pin(
    connection: sqlite3.Connection,
    *,
    learner: str,
    version: int,
    held: bool,
    actor: str,
    reason: str,
    now: Callable[[], float] = time.time,
    dry_run: bool = False,
) -> Pin:
    """Pins a version; with ``held`` it must be the served one (0, the base, too). A hold that there is goes on.

    Raises ``NotFound``, ``VersionRemoved``, or ``Conflict`` (not served, or the base, which is never removed, without
    ``held``); nothing changed then.
    """
    _check(connection, learner, version, held)
    before = hold(connection, learner)
    pinned_now = Pin(version, held or (before is not None and before.version == version), actor, reason, now())
    if not dry_run:
        if held and before is not None and before.version != version:  # what it held had to give way to damage
            end_hold(connection, learner, actor=actor, because=f"version {version} is held", at=pinned_now.since)
        connection.execute(
            "INSERT OR REPLACE INTO pins (learner, version, held, actor, reason, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            (learner, version, int(pinned_now.held), actor, reason, pinned_now.since),
        )
        detail = {"learner": learner, "version": version, "held": pinned_now.held, "reason": reason}
        write_audit(connection, actor=actor, action="rollout.pin", detail=detail, at=pinned_now.since)
    return pinned_now


def unpin(
    connection: sqlite3.Connection,
    *,
    learner: str,
    version: int | None,
    actor: str,
    reason: str,
    now: Callable[[], float] = time.time,
    dry_run: bool = False,
) -> Pin:
    """Takes a pin away, and with it the hold; without a number that of the held version, or the only one.

    Returns what it was; raises ``Conflict`` if the version is not pinned, or if it is not clear which one is meant.
    """
    found = _meant(connection, learner, version)
    if not dry_run:
        connection.execute("DELETE FROM pins WHERE learner = ? AND version = ?", (learner, found.version))
        detail = {"learner": learner, "version": found.version, "held": found.held, "reason": reason}
        write_audit(connection, actor=actor, action="rollout.unpin", detail=detail, at=now())
    return found


def _check(connection: sqlite3.Connection, learner: str, version: int, held: bool) -> None:
    if version and not rows(connection, "SELECT 1 FROM versions WHERE id = ? AND learner = ?", (version, learner)):
        raise unknown_version(version)
    require_kept(connection, version)
    present = served_version(connection, learner)
    if held and version != present:
        raise Conflict(
            f"Version {version} is not served (version {present} is), so it cannot be held. Serve it first: selflearn "
            f"rollback {version}.",
            param="version",
            code="not_served",
        )
    if version == 0 and not held:
        raise Conflict(
            "The base model is never removed, so it needs no pin. To keep it in service: selflearn rollout pin 0 "
            "--hold.",
            param="version",
            code="base_model",
        )


def _meant(connection: sqlite3.Connection, learner: str, version: int | None) -> Pin:
    known = pins(connection, learner)
    numbers = ", ".join(str(each.version) for each in known) or "none"
    if version is not None:
        found = [each for each in known if each.version == version]
    else:
        found = [each for each in known if each.held] or known
    if len(found) == 1:
        return found[0]
    what = "Several versions are pinned" if found else "No such version is pinned"
    raise Conflict(f"{what}; pinned are: {numbers}. Nothing changed.", param="version", code="not_pinned")
