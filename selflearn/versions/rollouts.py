"""Rollouts: an append-only log that says what is served, and which version a part of the conversations tries.

The last row that promotes, rolls back or recovers names what is served. A canary runs as long as its row is the last
one and its time is not up, so every later change of what is served ends it. A row 'fail' changes nothing: it keeps
why a version did not come into service.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from selflearn.errors import Conflict, VersionDamaged, VersionError
from selflearn.experience import derive_states
from selflearn.experience.roles.lines import line_of, served_version
from selflearn.store import Store, rows
from selflearn.store.audit import write_audit
from selflearn.versions.manifest import verify
from selflearn.versions.names import version_directory
from selflearn.versions.pins import end_hold
from selflearn.versions.removal import named, removal_of, require_kept, unknown_version

Action = Literal["promote", "rollback", "recover"]
ACTOR: Final = "selflearn"
TIME_IS_UP: Final = "its time was up"

#: The actions that change what is served, and what each of them says when it ends a canary.
CHANGES: Final[dict[Action, str]] = {
    "promote": "version {} was promoted",
    "rollback": "rolled back to version {}",
    "recover": "version {} had to take over",
}


@dataclass(frozen=True, slots=True)
class Canary:
    """A version that a share of the conversations tries. Times are unix seconds; without ``until`` it has no end."""

    rollout: int
    version: int
    share: float
    since: float
    until: float | None
    actor: str
    reason: str

    def is_over(self, at: float) -> bool:
        """Whether its time is up."""
        return self.until is not None and at >= self.until


@dataclass(frozen=True, slots=True)
class Change:
    """A change of what is served: from one version to another (0 is the base model)."""

    from_version: int
    to_version: int


def served(connection: sqlite3.Connection, learner: str) -> int:
    """The version that is served; 0, the base, if there was no rollout yet."""
    return served_version(connection, learner)


def running_canary(connection: sqlite3.Connection, learner: str, at: float) -> Canary | None:
    """The canary that runs at a time, or None."""
    found = last_canary(connection, learner)
    return None if found is None or found.is_over(at) else found


def last_canary(connection: sqlite3.Connection, learner: str) -> Canary | None:
    """The canary that no rollout has ended yet, even if its time is up."""
    found = rows(
        connection,
        "SELECT id, version, action, share, created_at, until, actor, reason FROM rollouts"
        " WHERE learner = ? AND action != 'fail' ORDER BY id DESC LIMIT 1",
        (learner,),
    )
    if not found or found[0]["action"] != "canary":
        return None
    row = found[0]
    return Canary(
        rollout=row["id"],
        version=row["version"],
        share=row["share"],
        since=row["created_at"],
        until=row["until"],
        actor=row["actor"],
        reason=row["reason"],
    )


def append(
    connection: sqlite3.Connection,
    *,
    learner: str,
    version: int,
    action: Action,
    actor: str,
    reason: str,
    now: Callable[[], float] = time.time,
) -> int:
    """Appends a rollout and its audit row, derives the examples' states anew, and returns the rollout's id.

    A canary that runs is ended by a row of its own before, because what it was compared with is gone; but its own
    promotion needs no such row. So is a hold, but for what gives way to damage; :class:`Conflict` while a version is
    held against who acts by itself.
    """
    at = now()
    before = served(connection, learner)
    line = lineage(connection, version)
    if action != "recover":
        end_hold(connection, learner, actor=actor, because=CHANGES[action].format(version), at=at)
    running = last_canary(connection, learner)
    if running is not None and (action, version) != ("promote", running.version):
        end_canary(connection, learner, running, actor=actor, reason=CHANGES[action].format(version), at=at)
    rollout = write_row(
        connection, learner=learner, version=version, action=action, actor=actor, reason=reason, created_at=at
    )
    detail = {"learner": learner, "from": before, "to": version, "reason": reason}
    write_audit(connection, actor=actor, action=f"rollout.{action}", detail=detail, at=at)
    derive_states(connection, learner, line, line_of(connection, before))
    return rollout


def end_canary(
    connection: sqlite3.Connection, learner: str, running: Canary, *, actor: str, reason: str, at: float
) -> None:
    """Appends the row that ends a canary. If its time is up already, then that is the reason, and nobody's deed."""
    if running.is_over(at):
        actor, reason = ACTOR, TIME_IS_UP
    note(connection, learner=learner, version=running.version, action="abort", actor=actor, reason=reason, at=at)


def note(
    connection: sqlite3.Connection,
    *,
    learner: str,
    version: int,
    action: Literal["abort", "fail"],
    actor: str,
    reason: str,
    at: float,
) -> None:
    """Appends a row that does not change what is served, and its audit row."""
    write_row(connection, learner=learner, version=version, action=action, actor=actor, reason=reason, created_at=at)
    detail = {"learner": learner, "version": version, "reason": reason}
    write_audit(connection, actor=actor, action=f"rollout.{action}", detail=detail, at=at)


def write_row(connection: sqlite3.Connection, **row: Any) -> int:
    """Inserts a rollout, columns by name, and returns its id."""
    columns, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
    return int(connection.execute(f"INSERT INTO rollouts ({columns}) VALUES ({marks})", row).lastrowid or 0)


def history(store: Store, learner: str, limit: int = 100, before: int | None = None) -> list[dict[str, Any]]:
    """The rollouts, latest first; those before rollout ``before``, if one is named."""
    return store.read(
        "SELECT id, version, action, share, until, actor, reason, created_at FROM rollouts WHERE learner = ?"
        " AND (? IS NULL OR id < ?) ORDER BY id DESC LIMIT ?",
        (learner, before, before, limit),
    )


