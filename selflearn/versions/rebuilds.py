"""Rebuilds: which updates of the served line have to be made again after a forgetting, and how far that has come.

There is one rebuild per learner at most. It is a row, so that a daemon that was killed goes on with it, and so that
what was ordered without a daemon waits for one. A second forgetting takes over what the first has left to do.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from selflearn.errors import Conflict
from selflearn.store import rows

#: Who serves a clean version after a forgetting, and what triggers the updates that are made again.
ACTOR: Final = "rebuild"
#: Whoever else changes what is served is an operator, whose word ends the rebuild.
_AUTOMATIC: Final = ("gate", "rebuild", "selflearn", "watchdog")
#: An update whose worker fails is tried so often.
TRIES: Final = 2

Outcome = Literal["promoted", "refused", "inconclusive", "failed", "empty", "given up"]


@dataclass(frozen=True, slots=True)
class Remade:
    """What became of an update that was to be made again: the number that it has now, None if it was not tried."""

    update: int
    became: int | None
    outcome: Outcome
    reason: str | None


@dataclass(frozen=True, slots=True)
class Rebuild:
    """What is left to be made again, oldest first, and what was.

    It waits while somebody is ``erasing``. ``without`` are the examples that no update gets again. Of updates and
    rollouts those count that came after ``since_update`` and ``since_rollout``, but for updates that were ``ended``
    because a further forgetting came: they are tried again. ``certificates`` are to be followed by another one each
    when all is done.
    """

    began_at: float
    erasing: bool
    updates: tuple[int, ...]
    made: tuple[Remade, ...]
    without: tuple[int, ...]
    since_update: int
    since_rollout: int
    certificates: tuple[int, ...] = ()
    ended: tuple[int, ...] = ()


def open_rebuild(connection: sqlite3.Connection, learner: str) -> Rebuild | None:
    """The rebuild that is not finished yet, or None."""
    found = rows(connection, "SELECT value FROM settings_kv WHERE key = ?", (_key(learner),))
    if not found:
        return None
    values: dict[str, Any] = json.loads(found[0]["value"])
    values["made"] = tuple(Remade(**each) for each in values["made"])
    values |= {name: tuple(values[name]) for name in ("updates", "without", "certificates", "ended")}
    return Rebuild(**values)


def save_rebuild(connection: sqlite3.Connection, learner: str, rebuild: Rebuild | None) -> None:
    """Keeps a rebuild in the place of the one before; None ends it."""
    connection.execute("DELETE FROM settings_kv WHERE key = ?", (_key(learner),))
    if rebuild is not None:
        values = json.dumps(asdict(rebuild))
        connection.execute("INSERT INTO settings_kv (key, value) VALUES (?, ?)", (_key(learner), values))


def begin_rebuild(
    connection: sqlite3.Connection, learner: str, *, updates: Sequence[int], without: Collection[int], at: float
) -> Rebuild:
    """Puts updates before what an earlier rebuild has left to do; nothing is made until it is no longer ``erasing``."""
    before = open_rebuild(connection, learner)
    if before is None:
        before = Rebuild(at, True, (), (), (), _newest(connection, "updates"), _newest(connection, "rollouts"))
    else:
        before = note_outcome(connection, learner, before)
    rebuild = replace(
        before,
        erasing=True,
        updates=(*updates, *(number for number in before.updates if number not in updates)),
        without=tuple(sorted({*before.without, *without})),
    )
    save_rebuild(connection, learner, rebuild)
    return rebuild


def note_ended(connection: sqlite3.Connection, learner: str, update: int) -> None:
    """Writes down that an update is going to be ended for a forgetting, which is no word against what it makes."""
    found = open_rebuild(connection, learner)
    if found is not None:
        save_rebuild(connection, learner, replace(found, ended=(*found.ended, update)))


def note_outcome(connection: sqlite3.Connection, learner: str, rebuild: Rebuild) -> Rebuild:
    """Writes down what became of the update that was made again last, and whether an operator decided otherwise."""
    tried = rows(
        connection,
        "SELECT id, state, reason FROM updates WHERE learner = ? AND rebuild_of = ? AND id > ?"
        " AND id NOT IN (SELECT value FROM json_each(?)) ORDER BY id",
        (learner, rebuild.updates[0] if rebuild.updates else 0, rebuild.since_update, json.dumps(rebuild.ended)),
    )
    last = tried[-1] if tried else None
    found = rebuild
    if last is not None and last["state"] in ("promoted", "refused", "inconclusive"):
        found = pass_over(found, last["state"], last["reason"], became=last["id"])
    elif sum(row["state"] == "failed" for row in tried) >= TRIES:
        found = pass_over(found, "failed", tried[-1]["reason"], became=tried[-1]["id"])
    elif last is not None and last["state"] == "cancelled":
        found = _given_up(found, last["reason"])
    if _operator_decided(connection, learner, rebuild.since_rollout):
        found = _given_up(found, "an operator changed what is served meanwhile")
    if found != rebuild:
        save_rebuild(connection, learner, found)
    return found


def pass_over(rebuild: Rebuild, outcome: Outcome, reason: str | None, became: int | None = None) -> Rebuild:
    """The rebuild with its next update done, with this outcome."""
    done = Remade(rebuild.updates[0], became, outcome, reason)
    return replace(rebuild, updates=rebuild.updates[1:], made=(*rebuild.made, done))


def require_no_rebuild(connection: sqlite3.Connection, learner: str) -> None:
    """Raises :class:`Conflict` while a rebuild is not finished: what it makes belongs below all that is new."""
    found = open_rebuild(connection, learner)
    if found is not None:
        raise Conflict(
            f"{waiting_words(found)}: new updates start when that is done. See: selflearn learn status. To do without "
            "what is left of it: selflearn learn cancel while it runs.",
            code="rebuilding",
        )


def waiting_words(rebuild: Rebuild) -> str:
    """What new updates wait for."""
    left = ", ".join(map(str, rebuild.updates)) or "none"
    return f"versions are made again without what was forgotten (updates left: {left})"


def rebuild_status(connection: sqlite3.Connection, learner: str) -> dict[str, Any] | None:
    """``{"began_at", "left", "made", "certificate"}`` of the rebuild that is not finished; None if there is none."""
    found = open_rebuild(connection, learner)
    if found is None:
        return None
    return {
        "began_at": found.began_at,
        "left": list(found.updates),
        "made": [asdict(each) for each in found.made],
        "certificate": max(found.certificates, default=None),
    }


def _given_up(rebuild: Rebuild, reason: str | None) -> Rebuild:
    left = tuple(Remade(number, None, "given up", reason) for number in rebuild.updates)
    return replace(rebuild, updates=(), made=(*rebuild.made, *left))


def _operator_decided(connection: sqlite3.Connection, learner: str, since: int) -> bool:
    marks = ", ".join("?" for _ in _AUTOMATIC)
    sql = (
        "SELECT 1 FROM rollouts WHERE learner = ? AND id > ? AND action IN ('promote', 'rollback')"
        f" AND actor NOT IN ({marks}) LIMIT 1"
    )
    return bool(rows(connection, sql, (learner, since, *_AUTOMATIC)))


def _newest(connection: sqlite3.Connection, table: str) -> int:
    return int(rows(connection, f"SELECT coalesce(max(id), 0) AS newest FROM {table}")[0]["newest"])


def _key(learner: str) -> str:
    return f"rebuild:{learner}"
