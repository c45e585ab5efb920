"""Forgetting that reaches the weights: versions that saw what is to be forgotten go, and a clean one serves at once.

Before anything is deleted, one transaction serves the newest version that knows nothing of it, marks all others as
removed, and notes which updates have to be made again without it (:mod:`selflearn.versions.rebuilds`). Then their
files go, then the data. What makes them again is the daemon.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from selflearn.errors import VersionError
from selflearn.experience import take_back_replays
from selflearn.experience.keeping.erasing import IN_LIST
from selflearn.experience.keeping.forgetting import forget as forget_data
from selflearn.experience.keeping.forgetting import versions_with
from selflearn.experience.keeping.selection import Selector
from selflearn.experience.roles.lines import line_of
from selflearn.experience.texts import sha256
from selflearn.store import Store, rows
from selflearn.versions.certificates import described, tombstones_of, write_certificate
from selflearn.versions.files import remove_tree
from selflearn.versions.names import refused_directory
from selflearn.versions.rebuilds import ACTOR, begin_rebuild, note_ended, open_rebuild, save_rebuild
from selflearn.versions.removal import discard_directory, mark_removed
from selflearn.versions.rollouts import append, end_canary, last_canary, served, verify_registered

_COUNTED: Final = ("interactions", "feedback", "examples", "emptied", "imports")
#: Where texts of people may lie in a state directory, besides the database and what copies of it list.
_PLACES: Final = ("versions", "refused", "work", "cache")
#: Files with tensors hold no texts, and are large.
_WITHOUT_TEXTS: Final = ".safetensors"


@dataclass(slots=True)
class _Clearing:
    """The versions of one forgetting that had to go, collected over its rounds. ``at`` is its time."""

    store: Store
    state: Path
    learner: str
    at: float
    rebuild: bool
    withdraw: Callable[[Collection[int]], None]
    end_update: Callable[[int], None]
    gone: set[int] = field(default_factory=set)
    remakes: set[int] = field(default_factory=set)
    ended: list[int] = field(default_factory=list)

    def retire(self, examples: Collection[int]) -> None:
        """Takes out of service, and away, what saw one of the examples. Calling it again finds what came since."""
        found = self.store.write(lambda connection: self._retire(connection, examples))
        if found:
            for update in self._running_on(found):
                self.end(update)
            self.withdraw(found)
            self.gone |= found
        for version in found:
            discard_directory(self.state, version)
        for update in self._kept_candidates(examples):
            remove_tree(refused_directory(self.state, update))

    def end(self, update: int) -> None:
        """Ends a running update."""
        self.store.write(lambda connection: note_ended(connection, self.learner, update))
        self.end_update(update)
        self.ended.append(update)

    def _retire(self, connection: sqlite3.Connection, examples: Collection[int]) -> set[int]:
        affected = versions_with(connection, examples)
        went = "SELECT id FROM versions WHERE removed_because = 'forgotten'"
        found = affected - {int(row["id"]) for row in rows(connection, went)}
        if examples and open_rebuild(connection, self.learner) is not None:  # it must not take them up meanwhile
            begin_rebuild(connection, self.learner, updates=(), without=_used(connection, examples), at=self.at)
        if not found:
            return set()
        present = served(connection, self.learner)
        line = line_of(connection, present)
        clean = _newest_intact(connection, self.state, [version for version in line if version not in affected])
        lost = [version for version in reversed(line) if version > clean] if present in affected else []
        _mark(connection, found, self.at)
        if lost:
            reason = f"version {present} had learned what was to be forgotten"
            append(
                connection,
                learner=self.learner,
                version=clean,
                action="rollback",
                actor=ACTOR,
                reason=reason,
                now=lambda: self.at,
            )
            take_back_replays(connection, lost)
        _end_canary(connection, self.learner, found, self.at)
        connection.execute(f"DELETE FROM pins WHERE version {IN_LIST}", (json.dumps(sorted(found)),))
        if self.rebuild and lost:
            begin_rebuild(connection, self.learner, updates=lost, without=_used(connection, examples), at=self.at)
            self.remakes |= set(lost)
        return found

    def _running_on(self, versions: Collection[int]) -> list[int]:
        """Running updates that continue one of the versions: nothing of them may come into service."""
        sql = f"SELECT id FROM updates WHERE state = 'running' AND parent {IN_LIST}"
        return [int(row["id"]) for row in self.store.read(sql, (json.dumps(sorted(versions)),))]

    def _kept_candidates(self, examples: Collection[int]) -> list[int]:
        """Updates that used one of the examples and whose candidate is kept without being a version."""
        used = f"SELECT DISTINCT update_id FROM update_examples WHERE example_id {IN_LIST}"
        found = self.store.read(used, (json.dumps(sorted(examples)),))
        candidates = [int(row["update_id"]) for row in found]
        continued = self.store.read(f"SELECT id FROM updates WHERE parent {IN_LIST}", (json.dumps(sorted(self.gone)),))
        candidates += [int(row["id"]) for row in continued]
        return [update for update in dict.fromkeys(candidates) if refused_directory(self.state, update).exists()]


def forget(
    store: Store,
    state: Path,
    learner: str,
    selector: Selector,
    *,
    actor: str,
    reason: str,
    now: Callable[[], float],
    end_update: Callable[[int], None],
    withdraw: Callable[[Collection[int]], None] = lambda versions: None,
    copies: Callable[[], list[str]] = list,
    rebuild: bool = True,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Forgets what ``selector`` means in the store and in the weights; returns what was done.

    That is what :func:`selflearn.experience.keeping.forgetting.forget` returns, and ``versions_gone``, ``to_rebuild``
    (updates of the line that was served, to be made again; none without ``rebuild``), ``serves`` (the version that is
    served now), ``copies`` and ``certificate`` (its number; None if there was nothing to forget). ``withdraw`` serves
    what the log says and lets go of versions. Raises as that function does.
    """
    at = now()
    clearing = _Clearing(store, state, learner, at, rebuild, withdraw, end_update)
    try:
        done = forget_data(
            store,
            learner,
            selector,
            actor=actor,
            reason=reason,
            now=lambda: at,
            end_update=clearing.end,
            before_erasing=clearing.retire,
            files=lambda: _files_with_texts(state),
            dry_run=dry_run,
        )
        found = {**done, "copies": copies(), "certificate": None}
        if dry_run:
            return {**found, **_would(store.connection(), learner, found, rebuild)}
        found["updates_ended"] = sorted(set(clearing.ended))
        found |= {"versions_gone": sorted(clearing.gone), "to_rebuild": sorted(clearing.remakes)}
        if any(done[name] for name in _COUNTED) or clearing.gone:
            document = _document(store, learner, selector, found, actor, at)
            found["certificate"] = store.write(lambda it: _certify(it, learner, document, actor, now()))
    finally:
        if not dry_run:
            end_broken_off(store, learner)
    return {**found, "serves": served(store.connection(), learner)}