def rollouts_of(store: Store, learner: str, version: int) -> list[dict[str, Any]]:
    """Rollouts of the version, and those that led away from it (``from`` is what was served before)."""
    log = store.read("SELECT * FROM rollouts WHERE learner = ? ORDER BY id", (learner,))
    before = 0
    mentioned: list[dict[str, Any]] = []
    for row in log:
        changes = row["action"] in CHANGES
        if row["version"] == version or (changes and before == version):
            mentioned.append({"from": before, **{key: value for key, value in row.items() if key != "learner"}})
        before = row["version"] if changes else before
    return mentioned


def lineage(connection: sqlite3.Connection, version: int) -> tuple[int, ...]:
    """The version and its ancestors, nearest first, without 0; :class:`NotFound` if it was never promoted."""
    if version == 0:
        return ()
    line = line_of(connection, version)
    if not line:
        raise unknown_version(version)
    return line


def undo_target(connection: sqlite3.Connection, learner: str, to: int | None) -> int:
    """The version that a rollback leads to: ``to`` (0 is the base), or the one served before the present one.

    Promotions pile up, and going back takes them off again, so that repeated rollbacks lead down to the base, past
    those whose files were removed. Raises :class:`~selflearn.errors.NotFound` (never promoted), :class:`Conflict`
    (nothing to undo, served already) or :class:`~selflearn.errors.VersionRemoved`.
    """
    present = served(connection, learner)
    if to is None:
        below = kept_below(connection, learner)
        if not below:
            raise Conflict(
                "The base model is served: there is nothing to undo. Name a version to serve another one.",
                code="nothing_to_undo",
            )
        return below[0]
    if to != 0 and not rows(connection, "SELECT 1 FROM versions WHERE id = ? AND learner = ?", (to, learner)):
        raise unknown_version(to)
    if to == present:
        raise Conflict(f"Version {to} is served already; nothing changed.", param="to", code="already_served")
    require_kept(connection, to)
    return to


def kept_below(connection: sqlite3.Connection, learner: str) -> list[int]:
    """What repeated rollbacks lead to, the nearest first: empty if the base is served, else ending with it (0)."""
    return [version for version in reversed(_pile(connection, learner)[:-1]) if removal_of(connection, version) is None]


def roll_back(
    connection: sqlite3.Connection,
    *,
    learner: str,
    to: int | None,
    actor: str,
    reason: str,
    state: Path | None = None,
    expected: int | None = None,
    now: Callable[[], float] = time.time,
    dry_run: bool = False,
) -> Change:
    """Makes an earlier version (or the base) the served one, in the caller's transaction; no daemon is needed.

    With the ``state`` directory given, the target's own files are verified first: :class:`VersionDamaged` then means
    that nothing changed, and names the nearest intact version. With ``expected`` given, that version must still be
    served, so that two who go back at once go back once: else :class:`Conflict`. Otherwise raises as
    :func:`undo_target`. With ``dry_run`` it only checks, and a connection for reading will do.
    """
    before = served(connection, learner)
    if expected is not None and before != expected:
        raise Conflict(
            f"Version {before} is served now, and not version {expected} any more: somebody changed it meanwhile. "
            "Nothing changed; look at selflearn rollout history.",
            param="expected",
            code="served_changed",
        )
    target = undo_target(connection, learner, to)
    if state is not None:
        verify_target(connection, state, learner, target)
    if not dry_run:
        append(connection, learner=learner, version=target, action="rollback", actor=actor, reason=reason, now=now)
    return Change(from_version=before, to_version=target)


def verify_registered(connection: sqlite3.Connection, state: Path, version: int) -> None:
    """Checks a version's files against the hash in the database; the base has none.

    Raises :class:`VersionDamaged`, :class:`~selflearn.errors.VersionRemoved` or :class:`~selflearn.errors.NotFound`.
    """
    if version == 0:
        return
    found = rows(connection, "SELECT manifest_sha256 FROM versions WHERE id = ?", (version,))
    if not found:
        raise unknown_version(version)
    require_kept(connection, version)
    verify(version_directory(state, version), found[0]["manifest_sha256"])


def verify_target(connection: sqlite3.Connection, state: Path, learner: str, version: int) -> None:
    """:func:`verify_registered`, whose error proposes the nearest version that is intact."""
    try:
        verify_registered(connection, state, version)
    except VersionDamaged as error:
        present = served(connection, learner)
        others = (each for each in (*lineage(connection, version)[1:], 0) if each != present)
        intact = next((each for each in others if _is_intact(connection, state, each)), None)
        proposed = f" The nearest intact one: {named(intact)}." if intact is not None else ""
        raise VersionDamaged(f"{error} Nothing changed.{proposed}") from error


def _is_intact(connection: sqlite3.Connection, state: Path, version: int) -> bool:
    try:
        verify_registered(connection, state, version)
    except VersionError:
        return False
    return True


def _pile(connection: sqlite3.Connection, learner: str) -> list[int]:
    """What was served, bottom (the base) to top (now): a rollback to a version takes off all above it."""
    pile = [0]
    log = rows(connection, "SELECT version, action FROM rollouts WHERE learner = ? ORDER BY id", (learner,))
    for version in (int(row["version"]) for row in log if row["action"] in CHANGES):
        if version in pile:
            del pile[pile.index(version) + 1 :]
        else:
            pile.append(version)
    return pile
