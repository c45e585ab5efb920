"""The line of versions that is served, as the tables say: all that this room reads of what belongs to versions."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Final

from selflearn.store import rows

#: The rollout that decides what is served; the learner is its only parameter.
LAST_CHANGE: Final = (
    "SELECT version, action, created_at FROM rollouts"
    " WHERE learner = ? AND action IN ('promote', 'rollback', 'recover') ORDER BY id DESC LIMIT 1"
)
_LINE: Final = (
    "WITH RECURSIVE line (id, parent) AS ("
    " SELECT id, parent FROM versions WHERE id = ?"
    " UNION SELECT versions.id, versions.parent FROM versions JOIN line ON versions.id = line.parent)"
    " SELECT id FROM line ORDER BY id DESC"
)


def served_version(connection: sqlite3.Connection, learner: str) -> int:
    """The version that is served; 0, the base, if there was no rollout yet."""
    found = rows(connection, LAST_CHANGE, (learner,))
    return int(found[0]["version"]) if found else 0


def line_of(connection: sqlite3.Connection, version: int) -> tuple[int, ...]:
    """The version and its ancestors, nearest first, without 0; nothing for the base and what was never promoted."""
    return tuple(int(row["id"]) for row in rows(connection, _LINE, (version,)))


def descendants_of(connection: sqlite3.Connection, versions: Collection[int]) -> tuple[int, ...]:
    """What continues any of the versions (0: all that there are), oldest first, without themselves."""
    family = set(versions)
    # A version is made after its parent: in the order of their numbers, one look at each is enough.
    oldest = min(family, default=0)
    for row in rows(connection, "SELECT id, parent FROM versions WHERE id > ? ORDER BY id", (oldest,)):
        if row["parent"] in family:
            family.add(int(row["id"]))
    return tuple(sorted(family.difference(versions)))
