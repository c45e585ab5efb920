"""The worker as a process: a job folder in, a candidate and a report out."""

from __future__ import annotations

import dataclasses
import itertools
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.errors import WorkerFailed
from selflearn.experience.signals import Objective
from selflearn.judging import Limits, Measurements, decide
from selflearn.learning.job import Job, JobExample, Role, read_job, write_job
from selflearn.learning.process import Cancelled, Worker
from selflearn.learning.update import run
from selflearn.learning.worker import noted_nondeterminism
from selflearn.models.adapter import attach_saved, probe_logits
from selflearn.models.base import load_base
from selflearn.models.chat import probe_ids

PAUSE_SECONDS = 0.5
LEARNING = LearningSettings(rank=4, passes=6, batch_size=4, threads=1, learning_rate=1e-2, fisher_sequences=8)


def example(number: int, role: Role) -> JobExample:
    messages = [{"role": "user", "content": f"question number {number}"}]
    return JobExample(number, role, f"digest{number}", messages, f"the answer is {number % 3}")


def job_for(tiny_model: Path, cache: Path, **changed: Any) -> Job:
    examples = tuple(example(n, "train") for n in range(12)) + tuple(example(n, "holdout") for n in range(20, 28))
    job = Job(
        update=1,
        learner="default",
        model_directory=str(tiny_model),
        cache_directory=str(cache),
        parent=0,
        parent_directory=None,
        seed=1,
        device="cpu",
        dtype="float32",
        learning=LEARNING,
        judging=JudgingSettings(answer_tokens=8),
        examples=examples,
    )
    return dataclasses.replace(job, **changed)


