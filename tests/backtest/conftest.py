"""A state with a short history, made by the steps that the daemon takes: two promotions, a rollback, a refusal."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.daemon.jobs import Base, make_job
from selflearn.daemon.steps import judge, open_next, register_sealed, seal_candidate
from selflearn.learning.job import write_job
from selflearn.learning.process import Cancelled, Worker
from selflearn.models.library import fingerprint
from selflearn.store import Store, database_path
from selflearn.versions import close_update, ensure_learner, work_directory
from selflearn.versions.files import remove_tree
from selflearn.versions.outcomes import past_of
from tests.stores import LEARNER, Bench, open_bench

LESSONS = 12
PATIENT_JUDGING = JudgingSettings(
    max_retained_rise=5,
    max_anchor_rise=5,
    max_kl_drift=5,
    max_weight_drift=9,
    max_contradicting_share=1,
    answer_tokens=8,
    min_match=-9,
)
STRICT_JUDGING = PATIENT_JUDGING.model_copy(update={"max_weight_drift": 1e-6})
LEARNING = LearningSettings(
    rank=4, passes=3, threads=1, learning_rate=1e-2, fisher_sequences=4, anchor_batch=1, niceness=0
)


@dataclass(frozen=True, slots=True)
class Past:
    """A state directory with a history, and its base model."""

    state: Path
    model: Path

    def files(self) -> dict[str, str]:
        """The SHA-256 of every file but SQLite's log and lock."""
        return {
            str(path.relative_to(self.state)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.state.rglob("*"))
            if path.is_file() and not path.name.endswith(("-wal", "-shm"))
        }

    def open(self) -> Store:
        return Store.open(database_path(self.state))


@pytest.fixture(scope="session")
def past(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Past:
    state = tmp_path_factory.mktemp("past") / "state"
    bench = open_bench(state)
    base = Base("tiny", tiny_model, fingerprint(tiny_model), "cpu", "float32")
    bench.store.write(
        lambda connection: ensure_learner(connection, LEARNER, base_model=base.name, base_sha256=base.sha256)
    )
    promoting = replace(bench, learning=LEARNING, judging=PATIENT_JUDGING)
    assert update(promoting, state, base, "harbour") == "promoted"
    assert update(promoting, state, base, "anchor") == "promoted"
    bench.roll_back(1)
    refusing = replace(promoting, judging=STRICT_JUDGING)
    assert update(refusing, state, base, "sail") == "refused"
    teach(bench, "later")
    bench.store.close()
    return Past(state, tiny_model)


def teach(bench: Bench, topic: str) -> None:
    for number in range(LESSONS):
        bench.correct(f"{topic} question {number}", f"the answer is {topic} {number % 3}")


def update(bench: Bench, state: Path, base: Base, topic: str) -> str:
    """Teaches something and carries out an update of it; returns its outcome."""
    teach(bench, topic)
    learning, judging = bench.learning, bench.judging
    opened = bench.store.write(
        lambda connection: open_next(
            connection, LEARNER, trigger="test", base=base, learning=learning, judging=judging, now=bench.now
        )
    )
    job = make_job(
        state,
        update=opened.update,
        parent=opened.parent,
        seed=opened.seed,
        snapshot=opened.snapshot,
        learner=LEARNER,
        base=base,
        learning=learning,
        judging=judging,
        rate_factor=opened.rate_factor,
        past=past_of(bench.store.connection(), LEARNER, opened.parent),
    )
    work = work_directory(state, opened.update)
    write_job(job, work)
    report = Worker(work).wait(120.0, lambda line: None)
    assert not isinstance(report, Cancelled)
    verdict = judge(report, judging)
    if verdict.outcome == "promote":
        sealed = seal_candidate(
            state, work, base=base, snapshot=opened.snapshot, report=report, verdict=verdict, created_at=bench.now()
        )
        bench.store.write(lambda connection: register_sealed(connection, sealed, report, verdict, bench.now))
    else:
        bench.store.write(
            lambda connection: close_update(
                connection,
                opened.update,
                state="refused",
                report=report,
                verdict=verdict.as_dict(),
                reason=verdict.reason,
                now=bench.now,
            )
        )
    remove_tree(work)
    return "promoted" if verdict.outcome == "promote" else "refused"
