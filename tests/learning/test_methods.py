"""Each method against forgetting through a whole update of a tiny model: switched on by its setting, alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.learning.care.exporting import export_merged
from selflearn.learning.importance import kind_of, load_importance
from selflearn.learning.job import Job, JobExample, Role
from selflearn.learning.lessons import Lesson, lesson_losses
from selflearn.learning.replay import with_parents_teachers
from selflearn.learning.update import run
from selflearn.models.adapter import attach_saved
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.chat import encode_example
from selflearn.models.forward import TokenSequence
from selflearn.models.views import view_of
from tests.conftest import make_tiny_model

SMALL: dict[str, Any] = {"rank": 2, "passes": 2, "batch_size": 6, "learning_rate": 1e-2, "fisher_sequences": 4}


def example(number: int, role: Role) -> JobExample:
    messages = [{"role": "user", "content": f"question number {number}"}]
    return JobExample(number, role, f"digest{number}", messages, f"the answer is {number % 3}")


def update(folder: Path, model: Path, cache: Path, parent: Path | None, **changed: Any) -> dict[str, Any]:
    """The report of an update; its candidate is in ``folder / 'candidate'``."""
    start = 0 if parent is None else 100
    examples = [example(start + n, "train") for n in range(12)] + [example(start + n, "holdout") for n in range(20, 28)]
    replay = [] if parent is None else [example(n, "replay") for n in range(12)]
    job = Job(
        update=1 if parent is None else 2,
        learner="default",
        model_directory=str(model),
        cache_directory=str(cache),
        parent=0 if parent is None else 1,
        parent_directory=None if parent is None else str(parent),
        seed=3,
        device="cpu",
        dtype="float32",
        learning=LearningSettings(**{**SMALL, **changed}),
        judging=JudgingSettings(answer_tokens=8),
        examples=(*examples, *replay),
    )
    return run(job, folder, lambda phase, **numbers: None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_model(directory)
    return directory


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def parent(model: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parent")
    update(folder, model, cache, None)
    return folder / "candidate"


def second(tmp_path: Path, model: Path, cache: Path, parent: Path, **changed: Any) -> tuple[dict[str, Any], Path]:
    report = update(tmp_path, model, cache, parent, **changed)
    assert report["measurements"]["nonfinite"] == []
    return report, tmp_path / "candidate"


def records(candidate: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (candidate / "training.jsonl").read_text("utf-8").splitlines()]
    return [row for row in rows if "penalties" in row]


@pytest.mark.parametrize("kind", ["factored", "diagonal", "dense"])
@pytest.mark.parametrize("generation", [1, 2])
def test_each_kind_of_fisher_holds_the_weights_and_is_kept(
    tmp_path: Path, model: Path, cache: Path, parent: Path, kind: str, generation: int
) -> None:
    """The parent's importance is factored, so that the others are estimated anew where it is."""
    update(tmp_path, model, cache, parent if generation == 2 else None, ewc=kind, ewc_weight=0.5)
    steps = records(tmp_path / "candidate")

    assert kind_of(load_importance(tmp_path / "candidate/importance.safetensors", torch.device("cpu"))) == kind
    assert steps[0]["ewc"] == 0.0  # at the reference
    assert all(step["ewc"] > 0.0 for step in steps[1:])


def test_l2_and_slow_weights(tmp_path: Path, model: Path, cache: Path, parent: Path) -> None:
    weights = {"l2_weight": 0.01, "slow_weights_rate": 0.5, "slow_weights_steps": 2}
    _, candidate = second(tmp_path, model, cache, parent, **weights)

    assert {name for step in records(candidate) for name in step["penalties"]} == {"ewc", "l2"}
    assert records(candidate)[-1]["penalties"]["l2"] > 0.0


