"""Streams of tasks, one after another, to learn from and to be asked about: intents, texts, and facts."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

DATA = Path(__file__).parents[3] / "shared" / "data"
FACTS = Path(__file__).with_name("facts.jsonl")
INTENT_QUESTION = "Which intent has this request? "
CLASS_QUESTION = {
    "agnews": "Which topic has this news? ",
    "amazon": "How does this customer feel? ",
    "dbpedia": "What is this text about? ",
}
LONGEST_TEXT = 400


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and the answer to it."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Task:
    """One step of a stream: what trains, what judges the update, and what it is asked in the end.

    ``trained`` are questions that trained, asked again; ``unseen`` ones are asked only.
    """

    name: str
    train: tuple[Pair, ...]
    judging: tuple[Pair, ...]
    unseen: tuple[Pair, ...]

    @property
    def trained(self) -> tuple[Pair, ...]:
        return self.train


@dataclass(frozen=True, slots=True)
class Size:
    """How many tasks, and how many examples of each class train, judge and are asked."""

    tasks: int
    train: int
    judging: int
    unseen: int


def clinc(size: Size, seed: int) -> list[Task]:
    """Domains of CLINC150, each with its 15 intents; the seed chooses their order and the examples."""
    random = Random(seed)
    by_split = {split: _grouped(DATA / "clinc150" / f"{split}.jsonl") for split in ("train", "val", "test")}
    domains = random.sample(sorted(by_split["train"]), size.tasks)

    def pairs(split: str, domain: str, count: int) -> tuple[Pair, ...]:
        by_intent: dict[str, list[str]] = defaultdict(list)
        for row in by_split[split][domain]:
            by_intent[row["intent"]].append(row["text"])
        return tuple(
            Pair(INTENT_QUESTION + text, intent)
            for intent in sorted(by_intent)
            for text in random.sample(by_intent[intent], count)
        )

    return [
        Task(
            domain,
            pairs("train", domain, size.train),
            tuple(random.sample(pairs("val", domain, 4), size.judging)),
            pairs("test", domain, size.unseen),
        )
        for domain in domains
    ]


def cl3(size: Size, seed: int) -> list[Task]:
    """The three classification tasks of the standard continual-learning benchmark; the seed chooses their order."""
    random = Random(seed)

    def pairs(name: str, split: str) -> list[Pair]:
        rows = read(DATA / "cl3" / f"{name}.{split}.jsonl")
        return [Pair(CLASS_QUESTION[name] + row["sentence"][:LONGEST_TEXT].strip(), row["label"]) for row in rows]

    tasks = []
    for name in random.sample(sorted(CLASS_QUESTION), size.tasks):
        rows = random.sample(pairs(name, "train"), size.train + size.judging)
        asked = random.sample(pairs(name, "test"), size.unseen)
        tasks.append(Task(name, tuple(rows[: size.train]), tuple(rows[size.train :]), tuple(asked)))
    return tasks


def facts(size: Size, seed: int) -> list[Task]:
    """Invented facts, taught in ``size.train`` phrasings each; the phrasings that are asked never train."""
    by_topic: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read(FACTS):
        by_topic[row["topic"]].append(row)
    topics = Random(seed).sample(sorted(by_topic), size.tasks)

    def pairs(topic: str, phrasings: Callable[[dict[str, Any]], Sequence[str]]) -> tuple[Pair, ...]:
        return tuple(Pair(question, row["answer"]) for row in by_topic[topic] for question in phrasings(row))

    return [
        Task(
            topic,
            pairs(topic, lambda row: row["taught"][: size.train]),
            pairs(topic, lambda row: [row["judging"]]),
            pairs(topic, lambda row: row["held_back"]),
        )
        for topic in topics
    ]


STREAMS: dict[str, tuple[Callable[[Size, int], list[Task]], Size, Size]] = {
    # name: how it is made, short and full size
    "clinc": (clinc, Size(tasks=3, train=4, judging=16, unseen=3), Size(tasks=10, train=20, judging=48, unseen=10)),
    "cl3": (cl3, Size(tasks=3, train=60, judging=16, unseen=60), Size(tasks=3, train=600, judging=48, unseen=300)),
    "facts": (facts, Size(tasks=3, train=3, judging=1, unseen=2), Size(tasks=5, train=3, judging=1, unseen=2)),
}


def _grouped(path: Path) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read(path):
        grouped[row["domain"]].append(row)
    return grouped


def read(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        sys.exit(f"{path} is absent. This stream reads it; run the others with --streams facts.")
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
