"""Replay: which of the examples that a line has learned are shown to it again.

Four strata share the places: what was replayed least, every source alike, the latest, and any of them alike. Each is
drawn by look-ups in an index at random ids, so that a sample costs the same from a thousand examples and a million.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from random import Random
from typing import Any, Final

from selflearn.experience.examples import Example, load_examples
from selflearn.experience.roles.candidates import sources_in

#: Sources of which one sample draws; of more, the seed chooses others each time.
MAX_SOURCES: Final = 64
#: Of the latest so many times the places, as many as there are places are drawn.
RECENT: Final = 4
#: Draws per place that look for one at random ids; what is smaller than that is listed and shuffled.
DRAWS: Final = 8

_EXCLUDED: Final = (
    "SELECT id FROM examples INDEXED BY examples_by_cluster"
    " WHERE learner = :learner AND cluster IN (SELECT value FROM json_each(:clusters)) AND state = 'trained'"
)


@dataclass(slots=True)
class _Sample:
    """Ids that were drawn, without replacement and without the ``excluded`` ones."""

    excluded: set[int]
    ids: set[int] = field(default_factory=set)

    def take(self, found: Iterable[int], number: int) -> None:
        """Takes so many more of what is found, or all that there is."""
        wanted = len(self.ids) + number
        if number <= 0:
            return
        for example_id in found:
            if example_id not in self.excluded:
                self.ids.add(example_id)
            if len(self.ids) >= wanted:
                return


@dataclass(frozen=True, slots=True)
class _Index:
    """A part of the trained examples that an index holds in the order of their ids."""

    connection: sqlite3.Connection
    name: str
    condition: str
    parameters: dict[str, Any]

    def find(self, more: str, **given: Any) -> Iterator[int]:
        """Ids that meet a further condition, with its order and limit."""
        # The index is named: without statistics SQLite may as well walk the table from an id on.
        sql = f"SELECT id FROM examples INDEXED BY {self.name} WHERE {self.condition} {more}"
        return (int(row[0]) for row in self.connection.execute(sql, {**self.parameters, **given}))

    def random_ids(self, random: Random, number: int) -> Iterator[int]:
        """Random numbers between the least and the greatest id."""
        ends = [*self.find("ORDER BY id LIMIT 1"), *self.find("ORDER BY id DESC LIMIT 1")]
        return (random.randint(ends[0], ends[1]) for _ in range(number if ends else 0))

    def draw(self, random: Random, places: int) -> Iterator[int]:
        """All of them, in an order that is random as far as ``places`` reach; some come more than once.

        One that follows a gap between ids comes sooner than others.
        """
        few = list(self.find("ORDER BY id LIMIT :limit", limit=DRAWS * places))
        if len(few) < DRAWS * places:
            random.shuffle(few)
            yield from few
            return
        for start in self.random_ids(random, DRAWS * places):
            yield from self.find("AND id >= :start ORDER BY id LIMIT 1", start=start)
        for start in self.random_ids(random, 1):
            yield from self.find("AND id >= :start ORDER BY id", start=start)
            yield from self.find("AND id < :start ORDER BY id", start=start)

    def draw_evenly(self, random: Random, places: int) -> Iterator[int]:
        """As :meth:`draw`, but each is as likely as every other: a random id that is none of them is passed over."""
        for example_id in self.random_ids(random, DRAWS * places):
            yield from self.find("AND id = :id", id=example_id)
        yield from self.draw(random, places)


def sample_replay(
    connection: sqlite3.Connection, learner: str, *, excluded: Collection[str], limit: int, seed: int
) -> list[Example]:
    """A sample of the trained examples outside the ``excluded`` clusters, by id: ``limit``, or all if there are fewer.

    The same for the same rows and seed.
    """
    random, places = Random(seed), limit // 4
    given = {"learner": learner, "clusters": json.dumps(sorted(excluded))}
    sample = _Sample({int(row[0]) for row in connection.execute(_EXCLUDED, given)})
    trained = _trained(connection, learner)
    sample.take(_rarely_replayed(connection, learner, random, places), places)
    sample.take(_of_each_source(connection, learner, random, places), places)
    sample.take(_recent(trained, random, places), places)
    rest = limit - len(sample.ids)
    sample.take(trained.draw_evenly(random, rest), rest)
    condition = "examples.id IN (SELECT value FROM json_each(?)) ORDER BY examples.id"
    return load_examples(connection, condition, (json.dumps(sorted(sample.ids)),))


def note_replays(connection: sqlite3.Connection, update_id: int) -> None:
    """Counts that a version replayed its examples; others come first next time."""
    connection.execute(
        "UPDATE examples SET replays = replays + 1 WHERE id IN"
        " (SELECT example_id FROM update_examples WHERE update_id = ? AND role = 'replay')",
        (update_id,),
    )


def take_back_replays(connection: sqlite3.Connection, updates: Collection[int]) -> None:
    """Uncounts the replays of versions that are as if they had never been."""
    connection.execute(
        "UPDATE examples SET replays = max(0, replays - counted.number) FROM"
        " (SELECT example_id, count(*) AS number FROM update_examples WHERE role = 'replay'"
        "  AND update_id IN (SELECT value FROM json_each(?)) GROUP BY example_id) AS counted"
        " WHERE examples.id = counted.example_id",
        (json.dumps(sorted(updates)),),
    )


def _trained(connection: sqlite3.Connection, learner: str) -> _Index:
    return _Index(connection, "examples_by_state", "learner = :learner AND state = 'trained'", {"learner": learner})


def _recent(trained: _Index, random: Random, places: int) -> list[int]:
    """The latest ones in a random order."""
    latest = list(trained.find("ORDER BY id DESC LIMIT :limit", limit=RECENT * places))
    random.shuffle(latest)
    return latest


def _rarely_replayed(connection: sqlite3.Connection, learner: str, random: Random, places: int) -> Iterator[int]:
    """Those that were replayed least, level by level, at random within a level."""
    condition = "learner = :learner AND state = 'trained' AND replays = :replays"
    replays = _next_level(connection, learner, -1)
    while replays is not None:
        given = {"learner": learner, "replays": replays}
        yield from _Index(connection, "examples_by_replays", condition, given).draw(random, places)
        replays = _next_level(connection, learner, replays)


def _next_level(connection: sqlite3.Connection, learner: str, above: int) -> int | None:
    """The least number of replays beyond ``above`` that a trained example has."""
    sql = (
        "SELECT min(replays) FROM examples INDEXED BY examples_by_replays"
        " WHERE learner = ? AND state = 'trained' AND replays > ?"
    )
    level: int | None = connection.execute(sql, (learner, above)).fetchone()[0]
    return level


def _of_each_source(connection: sqlite3.Connection, learner: str, random: Random, places: int) -> Iterator[int]:
    """One of each source in turn, and again."""
    names = sources_in(connection, learner, "trained")
    chosen = random.sample(names, min(MAX_SOURCES, len(names)))
    condition = "learner = :learner AND state = 'trained' AND source = :source"
    draws = [
        _Index(connection, "examples_by_source", condition, {"learner": learner, "source": name}).draw(
            random, places // len(chosen) + 1
        )
        for name in chosen
    ]
    for turn in zip_longest(*draws):
        yield from (found for found in turn if found is not None)
