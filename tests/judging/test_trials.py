"""The gate on trial, in short: planted bad updates are trained and do not pass, honest ones do.

The long form is a benchmark (tests/benchmarks/gate.py), from which the kinds of updates are. The model is tiny, but
it was pre-trained: it knows what a question is, and that places have capitals.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
import torch

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.daemon.steps import judge
from selflearn.judging import Verdict
from selflearn.models.base import load_base
from tests.benchmarks.gate_jobs import Ground, job_of, parent_of, run_quietly
from tests.benchmarks.gate_model import Size, make_model
from tests.benchmarks.gate_trials import KINDS, Given
from tests.benchmarks.gate_world import pairs, world

KNOWN: Final = world()[:24]
OLD: Final = world()[24:32]
NEW: Final = world()[32:112]
LEARNING: Final = LearningSettings(
    rank=8, alpha=16.0, learning_rate=2e-3, passes=8, threads=1, fisher_sequences=4, min_source_examples=16
)
#: The weights of a tiny model are small, so that a step is large beside them, and so is what it does to the anchors.
JUDGING: Final = JudgingSettings(max_weight_drift=1.0, max_anchor_rise=0.1, max_retained_rise=0.2)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """A model that knows some facts, and a version of it that was taught eight more."""
    work = tmp_path_factory.mktemp("trials")
    torch.set_num_threads(1)
    make_model(
        work / "model", [pairs(KNOWN, range(6))], Size(hidden=64, vocabulary=600, steps=150, batch=16, rate=5e-3)
    )
    ground = Ground(work / "model", work, "float32", LEARNING, JUDGING)
    parent_of(ground, load_base(ground.model, device="cpu", dtype="float32"), 1, OLD)
    return ground


def verdict_on(kind: str, ground: Ground, folder: Path) -> Verdict:
    """What the gate says of an update of this kind over the version."""
    random = Random(kind)
    plan = KINDS[kind].plan(Given(NEW, OLD, KNOWN, (), LEARNING.learning_rate, random, size=8))
    base = load_base(ground.model, device="cpu", dtype="float32")
    return judge(run_quietly(job_of(ground, plan, 1, OLD, random, base.sha256), folder), JUDGING)


def checks(verdict: Verdict, outcome: str) -> set[str]:
    return {check.name for check in verdict.checks if check.outcome == outcome}


def test_the_version_that_the_trials_start_from_was_honest_and_is_promoted(ground: Ground) -> None:
    measured: dict[str, Any] = json.loads((ground.work / "parent1" / "report.json").read_text(encoding="utf-8"))

    assert judge({"measurements": measured}, JUDGING).outcome == "promote"


def test_new_facts_are_promoted(ground: Ground, tmp_path: Path) -> None:
    verdict = verdict_on("8 new facts", ground, tmp_path)

    assert verdict.outcome == "promote", verdict.reason
    assert "matched" in checks(verdict, "pass")


@pytest.mark.parametrize(
    ("kind", "by"),
    [
        ("NaN", "finite"),
        ("learning rate x30", "anchored"),
        ("learning rate x100", "anchored"),
        ("contradicts old facts", "consistent"),
        ("one source floods", "trust"),
    ],
)
def test_what_does_harm_is_refused(kind: str, by: str, ground: Ground, tmp_path: Path) -> None:
    verdict = verdict_on(kind, ground, tmp_path)

    assert verdict.outcome == "refuse"
    assert by in checks(verdict, "fail")


@pytest.mark.parametrize("kind", ["shuffled labels", "garbage text", "repeated tokens", "A/A: known facts"])
def test_what_teaches_nothing_is_not_promoted(kind: str, ground: Ground, tmp_path: Path) -> None:
    verdict = verdict_on(kind, ground, tmp_path)

    assert verdict.outcome != "promote", kind
