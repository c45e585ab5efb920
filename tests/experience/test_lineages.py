"""Invariant 3 over whole lines: no version is judged on what it or an ancestor trained on, nor on the likes of it."""

from __future__ import annotations

import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from selflearn.config import ExperienceSettings, JudgingSettings, LearningSettings
from selflearn.errors import NotEnoughExamples
from selflearn.experience.curation.near_duplicates import alike
from selflearn.experience.examples import Offer, Origin, add_example
from selflearn.experience.signals import Kind
from selflearn.versions.rollouts import lineage
from tests.stores import LEARNER, Bench, open_bench

SYLLABLES = (
    "ba",
    "du",
    "fel",
    "gro",
    "hin",
    "jas",
    "kum",
    "lor",
    "mip",
    "nax",
    "oth",
    "pre",
    "qui",
    "rud",
    "sev",
    "tow",
)


def words(number: int) -> str:
    """A sentence of words that no other number has."""
    random = Random(number)
    return " ".join("".join(random.choices(SYLLABLES, k=3)) for _ in range(8))


def asked(number: int, way: int) -> str:
    """A question in one of three spellings, which are near duplicates of each other."""
    text = words(number)
    return (f"{text}?", f"{text.capitalize()} ...", f"{text}x?")[way]


def test_the_spellings_are_near_duplicates() -> None:
    similarity = ExperienceSettings().near_duplicate_similarity
    assert all(alike(asked(number, 0), asked(number, way), similarity) for number in range(41) for way in (1, 2))
    assert not alike(asked(0, 0), asked(1, 0), similarity)


QUESTIONS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2), st.integers(0, 2)), min_size=3, max_size=6)


class Lives(RuleBasedStateMachine):
    """Random lives of a learner: questions in many spellings, ratings, updates, refusals, rollbacks back and forth."""

    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.bench: Bench = open_bench(
            Path(self.directory.name),
            judging=JudgingSettings(min_holdout=2, max_holdout=3, max_retained=4),
            experience=ExperienceSettings(reserve_share=0.4, max_reserve=3),
            learning=LearningSettings(max_train_examples=6, max_replay_examples=4),
        )
        self.versions = [0]
        #: By update, what it was judged on and what it learned from: clusters as they were when it began.
        self.judged: dict[int, set[str]] = {}
        self.learned: dict[int, set[str]] = {}
        self.origin = Origin(LEARNER, "said", None, "", "local", None, 0.0)
        self.bench.store.write(
            lambda c: c.execute(
                "INSERT INTO feedback (id, learner, kind, source, role, digest, status, created_at)"
                " VALUES ('said', ?, 'demonstration', 'local', 'operator', '', 'accepted', 0)",
                (LEARNER,),
            )
        )
        self.add("correction", [(number, 0, 0) for number in range(8)], "")

    def add(self, kind: Kind, questions: list[tuple[int, int, int]], conversation: str) -> None:
        def work(connection: sqlite3.Connection) -> None:
            for number, way, answer in questions:
                origin = replace(self.origin, conversation=conversation or f"about {number}")
                messages = [{"role": "user", "content": asked(number, way)}]
                offer = Offer(kind, "supervised", messages, f"{words(1000 + answer)}, {number}.")
                add_example(connection, origin, offer, self.bench.experience)

        self.bench.store.write(work)

    @rule(questions=QUESTIONS, conversation=st.sampled_from(["", "", "one long chat"]))
    def correct(self, questions: list[tuple[int, int, int]], conversation: str) -> None:
        self.add("correction", questions, conversation)

    @rule(questions=QUESTIONS)
    def up_rate(self, questions: list[tuple[int, int, int]]) -> None:
        self.add("rating", questions, "")

    @rule(questions=QUESTIONS, seed=st.integers(0, 5), promoted=st.sampled_from([True, True, True, False]))
    def update(self, questions: list[tuple[int, int, int]], seed: int, promoted: bool) -> None:
        self.add("correction", questions, "")
        try:
            update_id = self.bench.begin_update(seed)
        except NotEnoughExamples:
            return
        self.judged[update_id] = self.clusters(update_id, "holdout", "retained")
        self.learned[update_id] = self.clusters(update_id, "train", "replay")
        if promoted:
            self.bench.promote(update_id)
            self.versions.append(update_id)
        else:
            self.bench.refuse(update_id)

    @precondition(lambda self: len(self.versions) > 1)
    @rule(seed=st.integers(0, 99))
    def roll(self, seed: int) -> None:
        to = Random(seed).choice([version for version in self.versions if version != self.bench.served()])
        self.bench.roll_back(to)

    def clusters(self, update_id: int, *roles: str) -> set[str]:
        found = self.bench.store.read(
            "SELECT role, cluster FROM update_examples JOIN examples ON examples.id = example_id WHERE update_id = ?",
            (update_id,),
        )
        return {row["cluster"] for row in found if row["role"] in roles}

    @invariant()
    def no_version_is_judged_on_what_its_line_trained_on(self) -> None:
        if not hasattr(self, "bench"):
            return
        parents = {row["id"]: row["parent"] for row in self.bench.store.read("SELECT id, parent FROM updates")}
        for update_id in parents:
            ancestor = update_id
            while ancestor:
                both = self.judged[update_id] & self.learned[ancestor]
                assert not both, f"update {update_id} is judged on what {ancestor} trained on"
                ancestor = parents[ancestor]

    @invariant()
    def the_reserve_is_bounded_and_never_learned(self) -> None:
        if not hasattr(self, "bench"):
            return
        reserve = {number for number, state in self.bench.states().items() if state == "reserve"}
        assert len(reserve) <= 3
        learned = self.bench.store.read("SELECT example_id FROM update_examples WHERE role IN ('train', 'replay')")
        assert not reserve & {row["example_id"] for row in learned}

    @invariant()
    def states_follow_from_what_is_served(self) -> None:
        if not hasattr(self, "bench"):
            return
        line = lineage(self.bench.store.connection(), self.bench.served())
        found = self.bench.store.read("SELECT update_id, example_id FROM update_examples WHERE role = 'train'")
        trained = {row["example_id"] for row in found if row["update_id"] in line}
        for number, state in self.bench.states().items():
            if state != "quarantined":
                assert (state == "trained") == (number in trained)

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            self.bench.store.close()
            self.directory.cleanup()


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
