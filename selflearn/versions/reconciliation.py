"""At the start: what a killed daemon left behind is put in order, and what is served is checked.

Only for a process that holds the state directory: it takes every running update and request for dead.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from selflearn.errors import VersionDamaged, VersionRemoved
from selflearn.experience import interrupt_interactions
from selflearn.store import Store, rows
from selflearn.store.audit import write_audit
from selflearn.versions.files import remove_tree, sync
from selflearn.versions.names import version_directory, version_name, version_number, versions_directory
from selflearn.versions.overrides import discard_unowned
from selflearn.versions.registry import close_update
from selflearn.versions.removal import discard_removed
from selflearn.versions.rollouts import append, lineage, served, verify_registered

_ACTOR = "selflearn"


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What was found: ids of interrupted updates, removed directories, damaged versions, and what is served now.

    ``unknown`` names version directories that no update of this database made (it was restored or lost); they are
    left alone, and their numbers are not used again.
    """

    interrupted: tuple[int, ...]
    interrupted_interactions: int
    removed: tuple[str, ...]
    unknown: tuple[str, ...]
    damaged: tuple[int, ...]
    served: int


def reconcile(store: Store, state_dir: Path, learner: str, now: Callable[[], float] = time.time) -> Reconciliation:
    """Ends what was running, removes what no version owns, and serves the newest intact version of the line."""
    interrupted, requests = store.write(lambda connection: _interrupt(connection, learner, now))
    removed, unknown = _clear(store, state_dir)
    damaged, present = store.write(lambda connection: _recover(connection, state_dir, learner, now))
    return Reconciliation(interrupted, requests, removed, unknown, damaged, present)


def _interrupt(connection: sqlite3.Connection, learner: str, now: Callable[[], float]) -> tuple[tuple[int, ...], int]:
    found = rows(connection, "SELECT id FROM updates WHERE learner = ? AND state = 'running'", (learner,))
    ids = tuple(int(row["id"]) for row in found)
    for update_id in ids:
        reason = "the daemon ended while it ran"
        close_update(connection, update_id, state="interrupted", report=None, verdict=None, reason=reason, now=now)
        write_audit(connection, actor=_ACTOR, action="update.interrupted", detail={"update": update_id}, at=now())
    return ids, interrupt_interactions(connection, learner, now())


def _clear(store: Store, state_dir: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Removes all work and every version directory that its update did not come to register, or that was to go."""
    registered = {int(row["id"]) for row in store.read("SELECT id FROM versions")}
    updates = {int(row["id"]) for row in store.read("SELECT id FROM updates WHERE state != 'running'")}
    removed = [f"versions/{version_name(number)}" for number in discard_removed(store.connection(), state_dir)]
    removed += [f"refused/{version_name(number)}" for number in discard_unowned(store.connection(), state_dir)]
    unknown: list[str] = []
    for path in _entries(state_dir / "work"):
        remove_tree(path)
        removed.append(str(path.relative_to(state_dir)))
    for path in _entries(versions_directory(state_dir)):
        number = version_number(path.name)
        if number is None or number in registered:
            continue
        if number in updates:
            remove_tree(path)
            removed.append(str(path.relative_to(state_dir)))
        else:
            unknown.append(path.name)
    if unknown:
        taken = max(version_number(name) or 0 for name in unknown)
        store.write(lambda connection: _skip_numbers(connection, taken))
    for parent in {(state_dir / name).parent for name in removed}:
        sync(parent)
    return tuple(removed), tuple(unknown)


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _skip_numbers(connection: sqlite3.Connection, taken: int) -> None:
    """Lets the next update have a number beyond ``taken``, whose directory exists already."""
    if not rows(connection, "SELECT 1 FROM sqlite_sequence WHERE name = 'updates'"):
        connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('updates', 0)")
    connection.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'updates'", (taken,))


def _recover(
    connection: sqlite3.Connection, state_dir: Path, learner: str, now: Callable[[], float]
) -> tuple[tuple[int, ...], int]:
    """The damaged versions on the way, and the version that is served in the end (0: the base needs no files)."""
    present = served(connection, learner)
    damaged: list[int] = []
    intact, problem = 0, ""
    for version in lineage(connection, present):
        try:
            verify_registered(connection, state_dir, version)
        except VersionDamaged as error:
            damaged.append(version)
            problem = problem or str(error)
        except VersionRemoved as error:
            problem = problem or str(error)
        else:
            intact = version
            break
    if intact != present:
        reason = f"version {present} cannot be served: {problem}"
        append(connection, learner=learner, version=intact, action="recover", actor=_ACTOR, reason=reason, now=now)
    return tuple(damaged), intact


def served_directory(store: Store, state_dir: Path, learner: str) -> tuple[int, Path | None]:
    """The served version and where its files lie (None for the base)."""
    version = served(store.connection(), learner)
    return version, version_directory(state_dir, version) if version else None
