"""Candidates that the gate did not promote: kept for a while, so that an operator may put one into service against it.

A kept candidate is sealed like a version, but lies in ``refused/`` and is registered nowhere. An operator's word makes
it a version like any other; its row says ``forced``, and the rollout log who wanted it and what the gate had said.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selflearn.errors import BadRequest, Conflict, RefusedByGate
from selflearn.experience import note_override, note_replays
from selflearn.store import rows
from selflearn.versions.adapters import seal
from selflearn.versions.files import remove_tree, sha256_file
from selflearn.versions.manifest import ADAPTER, verify
from selflearn.versions.names import refused_directory, version_directory, version_number, work_directory
from selflearn.versions.rollouts import Change, append, served

#: The states of an update whose candidate may be kept.
NOT_PROMOTED = ("refused", "inconclusive")


@dataclass(frozen=True, slots=True)
class Kept:
    """A candidate that is kept, and the size of its files."""

    update: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Override:
    """An update that an operator wants in service: what the gate said, and whether it said something else.

    It is not ``forced`` if the gate would have promoted it and only a dry run stood in the way.
    """

    update: int
    parent: int
    manifest_sha256: str
    said: str
    forced: bool


def kept_candidates(state: Path) -> list[Kept]:
    """The candidates that are kept, newest first."""
    directory = refused_directory(state, 0).parent
    entries = directory.iterdir() if directory.is_dir() else ()
    numbers = (number for entry in entries if (number := version_number(entry.name)) is not None)
    return [Kept(number, _size(refused_directory(state, number))) for number in sorted(numbers, reverse=True)]


def sweep_candidates(state: Path, keep: int) -> tuple[int, ...]:
    """Removes all kept candidates but the newest ``keep``; returns the numbers of those that went."""
    gone = tuple(kept.update for kept in kept_candidates(state)[keep:])
    for update in gone:
        remove_tree(refused_directory(state, update))
    return gone


def discard_unowned(connection: sqlite3.Connection, state: Path) -> tuple[int, ...]:
    """Removes kept candidates of updates that ended otherwise, as one that an override made a version before a kill."""
    asked = json.dumps([kept.update for kept in kept_candidates(state)]), json.dumps(NOT_PROMOTED)
    gone = rows(
        connection,
        "SELECT value FROM json_each(?) WHERE value NOT IN"
        " (SELECT id FROM updates WHERE state IN (SELECT value FROM json_each(?)))",
        asked,
    )
    for row in gone:
        remove_tree(refused_directory(state, row["value"]))
    return tuple(row["value"] for row in gone)


def was_not_promoted(connection: sqlite3.Connection, learner: str, update: int) -> bool:
    """Whether the number names an update that the gate judged and did not promote."""
    return _row(connection, learner, update) is not None


def check_override(
    connection: sqlite3.Connection, *, learner: str, state: Path, update: int, force: bool, reason: str
) -> Override:
    """Checks that the candidate of an update may come into service against the gate; changes nothing.

    Raises :class:`RefusedByGate` without ``force`` (which an update that a dry run held back does not need),
    ``BadRequest`` without a reason, :class:`Conflict` if its parent is not served any more or its candidate is not
    kept, and :class:`~selflearn.errors.VersionDamaged`.
    """
    row = _row(connection, learner, update)
    if row is None:
        raise Conflict(f"Update {update} has ended otherwise meanwhile. Nothing changed.", code="update_ended")
    forced = row["outcome"] != "promote"
    if forced and not force:
        raise RefusedByGate(
            f"The gate did not promote update {update} ({row['state']}: {row['reason']}). To serve it all the same: "
            f"selflearn rollout promote {update} --force --reason TEXT.",
            param="version",
            code="refused_by_gate",
        )
    if not reason.strip():
        raise BadRequest("An override needs a reason; expected some words.", param="reason", code="invalid_value")
    _check_parent(connection, learner, update, int(row["parent"]))
    return Override(
        update, int(row["parent"]), _verified(state, update, row), str(row["said"] or row["reason"]), forced
    )


def place_candidate(state: Path, update: int) -> Path:
    """Copies a kept candidate to its place among the versions, sealed; returns the directory.

    The kept one stays until the version is registered: a kill between the two loses nothing. Raises
    :class:`~selflearn.errors.VersionError`.
    """
    work, target = work_directory(state, update), version_directory(state, update)
    remove_tree(work)
    (work / "candidate").mkdir(parents=True)
    for path in refused_directory(state, update).iterdir():
        shutil.copyfile(path, work / "candidate" / path.name)
    seal(work / "candidate", target)
    remove_tree(work)
    return target


def register_override(
    connection: sqlite3.Connection,
    found: Override,
    *,
    learner: str,
    state: Path,
    actor: str,
    reason: str,
    now: Callable[[], float] = time.time,
) -> Change:
    """Makes the placed candidate a version and serves it: outcome, version, rollout, states, audit at once.

    Raises :class:`Conflict` if it, or what is served, changed since it was checked; nothing changed then.
    """
    if _row(connection, learner, found.update) is None:
        raise Conflict(f"Update {found.update} has ended otherwise meanwhile. Nothing changed.", code="update_ended")
    _check_parent(connection, learner, found.update, found.parent)
    at, update = now(), found.update
    told = f"forced by {actor}: {reason}" if found.forced else f"{reason}; it was held back by a dry run"
    told += f" (the gate said: {found.said})"
    connection.execute("UPDATE updates SET state = 'promoted', reason = ? WHERE id = ?", (told, update))
    connection.execute(
        "INSERT INTO versions (id, learner, parent, manifest_sha256, adapter_sha256, created_at, forced)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            update,
            learner,
            found.parent,
            found.manifest_sha256,
            sha256_file(version_directory(state, update) / ADAPTER),
            at,
            int(found.forced),
        ),
    )
    note_override(connection, update)
    note_replays(connection, update)
    append(connection, learner=learner, version=update, action="promote", actor=actor, reason=told, now=lambda: at)
    return Change(from_version=found.parent, to_version=update)


def override(
    connection: sqlite3.Connection,
    *,
    learner: str,
    state: Path,
    update: int,
    force: bool,
    actor: str,
    reason: str,
    now: Callable[[], float] = time.time,
    dry_run: bool = False,
) -> Change:
    """Does all of it in the caller's transaction, with no daemon: what cannot be served gives way at its next start.

    Raises as :func:`check_override`; nothing changed then. With ``dry_run`` it only checks.
    """
    found = check_override(connection, learner=learner, state=state, update=update, force=force, reason=reason)
    if dry_run:
        return Change(from_version=found.parent, to_version=update)
    directory = place_candidate(state, update)
    try:
        return register_override(connection, found, learner=learner, state=state, actor=actor, reason=reason, now=now)
    except BaseException:
        remove_tree(directory)
        raise


def _row(connection: sqlite3.Connection, learner: str, update: int) -> dict[str, Any] | None:
    """What is known of an update that was not promoted; None for every other number."""
    found = rows(
        connection,
        "SELECT state, parent, reason, json_extract(verdict, '$.outcome') AS outcome,"
        " json_extract(verdict, '$.reason') AS said, json_extract(report, '$.kept.manifest_sha256') AS manifest_sha256,"
        " json_extract(report, '$.measurements.nonfinite') AS nonfinite"
        " FROM updates WHERE id = ? AND learner = ? AND state IN (SELECT value FROM json_each(?))",
        (update, learner, json.dumps(NOT_PROMOTED)),
    )
    return found[0] if found else None


def _check_parent(connection: sqlite3.Connection, learner: str, update: int, parent: int) -> None:
    present = served(connection, learner)
    if present != parent:
        raise Conflict(
            f"Update {update} continues version {parent}, but version {present} is served now: it would take back what "
            "came since. Serve its parent first, or start a new update: selflearn learn now.",
            param="version",
            code="parent_not_served",
        )


def _verified(state: Path, update: int, row: dict[str, Any]) -> str:
    """The SHA-256 of the manifest of a kept candidate whose every byte is as it was sealed."""
    if json.loads(row["nonfinite"] or "[]"):
        raise Conflict(
            f"Update {update} holds numbers that are not finite, so it answers nothing and is never served.",
            param="version",
            code="not_finite",
        )
    if row["manifest_sha256"] is None or not refused_directory(state, update).is_dir():
        raise Conflict(
            f"The candidate of update {update} is not kept: the newest few are (judging.keep_refused). Start a new "
            "update: selflearn learn now.",
            param="version",
            code="candidate_not_kept",
        )
    verify(refused_directory(state, update), row["manifest_sha256"])
    return str(row["manifest_sha256"])


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
