"""Which examples there were when an update began, as far as the record tells.

The record keeps the present state of an example, not its past ones. What is known exactly: which examples existed (an
update notes the newest), and which of them an update used. From that follows when those that are in quarantine now
went there: not before the last update that used them. What learning itself did to examples is undone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from selflearn.backtest.history import History
from selflearn.experience import state_of
from selflearn.store import rows

#: Where examples are before they come: no update looks there.
_HIDDEN: Final = "quarantined"
LATER: Final = "later"

_USES: Final = (
    "SELECT example_id, min(update_id) AS first, max(update_id) AS last,"
    " sum(role = 'retained') > 0 AND sum(role IN ('train', 'holdout', 'replay')) = 0 AS only_retained"
    " FROM update_examples WHERE update_id >= ? GROUP BY example_id"
)
_LEFT_OUT: Final = (
    "SELECT updates.id, json_extract(entry.value, '$.id') AS example, json_extract(entry.value, '$.reason') AS reason"
    " FROM updates, json_each(updates.report, '$.left_out') AS entry WHERE updates.id >= ? AND updates.report NOT NULL"
)


@dataclass(frozen=True, slots=True)
class Stay:
    """From which replayed update on an example is there, and after which recorded one it goes to quarantine."""

    example: int
    first: int
    reserve: bool
    last: int | None = None
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """The stays of all examples that the replay may use, and how many it cannot, by reason."""

    stays: tuple[Stay, ...]
    missing: Mapping[str, int]

    def coming(self, update: int) -> list[Stay]:
        """Those that are there from this update on."""
        return [stay for stay in self.stays if stay.first == update]

    def going(self, before: int, update: int) -> list[Stay]:
        """Those that went to quarantine after update ``before`` (or one that is not replayed) and before ``update``."""
        return [stay for stay in self.stays if stay.last is not None and before <= stay.last < update]


@dataclass(frozen=True, slots=True)
class _Use:
    first: int
    last: int
    only_retained: bool


def read_timeline(connection: sqlite3.Connection, history: History) -> Timeline:
    """Derives the timeline from a copy of the record, before anything in it is undone."""
    first = history.updates[0].number
    uses = {
        row["example_id"]: _Use(row["first"], row["last"], bool(row["only_retained"]))
        for row in rows(connection, _USES, (first,))
    }
    by_learning: dict[int, set[str]] = {}
    for row in rows(connection, _LEFT_OUT, (first,)):
        by_learning.setdefault(row["example"], {"refused"}).add(row["reason"])
    found = rows(
        connection,
        "SELECT id, state, reason, detail, vouched FROM examples WHERE learner = ? ORDER BY id",
        (history.learner,),
    )
    stays: list[Stay] = []
    missing = {"forgotten": 0, "quarantined": 0, "released": 0}
    for row in found:
        stay = _stay(row, uses.get(row["id"]), by_learning.get(row["id"], {"refused"}), history)
        if isinstance(stay, Stay):
            stays.append(stay)
        elif stay is not None:
            missing[stay] += 1
    return Timeline(tuple(stays), {reason: number for reason, number in missing.items() if number})


def _stay(row: Mapping[str, Any], use: _Use | None, by_learning: set[str], history: History) -> Stay | str | None:
    """The stay of an example, or in a word why it has none; None for what was never in any of the updates' reach."""
    number, state, comes = row["id"], row["state"], _comes(row["id"], use, history)
    if comes is None:
        return None
    if state == "forgotten":
        return "forgotten" if use is not None else None
    if row["vouched"]:  # it came out of the quarantine: not before the first update that used it
        first = None if use is None else _next(use.first, history)
        return "released" if use is None or first is None else Stay(number, first, use.only_retained)
    if state != "quarantined":
        return Stay(number, comes, state == "reserve")
    if use is None:
        return "quarantined"
    if row["reason"] in by_learning:
        return Stay(number, comes, use.only_retained)
    return Stay(number, comes, use.only_retained, use.last, row["reason"], row["detail"])


def _comes(example: int, use: _Use | None, history: History) -> int | None:
    """The first replayed update at whose start the example was there, or None.

    An update may have been noted with fewer examples than there were (a schema step lowers the number, to have older
    examples looked at again), but what it used was there.
    """
    noted = next((update.number for update in history.updates if update.newest_example >= example), None)
    used = None if use is None else _next(use.first, history)
    return min((number for number in (noted, used) if number is not None), default=None)


def _next(number: int, history: History) -> int | None:
    """The first replayed update that is not before ``number``."""
    return next((update.number for update in history.updates if update.number >= number), None)


def hide_all(connection: sqlite3.Connection, learner: str) -> None:
    """Takes every example but the forgotten ones out of reach, and what learning noted about them with it."""
    connection.execute(
        "UPDATE examples SET state = ?, reason = ?, detail = NULL,"
        " refusals = (SELECT count(*) FROM update_examples AS ue JOIN updates ON updates.id = ue.update_id"
        "  WHERE ue.example_id = examples.id AND ue.role = 'train' AND updates.state = 'refused'),"
        " replays = (SELECT count(*) FROM update_examples AS ue JOIN versions ON versions.id = ue.update_id"
        "  WHERE ue.example_id = examples.id AND ue.role = 'replay')"
        " WHERE learner = ? AND state != 'forgotten'",
        (_HIDDEN, LATER, learner),
    )


def bring(connection: sqlite3.Connection, learner: str, stays: Sequence[Stay]) -> None:
    """Lets examples come: in the reserve, or in the state that follows from their roles in the line."""
    with_roles = {row["example_id"] for row in rows(connection, "SELECT DISTINCT example_id FROM update_examples")}
    states = []
    for stay in stays:
        state = state_of(connection, learner, stay.example) if stay.example in with_roles else "fresh"
        states.append(("reserve" if stay.reserve and state == "fresh" else state, stay.example))
    connection.executemany("UPDATE examples SET state = ?, reason = NULL WHERE id = ?", states)


def take_away(connection: sqlite3.Connection, stays: Sequence[Stay]) -> None:
    """Puts into quarantine what was put there in the meantime."""
    connection.executemany(
        "UPDATE examples SET state = 'quarantined', reason = ?, detail = ? WHERE id = ? AND state != 'forgotten'",
        [(stay.reason, stay.detail, stay.example) for stay in stays],
    )
