"""Retention: which versions' files stay, and why; the others go.

What has to stay is computed from the tables in the same transaction that marks the rest as removed, so no version comes
into service, is pinned or is continued between the two. Of the served line every version of some distance stays, less
and less densely towards the base: a rebuild without something that is forgotten starts from one of them.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from selflearn.config import VersionsSettings
from selflearn.experience.roles.lines import line_of
from selflearn.store import Store, rows
from selflearn.versions.names import version_directory, version_name
from selflearn.versions.pins import pinned
from selflearn.versions.removal import directory_bytes, discard_directory, discard_removed, mark_removed, nearest_kept
from selflearn.versions.rollouts import CHANGES, kept_below, last_canary, served

ACTOR: Final = "retention"
DAY: Final = 86_400.0
#: Of the versions of the served line that are n to 2n updates old, so many stay. A rebuild that has to begin n updates
#: ago then makes at most n / CHECKPOINTS updates more than it must.
CHECKPOINTS: Final = 4


@dataclass(frozen=True, slots=True)
class Kept:
    """A version whose files stay, and why: stable words, see :func:`reasons_to_keep`."""

    version: int
    name: str
    because: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gone:
    """A version whose files went, or would, and their size."""

    version: int
    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a sweep did, or would do."""

    removed: tuple[Gone, ...]
    kept: tuple[Kept, ...]
    dry_run: bool


def prune(
    store: Store,
    state: Path,
    learner: str,
    settings: VersionsSettings,
    *,
    actor: str = ACTOR,
    now: Callable[[], float] = time.time,
    dry_run: bool = False,
) -> Pruned:
    """Removes the files of every version that nothing needs. The rows stay, and say so before the files go.

    Finishes, besides, what a sweep that was killed had begun. A dry run only says what would go.
    """
    at = now()
    if dry_run:
        kept, old = plan(store.connection(), learner, settings, at)
        return Pruned(tuple(_gone(old, lambda number: directory_bytes(version_directory(state, number)))), kept, True)

    def decide(connection: sqlite3.Connection) -> tuple[tuple[Kept, ...], list[int]]:
        decided = plan(connection, learner, settings, at)
        mark_removed(connection, decided[1], because="retention", actor=actor, at=at)
        return decided

    kept, old = store.write(decide)
    removed = tuple(_gone(old, lambda number: discard_directory(state, number)))
    discard_removed(store.connection(), state)
    return Pruned(removed, kept, False)


def plan(
    connection: sqlite3.Connection, learner: str, settings: VersionsSettings, at: float
) -> tuple[tuple[Kept, ...], list[int]]:
    """The versions whose files stay, and the numbers of those whose files may go; both oldest first."""
    sql = "SELECT id FROM versions WHERE learner = ? AND removed_at IS NULL ORDER BY id"
    there = [int(row["id"]) for row in rows(connection, sql, (learner,))]
    reasons = reasons_to_keep(connection, learner, there, settings, at)
    kept = [Kept(number, version_name(number), tuple(reasons[number])) for number in there if number in reasons]
    return tuple(kept), [number for number in there if number not in reasons]


def reasons_to_keep(
    connection: sqlite3.Connection, learner: str, there: list[int], settings: VersionsSettings, at: float
) -> dict[int, list[str]]:
    """Why versions stay: ``served``, ``rollback`` (where one leads to), ``ancestor`` (what serves if it is damaged),
    ``pinned``, ``canary``, ``update`` (a running one continues it), ``last``, ``recent``, ``checkpoint``."""
    present = served(connection, learner)
    canary = last_canary(connection, learner)
    running = rows(connection, "SELECT parent FROM updates WHERE learner = ? AND state = 'running'", (learner,))
    line = line_of(connection, present)
    in_service = _last_in_service(connection, learner)
    oldest = at - settings.keep_days * DAY if settings.keep_days else 0.0
    found: dict[str, set[int]] = {
        "served": {present},
        "rollback": set(kept_below(connection, learner)[:1]),
        "ancestor": {nearest_kept(connection, line[1])} if len(line) > 1 else set(),
        "pinned": pinned(connection, learner),
        "canary": set() if canary is None else {canary.version},
        "update": {int(row["parent"]) for row in running},
        "last": set(there[-settings.keep_last :]),
        "recent": {number for number in there if in_service.get(number, at) >= oldest},
        "checkpoint": _checkpoints(line),
    }
    reasons: dict[int, list[str]] = {}
    for reason, numbers in found.items():
        for number in numbers & set(there):
            reasons.setdefault(number, []).append(reason)
    return reasons


def _checkpoints(line: tuple[int, ...]) -> set[int]:
    """Of a line (nearest first) those that stay for a rebuild.

    A version that is a updates old stays if its place, counted from the base, is a multiple of the largest power of two
    up to a / ``CHECKPOINTS``. As it grows older that only gets stricter: nothing that went is missed later.
    """
    kept = set()
    for age, version in enumerate(line):
        step = 1 << max(0, (age // CHECKPOINTS).bit_length() - 1)
        if (len(line) - age) % step == 0:
            kept.add(version)
    return kept


def _last_in_service(connection: sqlite3.Connection, learner: str) -> dict[int, float]:
    """When (unix seconds) each version last came into service, as canary too, or gave way to another one."""
    last: dict[int, float] = {}
    before = 0
    log = rows(connection, "SELECT version, action, created_at FROM rollouts WHERE learner = ? ORDER BY id", (learner,))
    for row in log:
        last[row["version"]] = row["created_at"]
        if row["action"] in CHANGES:
            last[before] = row["created_at"]
            before = row["version"]
    return last


def _gone(numbers: list[int], size: Callable[[int], int]) -> list[Gone]:
    return [Gone(number, version_name(number), size(number)) for number in numbers]
