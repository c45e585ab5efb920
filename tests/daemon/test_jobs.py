"""From what people say to a judged candidate: every kind of feedback teaches, alone and together with the others."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch

from selflearn.config import ExperienceSettings, JudgingSettings, LearningSettings
from selflearn.daemon.jobs import Base, make_job
from selflearn.experience import Snapshot, choose_roles
from selflearn.experience.signals import OBJECTIVES, Objective
from selflearn.judging import Limits, Measurements, Verdict, decide
from selflearn.learning.job import Job, read_job, write_job
from selflearn.learning.update import run
from selflearn.versions import served, version_directory
from selflearn.versions.rollouts import lineage
from tests.daemons import Lab, rows
from tests.rows import question
from tests.stores import LEARNER, Bench

LEARNING = LearningSettings(
    rank=4, passes=5, batch_size=4, threads=1, learning_rate=1e-2, fisher_sequences=4, anchor_batch=1, patience=8
)
#: Lenient: what is asked here is whether it learns.
JUDGING = JudgingSettings(
    answer_tokens=8,
    min_match=-9,
    max_holdout=8,
    max_retained_rise=5,
    max_anchor_rise=9,
    max_kl_drift=9,
    max_weight_drift=9,
)

#: What is taught by each of two updates: a good answer and a bad one.
ANSWERS = (
    ("the capital of France is Paris", "the lazy dog sleeps"),
    ("water boils at 100 degrees", "run selflearn rollback"),
)
#: New examples of an update: eight of them judge.
LESSONS = 24


def say(bench: Bench, objective: Objective, number: int) -> None:
    """Gives feedback that becomes an example of this objective, on an answer to a question of its own."""
    good, bad = ANSWERS[number // LESSONS % 2]
    given: dict[Objective, tuple[str, str, dict[str, Any]]] = {
        "supervised": (bad, "correction", {"text": f"{good} {number % 3}"}),
        "unpaired_preference": (bad, "rating", {"value": -1}),
        "paired_preference": (f"{bad} {number % 3}", "preference", {"text": good}),
        "reward_weighted": (f"{good} {number % 2}", "reward", {"value": 1.0 if number % 2 else 0.25}),
        "hindsight": (f"{good} {number % 3}", "comment", {"text": "answer in words"}),
    }
    answer, kind, more = given[objective]
    bench.feedback(bench.interaction(question(number), answer), kind, **more)


@dataclass(frozen=True, slots=True)
class Judged:
    """An update as its worker and the gate saw it."""

    snapshot: Snapshot
    measured: Measurements
    verdict: Verdict
    candidate: Path

    def gain(self, objective: Objective) -> float:
        """How far the mean loss of a kind fell on those that judged."""
        judges = sorted(self.snapshot.holdout, key=lambda example: example.id)  # as the worker takes them
        losses = zip(judges, self.measured.holdout_parent, self.measured.holdout_candidate, strict=True)
        return mean(before - after for example, before, after in losses if example.objective == objective)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads on so small a model only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory for what is computed once about the tiny model."""
    return tmp_path_factory.mktemp("jobs")


def job_of(state: Path, tiny_model: Path, parent: int, snapshot: Snapshot) -> Job:
    return make_job(
        state,
        update=parent + 1,
        parent=parent,
        seed=parent + 1,
        snapshot=snapshot,
        learner=LEARNER,
        base=Base("tiny", tiny_model, "b" * 64, "cpu", "float32"),
        learning=LEARNING,
        judging=JUDGING,
        rate_factor=1.0,
    )


def update(bench: Bench, shared: Path, tiny_model: Path, folder: Path, judging: JudgingSettings = JUDGING) -> Judged:
    """Chooses, trains, judges and promotes, as a daemon does."""
    connection = bench.store.connection()
    parent = served(connection, LEARNER)
    bench.judging = judging
    line = lineage(connection, parent)
    snapshot = choose_roles(connection, LEARNER, lineage=line, judging=judging, learning=LEARNING, seed=parent)
    job = replace(job_of(bench.store.path.parent, tiny_model, parent, snapshot), cache_directory=str(shared / "cache"))
    write_job(job, folder)
    report = run(read_job(folder), folder, lambda *_, **__: None)
    assert report["left_out"] == []
    measured = Measurements.from_dict(report["measurements"])
    bench.promote(bench.begin_update(seed=parent))
    directory = version_directory(bench.store.path.parent, parent + 1)
    shutil.copytree(folder / "candidate", directory)
    return Judged(snapshot, measured, decide(measured, Limits.of(JUDGING)), directory)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_kind_alone_is_learned_judged_and_kept(
    objective: Objective, bench: Bench, shared: Path, tiny_model: Path, tmp_path: Path
) -> None:
    bench.experience = ExperienceSettings(reserve_share=0.0)
    for turn in range(2):
        for number in range(turn * LESSONS, (turn + 1) * LESSONS):
            say(bench, objective, number)
        judged = update(bench, shared, tiny_model, tmp_path / str(turn))
        assert {example.objective for found in judged.snapshot.roles().values() for example in found} == {objective}
        assert judged.gain(objective) > 0
        assert judged.verdict.outcome == "promote", judged.verdict.reason
    assert len(judged.measured.retained_parent) == 8
    assert judged.snapshot.replay


