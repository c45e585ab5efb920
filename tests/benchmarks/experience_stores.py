"""Stores of any size for benchmarks: interactions as they come in, feedback on a part of them, and its examples."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from operator import methodcaller
from pathlib import Path
from random import Random
from typing import Any, Final

from selflearn.config import ExperienceSettings
from selflearn.experience.examples import Offer, Origin, add_example
from selflearn.store import Store, database_path
from selflearn.versions import ensure_learner
from tests.stores import LEARNER

#: Of so many interactions one is corrected, and of so many corrections one is still fresh.
CORRECTED: Final = 10
FRESH: Final = 20
TURNS: Final = 4  # of a conversation
SOURCES: Final = 20
_VOCABULARY: Final = 20_000
_CHUNK: Final = 5_000
_INTERACTION: Final = (
    "INSERT INTO interactions (id, learner, conversation, source, role, version, messages, answer, state,"
    " finish_reason, parameters, prompt_tokens, completion_tokens, created_at, completed_at)"
    " VALUES (?, ?, ?, ?, 'teacher', 0, ?, ?, 'completed', 'stop', ?, 60, 90, ?, ?)"
)
_FEEDBACK: Final = (
    "INSERT INTO feedback (id, learner, interaction_id, kind, text, source, role, digest, status, created_at)"
    " VALUES (?, ?, ?, 'correction', ?, ?, 'teacher', ?, 'accepted', ?)"
)
_PARAMETERS: Final = json.dumps({"model": "selflearn", "temperature": 0.7, "top_p": 1.0, "max_tokens": 256})


@dataclass(frozen=True, slots=True)
class Asked:
    """One interaction to be recorded."""

    id: str
    conversation: str
    source: str
    question: str
    answer: str

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.question}]


@cache
def _words() -> list[str]:
    """One language for all."""
    random = Random(0)
    return ["".join(random.choices("etaoinshrdlucmfw", k=random.randint(2, 9))) for _ in range(_VOCABULARY)]


@dataclass(frozen=True)
class Talk:
    """Random talk, the same for the same seed: some words are said often, most seldom, numbers now and then."""

    seed: int

    @cached_property
    def _random(self) -> Random:
        return Random(self.seed)

    def text(self, least: int, most: int) -> str:
        """So many words."""
        random, words = self._random, _words()
        said = [words[int(_VOCABULARY * random.random() ** 3)] for _ in range(random.randint(least, most))]
        if random.random() < 0.3:
            said[random.randrange(len(said))] = str(random.randrange(10_000))
        return " ".join(said)

    def asked(self, number: int) -> Asked:
        """One more interaction, with an id as the HTTP interface makes them."""
        random = self._random
        return Asked(
            f"chatcmpl-{random.getrandbits(128):032x}",
            f"conversation-{self.seed}-{number // TURNS}",
            f"key-{random.randrange(SOURCES)}",
            self.text(12, 40),
            self.text(40, 120),
        )


@dataclass(frozen=True, slots=True)
class Built:
    """How large the database is in bytes, with interactions alone and with all, and how many examples it has."""

    recorded_bytes: int
    bytes: int
    examples: int


def build(state: Path, interactions: int) -> Built:
    """Fills the store of a new state directory."""
    talk, settings = Talk(1), ExperienceSettings()
    chosen: list[tuple[int, Asked]] = []
    with Store.open(database_path(state)) as store:
        store.write(lambda connection: ensure_learner(connection, LEARNER, base_model="none", base_sha256="0" * 64))
        for chunk in _chunks(interactions):
            asked = [(number, talk.asked(number)) for number in chunk]
            store.write(methodcaller("executemany", _INTERACTION, list(_rows(asked))))
            chosen += [pair for pair in asked if pair[0] % CORRECTED == 0]
        recorded = _size(store)
        for start in range(0, len(chosen), _CHUNK):
            part = [(number, asked, talk.text(15, 60)) for number, asked in chosen[start : start + _CHUNK]]
            store.write(partial(_correct, part=part, settings=settings))
        return Built(recorded, _size(store), len(chosen))


def _chunks(number: int) -> Iterator[range]:
    return (range(start, min(start + _CHUNK, number)) for start in range(0, number, _CHUNK))


def _rows(asked: Sequence[tuple[int, Asked]]) -> Iterator[tuple[Any, ...]]:
    for number, one in asked:
        at = float(number)
        messages = json.dumps(one.messages)
        yield one.id, LEARNER, one.conversation, one.source, messages, one.answer, _PARAMETERS, at, at + 1.0


def _correct(
    connection: sqlite3.Connection, part: Sequence[tuple[int, Asked, str]], settings: ExperienceSettings
) -> None:
    """Adds feedback and its examples, and lets updates have trained most of them."""
    for number, asked, right in part:
        feedback_id, at = f"fb-{number:032x}", float(number)
        connection.execute(_FEEDBACK, (feedback_id, LEARNER, asked.id, right, asked.source, feedback_id, at))
        origin = Origin(LEARNER, feedback_id, asked.id, asked.conversation, asked.source, None, at)
        added = add_example(connection, origin, Offer("correction", "supervised", asked.messages, right), settings)
        if added.status == "accepted" and added.example_id % FRESH:
            connection.execute("UPDATE examples SET state = 'trained' WHERE id = ?", (added.example_id,))


def _size(store: Store) -> int:
    """Bytes of the database file, once the log is in it."""
    store.maintain(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    return store.path.stat().st_size
