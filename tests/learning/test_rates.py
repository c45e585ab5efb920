"""The learning rate across updates: the rule as a table, then from what a real store says of real verdicts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from selflearn import overview
from selflearn.cli.learn import learning_lines
from selflearn.config import JudgingSettings, LearningSettings
from selflearn.daemon.jobs import Base, make_job, make_manifest
from selflearn.daemon.steps import Opened, open_next
from selflearn.judging import Limits, Measurements, Verdict, decide
from selflearn.learning.job import read_job, write_job
from selflearn.learning.rates import LOWEST, Outcome, rate_factor
from selflearn.versions import close_update, why
from selflearn.versions.registry import ClosedState
from tests.stores import LEARNER, Bench

BASE = Base("tiny", Path("models/tiny"), "b" * 64, "cpu", "float32")
LEARNING = LearningSettings()
GOOD = Measurements(
    holdout_parent=[2.0] * 8,
    holdout_candidate=[1.0] * 8,
    retained_parent=[1.0] * 8,
    retained_candidate=[1.0] * 8,
    anchor_base=[1.0] * 8,
    anchor_candidate=[1.0] * 8,
    anchor_divergence=[0.0] * 8,
    weight_drift={"q": 0.01},
    nonfinite=[],
    learned_before=True,
    new_examples=10,
    contradicting_examples=0,
)


def verdict(**measured: Any) -> Verdict:
    return decide(dataclasses.replace(GOOD, **measured), Limits.of(JudgingSettings(min_holdout=4)))


PASSED = verdict()
FORGOT = verdict(retained_candidate=[2.0] * 8)
BROKE = verdict(nonfinite=["q.lora_A"])
LEARNED_NOTHING = verdict(holdout_candidate=[2.0] * 8)
UNSURE = verdict(holdout_candidate=[1.0, 3.0] * 4)
CONTRADICTED = verdict(contradicting_examples=9)
UNSURE_OF_ALL = verdict(holdout_candidate=[1.0, 3.0] * 4, anchor_candidate=[0.0, 2.0] * 4)


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([], 1.0),
        (["promoted"] * 5, 1.0),
        (["went too far"], 0.5),
        (["went too far"] * 9, LOWEST),
        (["went too far", "promoted"], 0.5 * 2**0.5),
        (["went too far", "promoted", "promoted"], 1.0),
        (["went too far", "says nothing"], 0.5),
        (["went too far"] * 3 + ["learned too little"] * 2, 0.25),
        (["went too far"] * 9 + ["promoted"] * 6, 1.0),
        (["promoted", "promoted", "went too far"] * 8 + ["promoted"] * 2, 1.0),
    ],
)
def test_it_falls_fast_and_recovers_slowly_within_bounds(outcomes: list[Outcome], expected: float) -> None:
    assert rate_factor(outcomes) == pytest.approx(expected)


def begin(bench: Bench, learning: LearningSettings = LEARNING) -> Opened:
    """Teaches some facts and opens an update as the daemon does."""
    for _ in range(8):
        number = next(bench.numbers)
        bench.correct(f"question {number}", f"answer {number}")
    return bench.store.write(
        lambda connection: open_next(
            connection, LEARNER, trigger="test", base=BASE, learning=learning, judging=bench.judging, now=bench.now
        )
    )


def end(bench: Bench, update: int, state: ClosedState, found: Verdict | None) -> None:
    told = None if found is None else found.as_dict()
    bench.store.write(
        lambda connection: close_update(
            connection, update, state=state, report={}, verdict=told, reason="test", now=bench.now
        )
    )


def factor(bench: Bench, **changed: Any) -> float:
    settings = LEARNING.model_copy(update=changed)
    return overview.rate_factor(bench.store.connection(), LEARNER, settings)


@pytest.mark.parametrize(
    ("ended", "found", "expected"),
    [
        ("refused", FORGOT, 0.25),
        ("refused", BROKE, 0.25),
        ("refused", LEARNED_NOTHING, 0.5 * 2**0.5),
        ("refused", CONTRADICTED, 0.5),
        ("inconclusive", UNSURE, 0.5 * 2**0.5),
        ("inconclusive", UNSURE_OF_ALL, 0.5),
        ("failed", None, 0.5),
        ("cancelled", None, 0.5),
        ("interrupted", None, 0.5),
        ("cancelled", PASSED, 0.5),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_each_end_of_an_update_has_its_effect(
    bench: Bench, ended: ClosedState, found: Verdict | None, expected: float
) -> None:
    assert factor(bench) == 1.0
    end(bench, begin(bench).update, "refused", FORGOT)
    assert factor(bench) == 0.5
    end(bench, begin(bench).update, ended, found)
    assert factor(bench) == pytest.approx(expected)


def test_a_promotion_recovers_and_its_rollback_takes_that_back(bench: Bench) -> None:
    end(bench, begin(bench).update, "refused", FORGOT)
    bench.promote(begin(bench).update)
    assert factor(bench) == pytest.approx(0.5 * 2**0.5)
    bench.promote(begin(bench).update)
    assert factor(bench) == 1.0

    bench.roll_back()
    assert factor(bench) == pytest.approx(0.25 * 2**0.5)
    bench.roll_back(3)  # the operator takes the rollback back
    assert factor(bench) == 1.0


def test_one_rollback_over_many_versions_is_one_fall(bench: Bench) -> None:
    for _ in range(3):
        bench.promote(begin(bench).update)
    bench.roll_back(0)

    assert factor(bench) == 0.5


def test_a_step_of_which_only_a_part_was_promoted_went_too_far(bench: Bench) -> None:
    update = begin(bench).update
    bench.promote(update)
    assert factor(bench) == 1.0
    bench.store.write(
        lambda connection: connection.execute(
            "UPDATE updates SET report = json_set(report, '$.measurements', json(?)) WHERE id = ?",
            ('{"scale": 0.5}', update),
        )
    )
    assert factor(bench) == 0.5


def test_a_rehearsal_says_nothing(bench: Bench) -> None:
    bench.judging = bench.judging.model_copy(update={"dry_run": True})
    end(bench, begin(bench).update, "inconclusive", FORGOT)

    assert factor(bench) == 1.0


def test_another_rate_or_optimizer_begins_anew_and_it_can_be_switched_off(bench: Bench) -> None:
    end(bench, begin(bench).update, "refused", FORGOT)

    assert factor(bench) == 0.5
    assert factor(bench, learning_rate=LEARNING.learning_rate / 2) == 1.0
    assert factor(bench, optimizer="sgd") == 1.0
    assert factor(bench, rank=4) == 0.5
    assert factor(bench, adapt_rate=False) == 1.0


def test_updates_of_before_there_was_a_choice_of_optimizers_count(bench: Bench) -> None:
    update = begin(bench).update
    bench.store.write(
        lambda connection: connection.execute(
            "UPDATE updates SET config = json_remove(config, '$.learning.optimizer', '$.rate_factor') WHERE id = ?",
            (update,),
        )
    )
    end(bench, update, "refused", FORGOT)

    assert factor(bench) == 0.5


def test_only_the_updates_of_the_learner_count(bench: Bench) -> None:
    end(bench, begin(bench).update, "refused", FORGOT)

    assert overview.rate_factor(bench.store.connection(), "another", LEARNING) == 1.0


def test_an_update_carries_its_factor_in_job_record_and_manifest(bench: Bench, state: Path, tmp_path: Path) -> None:
    assert begin_and_tell(bench, state, tmp_path / "first") == 1.0
    end(bench, 1, "refused", FORGOT)
    assert begin_and_tell(bench, state, tmp_path / "second") == 0.5
    found = overview.learning(bench.store, LEARNER, LEARNING)
    assert found["rate_factor"] == 0.5
    assert ("learning rate", "0.50 of the setting, after updates that went too far") in learning_lines(found)


def begin_and_tell(bench: Bench, state: Path, folder: Path) -> float:
    """The factor of the next update, the same wherever it is written."""
    opened = begin(bench)
    job = make_job(
        state,
        update=opened.update,
        parent=opened.parent,
        seed=opened.seed,
        snapshot=opened.snapshot,
        learner=LEARNER,
        base=BASE,
        learning=LEARNING,
        judging=bench.judging,
        rate_factor=opened.rate_factor,
    )
    write_job(job, folder)
    manifest = make_manifest(read_job(folder), BASE, opened.snapshot, PASSED, made_with={}, created_at=0.0)
    recorded = why(bench.store, state, opened.update)["config"]["rate_factor"]
    assert manifest.config["rate_factor"] == recorded == opened.rate_factor
    return opened.rate_factor