def carry_out(job: Job, folder: Path, pauses: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The report and the progress of a job's worker, which is told to pause so many times, half a second each."""
    write_job(job, folder)
    worker = Worker(folder)
    lines: list[dict[str, Any]] = []
    paused_at: list[float] = []

    def saw(line: dict[str, Any]) -> None:
        lines.append(line)
        if line["phase"] == "paused":
            paused_at.append(time.monotonic())

    def look() -> None:
        if paused_at and time.monotonic() - paused_at[-1] > PAUSE_SECONDS:
            worker.resume()
            if len(paused_at) < pauses:
                worker.pause()

    if pauses:
        worker.pause()
    report = worker.wait(120.0, saw, on_look=look)
    assert not isinstance(report, Cancelled)
    return report, lines


def at_once(job: Job, folder: Path) -> dict[str, Any]:
    """The report of a job that is carried out in this process, which spares the start of another."""
    before = torch.get_num_threads()
    torch.set_num_threads(job.learning.threads)
    try:
        return run(job, folder, lambda phase, **numbers: None)
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def first(tiny_model: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished first update: its folder and its report."""
    folder = tmp_path_factory.mktemp("first")
    report, lines = carry_out(job_for(tiny_model, cache), folder)
    phases = [line["phase"] for line in lines]
    assert phases[0] == "loading"
    assert {"training", "measuring", "importance"} <= set(phases)
    assert [line["step"] for line in lines if "learning_rate" in line] == list(range(1, 19))
    assert sum(report["seconds_by_phase"].values()) == pytest.approx(report["seconds"], abs=0.5)
    return folder, report


def test_a_job_survives_its_folder(tiny_model: Path, tmp_path: Path) -> None:
    job = job_for(tiny_model, tmp_path / "cache")
    write_job(job, tmp_path / "job")

    assert read_job(tmp_path / "job") == job


def test_it_learns_and_measures_what_the_gate_needs(first: tuple[Path, dict[str, Any]]) -> None:
    measured = Measurements.from_dict(first[1]["measurements"])
    verdict = decide(measured, Limits.of(JudgingSettings()))

    assert next(check for check in verdict.checks if check.name == "learned").outcome == "pass"
    assert len(measured.holdout_parent) == 8
    assert len(measured.anchor_base) == 48
    assert max(measured.weight_drift.values()) > 0.0
    assert not measured.learned_before
    assert measured.holdout_objectives == ["supervised"] * 8
    assert measured.source_shares == {"": 1.0}
    assert {"trust", "collapse:entropy", "canaries"} <= {check.name for check in verdict.checks}
    assert measured.evidence["parent"] != measured.evidence["candidate"]


def test_the_candidate_is_what_the_report_measured(first: tuple[Path, dict[str, Any]], tiny_model: Path) -> None:
    candidate = first[0] / "candidate"
    names = {path.name for path in candidate.iterdir()}
    assert names == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "answers.jsonl",
        "importance.safetensors",
        "probe.safetensors",
        "training.jsonl",
    }
    base = load_base(tiny_model, device="cpu", dtype="float32")
    attach_saved(base.model, candidate)
    recorded = load_file(candidate / "probe.safetensors")["logits"]
    torch.testing.assert_close(probe_logits(base.model, probe_ids(base.tokenizer)), recorded)


def test_the_same_job_gives_the_same_bytes_however_often_it_is_paused(
    first: tuple[Path, dict[str, Any]], tiny_model: Path, cache: Path, tmp_path: Path
) -> None:
    report, lines = carry_out(job_for(tiny_model, cache), tmp_path, pauses=2)

    assert_same_bytes(tmp_path, first[0])
    waited = [after["at"] - line["at"] for line, after in itertools.pairwise(lines) if line["phase"] == "paused"]
    assert len(waited) == 2
    assert min(waited) > PAUSE_SECONDS / 2
    assert report["seconds_by_phase"]["paused"] == pytest.approx(sum(waited), abs=0.1)


def test_so_does_a_mixture_of_objectives_on_two_threads(tiny_model: Path, cache: Path, tmp_path: Path) -> None:
    job = mixed_job(tiny_model, cache)
    for name in ("once", "twice"):
        report, _ = carry_out(job, tmp_path / name)
        assert report["threads"] == report["made_with"]["threads"] == 2
        assert report["made_with"]["not_deterministic"] == report["left_out"] == []
    assert_same_bytes(tmp_path / "once", tmp_path / "twice")


def mixed_job(tiny_model: Path, cache: Path) -> Job:
    """One update of every objective, with all that pulls besides."""
    examples: list[JobExample] = []
    for number in range(16):
        plain = example(number, "train")
        objectives: tuple[Objective, ...] = (
            "supervised",
            "paired_preference",
            "unpaired_preference",
            "reward_weighted",
        )
        rejected = "something else" if number % 4 == 1 else None
        value = (1.0, 1.0, -1.0, 0.5)[number % 4]
        examples.append(dataclasses.replace(plain, objective=objectives[number % 4], rejected=rejected, value=value))
    examples += [example(number, "replay") for number in range(30, 36)]
    examples += [example(number, "holdout") for number in range(20, 28)]
    learning = LEARNING.model_copy(
        update={"threads": 2, "passes": 2, "replay_kl_weight": 0.5, "rejected_objective": "paired_preference"}
    )
    return job_for(tiny_model, cache, examples=tuple(examples), learning=learning)


def assert_same_bytes(folder: Path, other: Path) -> None:
    for name in ("adapter_model.safetensors", "importance.safetensors", "probe.safetensors", "adapter_config.json"):
        assert (folder / "candidate" / name).read_bytes() == (other / "candidate" / name).read_bytes(), name


def test_what_torch_cannot_repeat_is_noted() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with pytest.warns(UserWarning, match="deterministic"), noted_nondeterminism() as noted:
            torch.zeros(4).put_(torch.tensor([0, 1]), torch.ones(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert noted == {"put_"}


def test_an_update_continues_its_parent(
    first: tuple[Path, dict[str, Any]], tiny_model: Path, cache: Path, tmp_path: Path
) -> None:
    examples = (
        *(example(n, "train") for n in range(40, 48)),
        *(example(n, "replay") for n in range(4)),
        *(example(n, "holdout") for n in range(50, 58)),
        *(example(n, "retained") for n in range(20, 28)),
    )
    parent = first[0] / "candidate"
    job = job_for(tiny_model, cache, parent=1, parent_directory=str(parent), examples=examples, update=2, seed=2)
    report = at_once(job, tmp_path)

    measured = Measurements.from_dict(report["measurements"])
    assert measured.learned_before
    assert list(measured.retained_parent) == pytest.approx(first[1]["measurements"]["holdout_candidate"], rel=1e-4)
    before, after = (
        load_file(parent / "importance.safetensors"),
        load_file(tmp_path / "candidate/importance.safetensors"),
    )
    assert set(before) == set(after)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_rate_that_breaks_the_weights_is_refused(tiny_model: Path, cache: Path, tmp_path: Path) -> None:
    wild = LEARNING.model_copy(update={"learning_rate": 1.0})
    report = at_once(job_for(tiny_model, cache, learning=wild), tmp_path)
    verdict = decide(Measurements.from_dict(report["measurements"]), Limits.of(JudgingSettings()))

    assert verdict.outcome == "refuse"
    assert {"anchored", "kl_drift", "weight_drift"} & {c.name for c in verdict.checks if c.outcome == "fail"}


def test_numbers_that_are_not_finite_end_the_training_with_a_reason(
    tiny_model: Path, cache: Path, tmp_path: Path
) -> None:
    wild = LEARNING.model_copy(update={"alpha": 1e36, "learning_rate": 1.0})
    report = at_once(job_for(tiny_model, cache, learning=wild), tmp_path)
    verdict = decide(Measurements.from_dict(report["measurements"]), Limits.of(JudgingSettings()))

    assert report["training"]["stopped"] == "not finite"
    assert report["training"]["steps"] < 18
    assert verdict.outcome == "refuse"
    assert "finite: not finite: " in verdict.reason


def test_examples_that_are_too_long_are_left_out_and_named(tiny_model: Path, cache: Path, tmp_path: Path) -> None:
    long = JobExample(99, "train", "d", [{"role": "user", "content": "word " * 400}], "the answer")
    job = job_for(tiny_model, cache, learning=LEARNING.model_copy(update={"max_length": 128, "passes": 1}))
    report = at_once(dataclasses.replace(job, examples=(*job.examples, long)), tmp_path)

    assert [(row["id"], row["role"], row["reason"]) for row in report["left_out"]] == [(99, "train", "too_long")]


def test_a_worker_that_cannot_work_says_why(tiny_model: Path, cache: Path, tmp_path: Path) -> None:
    job = job_for(tiny_model, cache, model_directory=str(tmp_path / "nowhere"))
    with pytest.raises(WorkerFailed, match="nowhere"):
        carry_out(job, tmp_path / "job")


def test_an_orphan_ends_by_itself(tiny_model: Path, cache: Path, tmp_path: Path) -> None:
    write_job(
        job_for(tiny_model, cache, learning=LEARNING.model_copy(update={"passes": 1000, "patience": 1000})), tmp_path
    )
    worker = Worker(tmp_path)
    assert worker._process.stdin is not None
    worker._process.stdin.close()

    deadline = time.monotonic() + 30.0
    while worker.is_alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not worker.is_alive()
    assert not (tmp_path / "report.json").exists()
    worker.kill()