def test_ratings_alone_are_learned(bench: Bench, shared: Path, tiny_model: Path, tmp_path: Path) -> None:
    bench.experience = ExperienceSettings(reserve_share=0.2)
    for number in range(32):
        value = 1 if number % 2 else -1
        answer = ANSWERS[0][0] if number % 2 else ANSWERS[0][1]
        bench.feedback(bench.interaction(question(number), answer), "rating", value=value)
    judged = update(bench, shared, tiny_model, tmp_path / "1")
    assert judged.verdict.outcome == "promote", judged.verdict.reason
    assert {example.objective for example in judged.snapshot.train} == {"supervised", "unpaired_preference"}


def test_all_kinds_are_learned_together(bench: Bench, shared: Path, tiny_model: Path, tmp_path: Path) -> None:
    for number in range(60):
        say(bench, OBJECTIVES[number % len(OBJECTIVES)], number)
    many = JUDGING.model_copy(update={"holdout_share": 0.4, "max_holdout": 24})
    judged = update(bench, shared, tiny_model, tmp_path / "1", many)
    assert judged.verdict.outcome == "promote", judged.verdict.reason
    assert {example.objective for example in judged.snapshot.holdout} == set(OBJECTIVES)
    for objective in OBJECTIVES:
        assert judged.gain(objective) > 0, objective


def test_a_job_says_of_each_example_what_its_objective_needs(bench: Bench, tiny_model: Path, tmp_path: Path) -> None:
    for number in range(24):
        say(bench, OBJECTIVES[number % len(OBJECTIVES)], number)
    connection = bench.store.connection()
    snapshot = choose_roles(connection, LEARNER, lineage=(), judging=JUDGING, learning=LEARNING, seed=0)
    write_job(job_of(tmp_path, tiny_model, 0, snapshot), tmp_path / "job")
    said = {(e.objective, e.target, e.rejected, e.value) for e in read_job(tmp_path / "job").examples}
    good, bad = ANSWERS[0]
    expected: set[tuple[Any, ...]] = {("supervised", f"{good} {n}", bad, 1.0) for n in range(3)}
    expected |= {("paired_preference", good, f"{bad} {n}", 1.0) for n in range(3)}
    expected |= {("unpaired_preference", bad, None, -1.0)}
    expected |= {("reward_weighted", f"{good} 1", None, 1.0), ("reward_weighted", f"{good} 0", None, 0.25)}
    expected |= {("hindsight", f"{good} {n}", None, 1.0) for n in range(3)}
    assert said == expected


SAID = (
    {"kind": "correction", "text": "the answer is Paris"},
    {"kind": "rating", "value": -1},
    {"kind": "preference", "text": "the answer is Paris"},
    {"kind": "reward", "value": 0.5},
    {"kind": "comment", "text": "answer in words"},
)


def test_a_daemon_learns_from_all_that_people_say(lab: Lab) -> None:
    state = lab.state("kinds")
    with lab.daemon(state, JUDGING__HOLDOUT_SHARE="0.4") as daemon:
        for number in range(30):
            asked = daemon.ask(question(number))
            response = daemon.post("/v1/feedback", interaction_id=asked.id, **SAID[number % len(SAID)])
            assert (response.status_code, response.json()["status"]) == (201, "accepted")
        assert daemon.get("/admin/learn")["fresh"] == 30
        found = daemon.await_update(daemon.learn())
        assert found["state"] == "promoted", found["reason"]
        states = daemon.get("/admin/data/stats")["examples"]
        assert states == {"trained": 18, "held": 12}
        assert all(daemon.metric(f'selflearn_examples{{state="{state}"}}') == n for state, n in states.items())
    trained = rows(state, "SELECT DISTINCT objective FROM examples WHERE state = 'trained' ORDER BY 1")
    assert [row["objective"] for row in trained] == sorted(OBJECTIVES)