def test_slow_weights_go_a_part_of_the_way(tmp_path: Path, model: Path, cache: Path, parent: Path) -> None:
    def way(rate: float) -> float:
        _, candidate = second(tmp_path / str(rate), model, cache, parent, slow_weights_rate=rate, passes=1)
        before, after = (
            load_file(parent / "adapter_model.safetensors"),
            load_file(candidate / "adapter_model.safetensors"),
        )
        return math.sqrt(sum(float((after[name] - before[name]).square().sum()) for name in before))

    assert way(0.25) == pytest.approx(0.25 * way(1.0), rel=1e-3)  # two steps, then one move


def test_orthogonal_updates_grow(tmp_path: Path, model: Path, cache: Path, parent: Path) -> None:
    _, candidate = second(tmp_path, model, cache, parent, orthogonal_weight=0.5)
    before, after = load_file(parent / "adapter_model.safetensors"), load_file(candidate / "adapter_model.safetensors")

    assert json.loads((candidate / "adapter_config.json").read_text("utf-8"))["r"] == 4
    for name, old in before.items():
        new = after[name][:2] if "lora_A" in name else after[name][:, :2]
        assert torch.equal(new, old)
    assert records(candidate)[0]["penalties"]["orthogonal"] > 0.0
    assert records(candidate)[0]["ewc"] == 0.0


def test_the_parents_own_distribution_holds_the_answers(tmp_path: Path, model: Path, cache: Path, parent: Path) -> None:
    base = load_base(model, device="cpu", dtype="float32")
    lessons = [Lesson("supervised", encoded(base, example(n, "replay"))) for n in range(12)]
    with_adapter = on_a_view(base, parent)
    settings = LearningSettings(replay_kl_weight=1.0)
    taught = with_parents_teachers(with_adapter, lessons, settings)

    def divergence(folder: str, **changed: Any) -> float:
        """KL(parent || candidate) on the replayed answers, in nats per token."""
        _, candidate = second(tmp_path / folder, model, cache, parent, **changed)
        student = on_a_view(base, candidate).model
        with torch.no_grad():
            beside, alone = (lesson_losses(student, rows, settings, base.device) for rows in (taught, lessons))
        return float((beside - alone).mean())

    assert divergence("held", replay_kl_weight=20.0) < 0.8 * divergence("free")


def on_a_view(base: LoadedBase, adapter: Path) -> LoadedBase:
    view = view_of(base.model)
    attach_saved(view, adapter)
    return replace(base, model=view)


def encoded(base: LoadedBase, one: JobExample) -> TokenSequence:
    ids, prompt_length = encode_example(base.tokenizer, one.messages, one.target)
    return TokenSequence(tuple(ids), prompt_length)


def test_the_parents_own_answers_are_kept_with_the_version(tmp_path: Path) -> None:
    model = tmp_path / "model"
    make_tiny_model(model)
    file = model / "model.safetensors"
    weights = load_file(file)
    with torch.no_grad():  # the end of a turn is the padding as well, which begins as zeros and could never be said
        torch.nn.init.normal_(weights["model.embed_tokens.weight"][2], generator=torch.Generator().manual_seed(0))
    save_file(weights, file, metadata={"format": "pt"})
    update(tmp_path / "first", model, tmp_path / "cache", None, passes=30, rank=8, kl_weight=0.0, ewc_weight=0.0)
    parent = tmp_path / "first/candidate"
    report, candidate = second(tmp_path / "second", model, tmp_path / "cache", parent, self_replay=3)
    rows = [json.loads(line) for line in (candidate / "self_replay.jsonl").read_text("utf-8").splitlines()]

    assert 1 <= len(rows) == report["self_replayed"] <= 3
    assert all(row["messages"] == example(row["of"], "replay").messages and row["target"] for row in rows)

    answering = tmp_path / "answering"  # a base that answers so itself: over it nothing is made, KL keeps its answers
    export_merged(load_base(model, device="cpu", dtype="float32"), parent, answering)
    assert update(tmp_path / "third", answering, tmp_path / "other", None, self_replay=3)["self_replayed"] == 0
