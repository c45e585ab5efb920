"""Updates whose candidate is compacted before it is measured, and those that continue it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.learning.job import Job, JobExample, Role
from selflearn.learning.update import run
from selflearn.models.adapter import attach_saved, probe_logits, saved_factors
from selflearn.models.base import load_base
from selflearn.models.chat import probe_ids

LEARNING = LearningSettings(rank=6, alpha=12.0, passes=2, learning_rate=1e-2, fisher_sequences=4, keep_energy=0.8)


def _job(tiny_model: Path, cache: Path, learning: LearningSettings, parent: Path | None = None) -> Job:
    def example(number: int, role: Role) -> JobExample:
        asked = [{"role": "user", "content": f"question number {number}"}]
        return JobExample(number, role, f"digest{number}", asked, f"the answer is {number % 3}")

    return Job(
        update=1 if parent is None else 2,
        learner="default",
        model_directory=str(tiny_model),
        cache_directory=str(cache),
        parent=0 if parent is None else 1,
        parent_directory=None if parent is None else str(parent),
        seed=1,
        device="cpu",
        dtype="float32",
        learning=learning,
        judging=JudgingSettings(min_holdout=2, answer_tokens=8),
        examples=tuple(example(n, "train") for n in range(8)) + tuple(example(n, "holdout") for n in range(20, 24)),
    )


def _rank(candidate: Path) -> int:
    pairs, scale = saved_factors(candidate)
    assert scale == pytest.approx(2.0)
    ranks = {int(a.shape[0]) for a, _ in pairs.values()}
    assert len(ranks) == 1
    return ranks.pop()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def first(tiny_model: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("first")
    return folder / "candidate", run(_job(tiny_model, cache, LEARNING), folder, lambda phase, **numbers: None)


def test_the_candidate_is_compacted_and_measured_as_it_is_saved(
    first: tuple[Path, dict[str, Any]], tiny_model: Path
) -> None:
    candidate, report = first
    told = report["training"]["compaction"]
    assert told["rank_before"] == 6
    assert _rank(candidate) == told["rank_after"] < 6
    base = load_base(tiny_model, device="cpu", dtype="float32")
    attach_saved(base.model, candidate)
    recorded = load_file(candidate / "probe.safetensors")["logits"]
    assert torch.equal(probe_logits(base.model, probe_ids(base.tokenizer)), recorded)


def test_the_next_update_has_the_whole_rank_to_learn_in(
    first: tuple[Path, dict[str, Any]], tiny_model: Path, cache: Path, tmp_path: Path
) -> None:
    report = run(_job(tiny_model, cache, LEARNING, first[0]), tmp_path, lambda phase, **numbers: None)
    assert report["training"]["compaction"]["rank_before"] == 6
    assert report["measurements"]["holdout_parent"] == first[1]["measurements"]["holdout_candidate"]
    assert report["training"]["stopped"] != "not finite"


def test_a_candidate_that_diverged_is_left_to_the_gate(tiny_model: Path, cache: Path, tmp_path: Path) -> None:
    wild = LEARNING.model_copy(update={"kl_weight": 1e39})  # beyond fp32
    report = run(_job(tiny_model, cache, wild), tmp_path, lambda phase, **numbers: None)
    assert report["training"]["stopped"] == "not finite"
    assert report["training"]["compaction"] is None