def retire_again(store: Store, state: Path, learner: str, examples: Collection[int], at: float) -> None:
    """Takes away, from a copy that nobody serves, what saw examples that were forgotten since it was made."""
    _Clearing(store, state, learner, at, True, lambda versions: None, lambda update: None).retire(examples)
    end_broken_off(store, learner)


def end_broken_off(store: Store, learner: str) -> bool:
    """Lets a rebuild begin whose forgetting is over; whether there was one that waited for that.

    Called at the start of a daemon, it finds one that was broken off. What is clean serves already then, and what is
    made again gets none of the examples that were to go; but they have to be forgotten once more.
    """

    def work(connection: sqlite3.Connection) -> bool:
        found = open_rebuild(connection, learner)
        if found is None or not found.erasing:
            return False
        save_rebuild(connection, learner, replace(found, erasing=False))
        return True

    return store.write(work)


def _would(connection: sqlite3.Connection, learner: str, found: dict[str, Any], rebuild: bool) -> dict[str, Any]:
    """What would come of it, for a dry run."""
    gone = sorted({*found["learned_by"], *found["continued_by"]})
    present = served(connection, learner)
    again = sorted(set(gone) & set(line_of(connection, present))) if rebuild and found["serving"] else []
    serves = found["rollback_to"] if found["serving"] else present
    return {"versions_gone": gone, "to_rebuild": again, "serves": serves}


def _newest_intact(connection: sqlite3.Connection, state: Path, versions: list[int]) -> int:
    """The first of these whose files are there and as they were; 0 if none is."""
    for version in versions:
        try:
            verify_registered(connection, state, version)
        except VersionError:
            continue
        return version
    return 0


def _mark(connection: sqlite3.Connection, versions: Collection[int], at: float) -> None:
    """Marks them as forgotten, also those whose files retention has removed before: their rows say what they knew."""
    mark_removed(connection, sorted(versions), because="forgotten", actor=ACTOR, at=at)
    listed = json.dumps(sorted(versions))
    connection.execute(f"UPDATE versions SET removed_because = 'forgotten' WHERE id {IN_LIST}", (listed,))


def _end_canary(connection: sqlite3.Connection, learner: str, versions: Collection[int], at: float) -> None:
    running = last_canary(connection, learner)
    if running is not None and running.version in versions:
        reason = "it had learned what was to be forgotten"
        end_canary(connection, learner, running, actor=ACTOR, reason=reason, at=at)


def _used(connection: sqlite3.Connection, examples: Collection[int]) -> list[int]:
    sql = f"SELECT DISTINCT example_id FROM update_examples WHERE example_id {IN_LIST}"
    return [int(row["example_id"]) for row in rows(connection, sql, (json.dumps(sorted(examples)),))]


def _files_with_texts(state: Path) -> Iterator[Path]:
    for place in _PLACES:
        for path in sorted((state / place).rglob("*")):
            if path.is_file() and path.suffix != _WITHOUT_TEXTS:
                yield path


def _document(
    store: Store, learner: str, selector: Selector, found: dict[str, Any], actor: str, at: float
) -> dict[str, Any]:
    connection = store.connection()
    return {
        "state": "rebuilding" if found["to_rebuild"] else "finished",
        "follows": None,
        "asked": {"by": selector.by, "sha256": sha256(selector.value), "actor": actor, "at": at},
        "counts": {name: found[name] for name in _COUNTED},
        "tombstones": tombstones_of(connection, learner, actor, at),
        "versions": described(connection, found["versions_gone"]),
        "judged": sorted(set(found["judged"]) - set(found["versions_gone"])),
        "updates_ended": found["updates_ended"],
        "to_rebuild": found["to_rebuild"],
        "log_emptied": found["log_emptied"],
        "traces": found["traces"],
        "copies": found["copies"],
    }


def _certify(connection: sqlite3.Connection, learner: str, document: dict[str, Any], actor: str, at: float) -> int:
    """Writes the certificate, and lets the rebuild begin that another one will tell the end of."""
    rebuild = open_rebuild(connection, learner)
    number = write_certificate(connection, learner, document, actor=actor, at=at)
    if rebuild is not None:
        named = (*rebuild.certificates, number) if document["to_rebuild"] else rebuild.certificates
        save_rebuild(connection, learner, replace(rebuild, erasing=False, certificates=named))
    return number
