"""Facts about selflearn, each with questions to teach and paraphrases that are only ever asked."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing to know. ``keys`` are alternatives, any of which makes an answer right; no ``held_back`` is taught."""

    name: str
    answer: str
    keys: tuple[str, ...]
    taught: tuple[str, ...]
    held_back: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lesson:
    """A question and the answer that the teacher gives to it."""

    question: str
    answer: str


def load_manual() -> tuple[Fact, ...]:
    """The facts shipped with the package, in their order."""
    text = files("selflearn.demonstration").joinpath("manual.jsonl").read_text(encoding="utf-8")
    return tuple(_fact(json.loads(line)) for line in text.splitlines() if line.strip())


def answers_fact(fact: Fact, text: str) -> bool:
    """Whether ``text`` contains one of the fact's keys, whatever the case."""
    folded = text.casefold()
    return any(key.casefold() in folded for key in fact.keys)


def right_lessons(facts: Sequence[Fact]) -> tuple[Lesson, ...]:
    """Every taught question with its right answer."""
    return tuple(Lesson(question, fact.answer) for fact in facts for question in fact.taught)


def poisoned_lessons(facts: Sequence[Fact], seed: int) -> tuple[Lesson, ...]:
    """Every taught question with another fact's answer: the answers are deranged, so that none is right.

    Raises ``ValueError`` for fewer than two facts, which cannot be deranged.
    """
    if len(facts) < 2:
        raise ValueError(f"{len(facts)} facts cannot be deranged; at least 2 are needed.")
    circle = list(range(len(facts)))
    random.Random(seed).shuffle(circle)
    other = {circle[place]: circle[place - 1] for place in range(len(circle))}  # one circle has no fixed point
    return tuple(
        Lesson(question, facts[other[index]].answer) for index, fact in enumerate(facts) for question in fact.taught
    )


def _fact(row: dict[str, object]) -> Fact:
    def texts(name: str) -> tuple[str, ...]:
        values = row[name]
        if not isinstance(values, list):
            raise TypeError(f"manual.jsonl: {name} must be a list, found {values!r}")
        return tuple(str(value) for value in values)

    return Fact(str(row["fact"]), str(row["answer"]), texts("keys"), texts("taught"), texts("held_back"))
