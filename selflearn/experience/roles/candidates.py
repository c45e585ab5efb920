"""Candidates: which new examples an update may use, so that no source brings more than its share.

A source is a key (or an import): what one key sends in a flood must neither decide what an update learns nor keep out
what others said. The work is bounded by the settings, whatever the number of examples.
"""

from __future__ import annotations

import json
import math
import sqlite3
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from random import Random
from typing import Final

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.experience.examples import Example, load_examples
from selflearn.experience.roles.lines import served_version
from selflearn.experience.signals import OBJECTIVES
from selflearn.store import Store, rows

#: Sources that one update hears; of more, the seed chooses others each time.
MAX_SOURCES: Final = 256
#: Sources that are listed to choose from. Keys are made by operators, so there are never as many.
MAX_LISTED: Final = 4096

_SOURCES: Final = (
    "WITH RECURSIVE listed (source) AS ("
    " SELECT min(source) FROM examples INDEXED BY examples_by_source WHERE learner = :learner AND state = :state"
    " UNION ALL SELECT (SELECT min(source) FROM examples INDEXED BY examples_by_source"
    "  WHERE learner = :learner AND state = :state AND source > listed.source) FROM listed WHERE source IS NOT NULL)"
    " SELECT source FROM listed WHERE source IS NOT NULL LIMIT :limit"
)
_OF_SOURCE: Final = (
    "SELECT id FROM examples INDEXED BY examples_new"
    " WHERE learner = ? AND state = '{state}' AND source = ? AND objective = ? ORDER BY id LIMIT ?"
)
_LAST: Final = (
    "SELECT id, newest_example FROM updates WHERE learner = ? AND state NOT IN ('cancelled', 'interrupted')"
    " ORDER BY id DESC LIMIT 1"
)
_NEW: Final = (
    "SELECT count(*), min(id) FROM examples INDEXED BY examples_by_state"
    " WHERE learner = ? AND state = 'fresh' AND id > ?"
)


@dataclass(frozen=True, slots=True)
class Candidates:
    """The new examples of an update: ``fresh`` ones, and those that judged before and are ``due`` to train now.

    All of them are used. ``cap`` is the most that one source brings, ``capped`` how many sources have more than that.
    """

    fresh: tuple[Example, ...]
    due: tuple[Example, ...]
    cap: int
    capped: int


@dataclass(frozen=True, slots=True)
class _Offered:
    """Ids of one source's examples: each objective's oldest first, the objectives in turn."""

    due: list[int]
    fresh: list[int]

    def within(self, cap: int, room: int) -> _Offered:
        """No more than ``cap`` of them: what is due goes first, but leaves room for so many fresh ones."""
        due = self.due[: max(cap - min(room, len(self.fresh)), 0)]
        return _Offered(due, self.fresh[: cap - len(due)])


def new_examples(store: Store, learner: str) -> tuple[int, float]:
    """How many examples ask for an update, and when (unix seconds, or 0) the oldest of them came.

    After a promotion these are all fresh ones: what found no place in that update has its turn in the next. What an
    update was refused or inconclusive over is not tried again until something new comes: looking again and again at
    the same data would in the end find a pass by chance.
    """
    connection = store.connection()
    last = rows(connection, _LAST, (learner,))
    looked_at = last[0]["newest_example"] if last and last[0]["id"] != served_version(connection, learner) else 0
    number, first = connection.execute(_NEW, (learner, looked_at)).fetchone()
    came = rows(connection, "SELECT created_at FROM examples WHERE id = ?", (first,))
    return int(number), float(came[0]["created_at"]) if came else 0.0


def choose_candidates(
    connection: sqlite3.Connection, learner: str, judging: JudgingSettings, learning: LearningSettings, seed: int
) -> Candidates:
    """The new examples that an update uses, each source's oldest first and the sources in turn; changes nothing.

    Within a source its objectives take turns as well: a rating is a click, and a thousand of them must not keep a
    correction waiting. At most ``max_train_examples`` and those that must judge besides.
    """
    limit = learning.max_train_examples + judging.min_holdout
    most = max(learning.min_source_examples, math.floor(learning.max_source_share * limit))
    offered = _offered(connection, learner, most, seed)
    counts = [len(each.due) + len(each.fresh) for each in offered]
    cap = cap_of(counts, share=learning.max_source_share, least=learning.min_source_examples, limit=limit)
    within = [each.within(cap, min(judging.min_holdout + 1, cap // 2)) for each in offered]
    # What judged before never takes all places: without new judges there is no update, and it would wait for ever.
    due = _in_turn([each.due for each in within])[: max(learning.max_train_examples - 1, 1)]
    fresh = _in_turn([each.fresh for each in within])[: limit - len(due)]
    return Candidates(
        fresh=_load(connection, fresh),
        due=_load(connection, due),
        cap=cap,
        capped=sum(count > cap for count in counts),
    )


def cap_of(counts: Collection[int], *, share: float, least: int, limit: int) -> int:
    """The most that one source may bring, where ``counts`` are how many each of them has.

    It is the largest number that is no more than ``share`` of what all bring under it (at most ``limit``), but never
    less than ``least``.
    """

    def is_too_large(cap: int) -> bool:
        return cap > share * min(limit, sum(min(count, cap) for count in counts))

    # If a number is small enough then so is every smaller one: those that bring as many bring one less each.
    larger = range(least + 1, math.floor(share * limit) + 1)
    return least + bisect_left(larger, True, key=is_too_large)


def sources_in(connection: sqlite3.Connection, learner: str, state: str, limit: int = MAX_LISTED) -> list[str]:
    """The sources of the examples in a state, by name; one look at the index for each of them."""
    found = connection.execute(_SOURCES, {"learner": learner, "state": state, "limit": limit})
    return [str(row[0]) for row in found]


def _offered(connection: sqlite3.Connection, learner: str, most: int, seed: int) -> list[_Offered]:
    """What each source has to offer: of each state ``most`` and one that tells of more; sources in the seed's order."""
    names = sorted({*sources_in(connection, learner, "due"), *sources_in(connection, learner, "fresh")})
    chosen = Random(seed).sample(names, min(MAX_SOURCES, len(names)))

    def ids(state: str, source: str) -> list[int]:
        sql = _OF_SOURCE.format(state=state)  # in words: else SQLite would not know that the index has it
        asked = [(learner, source, objective, most + 1) for objective in OBJECTIVES]
        return _in_turn([[int(row[0]) for row in connection.execute(sql, given)] for given in asked])[: most + 1]

    return [_Offered(ids("due", source), ids("fresh", source)) for source in chosen]


def _in_turn(queues: Iterable[Sequence[int]]) -> list[int]:
    """The first of each queue, then the second of each, and so on."""
    return [number for turn in zip_longest(*queues) for number in turn if number is not None]


def _load(connection: sqlite3.Connection, ids: Sequence[int]) -> tuple[Example, ...]:
    condition = "examples.id IN (SELECT value FROM json_each(?)) ORDER BY examples.id"
    return tuple(load_examples(connection, condition, (json.dumps(ids),)))
