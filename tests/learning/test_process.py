"""The worker from the outside: how fast it ends, what it says of its end, and what it does with too little memory."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selflearn.errors import WorkerFailed
from selflearn.learning.job import Job, JobExample, write_job
from selflearn.learning.process import Cancelled, Worker
from tests.learning.test_worker import LEARNING, job_for

AT_ONCE_SECONDS = 2.0
ENDLESS = LEARNING.model_copy(update={"passes": 1000, "patience": 1000})
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def endless(tiny_model: Path, cache: Path) -> Job:
    """An update that trains until somebody ends it."""
    return job_for(tiny_model, cache, learning=ENDLESS)


def at_phase(phase: str, act: Callable[[], None]) -> Callable[[dict[str, Any]], None]:
    """Acts at the first progress line of a phase."""
    done: list[bool] = []

    def saw(line: dict[str, Any]) -> None:
        if line["phase"] == phase and not done:
            done.append(True)
            act()

    return saw


@pytest.mark.parametrize("phase", ["starting", "loading", "training"])
def test_a_cancel_ends_it_at_once_whatever_it_does(endless: Job, tmp_path: Path, phase: str) -> None:
    write_job(endless, tmp_path)
    worker = Worker(tmp_path)
    cancelled_at: list[float] = []

    def cancel() -> None:
        cancelled_at.append(time.monotonic())
        worker.cancel()

    if phase == "starting":
        cancel()
    assert isinstance(worker.wait(60.0, at_phase(phase, cancel)), Cancelled)
    assert time.monotonic() - cancelled_at[0] < AT_ONCE_SECONDS
    assert not worker.is_alive()


def test_it_is_killed_when_it_takes_too_long_and_says_how_far_it_was(endless: Job, tmp_path: Path) -> None:
    write_job(endless, tmp_path)
    worker = Worker(tmp_path)

    with pytest.raises(WorkerFailed, match=r"ran longer than 0 s and was killed, before it said anything\. Raise"):
        worker.wait(0.4, lambda line: None)
    assert not worker.is_alive()


def test_a_killed_worker_is_noticed_and_no_memory_is_blamed(endless: Job, tmp_path: Path) -> None:
    write_job(endless, tmp_path)
    worker = Worker(tmp_path)
    os.kill(worker.process_id, signal.SIGKILL)

    with pytest.raises(WorkerFailed, match=r"code -9 \(SIGKILL\) and left no report\. Somebody killed it"):
        worker.wait(60.0, lambda line: None)
    worker.pause()  # nobody hears it
    worker.resume()


def test_a_kernel_that_kills_for_memory_is_believed(
    endless: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's own counter is in a file of this test: it is not made to kill here."""
    counters = tmp_path / "vmstat"
    monkeypatch.setattr("selflearn.learning.process.KERNEL_COUNTERS", counters)
    counters.write_text("pgfault 12\noom_kill 3\n")
    write_job(endless, tmp_path / "job")
    worker = Worker(tmp_path / "job")
    counters.write_text("pgfault 13\noom_kill 4\n")
    os.kill(worker.process_id, signal.SIGKILL)

    with pytest.raises(WorkerFailed, match=r"the kernel killed a process because memory ran out\. Lower learning\."):
        worker.wait(60.0, lambda line: None)


@pytest.fixture
def large(tiny_model: Path, cache: Path) -> Job:
    """An update of one step of ten thousand tokens; it wants some 200 MB."""
    learning = LEARNING.model_copy(update={"batch_size": 32, "passes": 1, "batch_tokens": 16384})
    questions = [f"{number} " + "fox dog " * 150 for number in range(32)]
    train = tuple(
        JobExample(number, "train", f"digest{number}", [{"role": "user", "content": question}], "the answer")
        for number, question in enumerate(questions)
    )
    job = job_for(tiny_model, cache, learning=learning)
    return dataclasses.replace(job, examples=(*train, *job.having("holdout")))


def test_without_the_memory_for_one_example_it_says_what_to_lower(large: Job, tmp_path: Path) -> None:
    with pytest.raises(WorkerFailed, match=r"[Mm]emory.*Lower learning\.\w+"):
        with_memory(large, tmp_path, -1)


def test_with_the_memory_for_some_of_a_step_it_computes_less_at_once(large: Job, tmp_path: Path) -> None:
    report = with_memory(large, tmp_path, 100)

    assert report["training"]["stopped"] == "finished"
    assert report["made_with"]["batch_tokens"] < large.learning.batch_tokens


def with_memory(job: Job, folder: Path, megabytes: float) -> dict[str, Any]:
    """Carries out a job; from its first step on it gets no more than so much memory beyond what it has."""
    write_job(job, folder)
    worker = Worker(folder)
    worker.pause()

    def limit_and_resume() -> None:
        status = Path(f"/proc/{worker.process_id}/status").read_text(encoding="ascii")
        has = int(status.partition("VmData:")[2].split()[0]) * 1024
        limit = has + int(megabytes * MEGABYTE)
        resource.prlimit(worker.process_id, resource.RLIMIT_DATA, (limit, limit))
        worker.resume()

    report = worker.wait(120.0, at_phase("paused", limit_and_resume))
    assert not isinstance(report, Cancelled)
    return report
