"""The loop on a tiny model: what each pull does, when it stops, and that a seed decides everything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from selflearn.config import LearningSettings
from selflearn.judging.measures import weight_drift
from selflearn.learning.anchors import Anchors, measure_anchors
from selflearn.learning.importance import Importance
from selflearn.learning.lessons import Lesson, measured_losses
from selflearn.learning.reference import reference_of
from selflearn.learning.regularisers import frozen_copy, low_rank
from selflearn.learning.trainer import Hooks, Material, StepRecord, Trained, train
from selflearn.models.adapter import adapter_state, attach_new, base_weight, factors, lora_layers, scale
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.chat import encode_example
from selflearn.models.forward import TokenSequence
from selflearn.models.views import view_of

SETTINGS = LearningSettings(rank=4, passes=6, batch_size=4, learning_rate=1e-2, anchor_batch=4)


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> LoadedBase:
    return load_base(tiny_model, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def reference(loaded: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> tuple[Anchors, Importance]:
    return reference_of(loaded, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def base(loaded: LoadedBase) -> LoadedBase:
    """The base with a fresh adapter on a view of its own."""
    view = view_of(loaded.model)
    attach_new(view, rank=4, alpha=8.0, seed=0)
    return LoadedBase(loaded.name, loaded.path, loaded.sha256, view, loaded.tokenizer, loaded.device)


def lesson(base: LoadedBase, question: str, answer: str) -> Lesson:
    ids, prompt_length = encode_example(base.tokenizer, [{"role": "user", "content": question}], answer)
    return Lesson("supervised", TokenSequence(tuple(ids), prompt_length))


def losses(base: LoadedBase, lessons: Sequence[Lesson]) -> list[float]:
    return measured_losses(base.model, lessons, SETTINGS, base.device)


def material(base: LoadedBase, reference: tuple[Anchors, Importance]) -> Material:
    anchors, importance = reference
    rows = [lesson(base, f"question number {n}", f"the answer is {n % 3}") for n in range(20)]
    return Material(rows[:12], [], rows[12:], anchors.train, {}, importance)


def drift(base: LoadedBase) -> float:
    layers = lora_layers(base.model)
    deltas = {name: (*factors(layer), scale(layer)) for name, layer in layers.items()}
    return max(weight_drift(deltas, {name: base_weight(layer) for name, layer in layers.items()}).values())


def trained(base: LoadedBase, reference: tuple[Anchors, Importance], seed: int = 0, **changed: Any) -> Trained:
    return train(base.model, material(base, reference), SETTINGS.model_copy(update=changed), seed=seed)


def test_it_lowers_the_loss_of_examples_that_it_never_saw(
    base: LoadedBase, reference: tuple[Anchors, Importance]
) -> None:
    held = material(base, reference).holdout
    before = losses(base, held)
    result = trained(base, reference)
    after = losses(base, held)

    assert sum(after) < 0.8 * sum(before)
    assert result.stopped == "finished"
    assert result.steps == len(result.records) == 18
    best = min(result.looks, key=lambda look: look.objective)
    assert sum(after) / len(after) == pytest.approx(best.holdout_loss, rel=1e-4)
    assert best.objective == pytest.approx(best.holdout_loss + SETTINGS.kl_weight * best.kl)


def test_the_base_weights_stay_as_they_are(base: LoadedBase, reference: tuple[Anchors, Importance]) -> None:
    before = {name: base_weight(layer).clone() for name, layer in lora_layers(base.model).items()}
    trained(base, reference, passes=1)

    for name, layer in lora_layers(base.model).items():
        assert torch.equal(base_weight(layer), before[name])


def test_the_seed_decides_every_bit(loaded: LoadedBase, reference: tuple[Anchors, Importance]) -> None:
    results = []
    for seed in (1, 1, 2):
        view = view_of(loaded.model)
        attach_new(view, rank=4, alpha=8.0, seed=0)
        one = LoadedBase(loaded.name, loaded.path, loaded.sha256, view, loaded.tokenizer, loaded.device)
        trained(one, reference, seed=seed, passes=1)
        results.append(adapter_state(view))
    first, again, other = results
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_ewc_holds_the_weights(loaded: LoadedBase, reference: tuple[Anchors, Importance]) -> None:
    drifts = []
    for weight in (0.0, 100.0):
        view = view_of(loaded.model)
        attach_new(view, rank=4, alpha=8.0, seed=0)
        one = LoadedBase(loaded.name, loaded.path, loaded.sha256, view, loaded.tokenizer, loaded.device)
        result = trained(one, reference, ewc_weight=weight, passes=2)
        assert (result.records[-1].ewc > 0.0) == (weight > 0.0)
        drifts.append(drift(one))
    assert drifts[1] < 0.7 * drifts[0]


def test_kl_holds_the_answers_to_anchors_that_it_never_trained_on(
    loaded: LoadedBase, reference: tuple[Anchors, Importance]
) -> None:
    divergences = []
    for weight in (0.0, 10.0):
        view = view_of(loaded.model)
        attach_new(view, rank=4, alpha=8.0, seed=0)
        one = LoadedBase(loaded.name, loaded.path, loaded.sha256, view, loaded.tokenizer, loaded.device)
        trained(one, reference, kl_weight=weight, ewc_weight=0.0, passes=2)
        divergences.append(sum(measure_anchors(one, reference[0].judge)[1]))
    assert divergences[1] < 0.7 * divergences[0]


def test_replay_takes_its_share_of_each_batch(base: LoadedBase, reference: tuple[Anchors, Importance]) -> None:
    plain = material(base, reference)
    long = lesson(base, "replayed " * 30, "old")
    mixed = Material(plain.train, [long], plain.holdout, plain.anchors, {}, plain.importance)
    settings = SETTINGS.model_copy(update={"passes": 1, "anchor_batch": 0, "replay_share": 0.25})
    without = train(base.model, plain, settings, seed=0)
    with_replay = train(base.model, mixed, settings, seed=0)

    more = [b.tokens - a.tokens for a, b in zip(without.records, with_replay.records, strict=True)]
    assert all(abs(extra - len(long.sequence.ids)) < 10 for extra in more)


def test_it_starts_at_its_reference_without_penalty(base: LoadedBase, reference: tuple[Anchors, Importance]) -> None:
    trained(base, reference, passes=1)
    plain = material(base, reference)
    parent = frozen_copy(low_rank(base.model))
    rows = Material(plain.train, [], plain.holdout, plain.anchors, parent, plain.importance)
    result = train(base.model, rows, SETTINGS.model_copy(update={"passes": 1}), seed=0)

    assert result.records[0].ewc == 0.0
    assert result.records[-1].ewc > 0.0


def test_it_stops_early_and_goes_back_to_the_best_look(base: LoadedBase, reference: tuple[Anchors, Importance]) -> None:
    plain = material(base, reference)
    contradicting = [lesson(base, f"question number {n}", "something else entirely") for n in range(12)]
    rows = Material(contradicting, [], plain.holdout, plain.anchors, {}, plain.importance)
    result = train(base.model, rows, SETTINGS.model_copy(update={"passes": 40, "patience": 2}), seed=0)

    assert result.stopped == "early"
    assert result.steps < 40 * 3
    best = min(result.looks, key=lambda look: look.objective)
    assert result.best_step == best.step
    held = losses(base, plain.holdout)
    assert sum(held) / len(held) == pytest.approx(best.holdout_loss, rel=1e-4)


def test_it_stops_at_once_when_numbers_break(base: LoadedBase, reference: tuple[Anchors, Importance]) -> None:
    result = trained(
        base, reference, learning_rate=1.0, max_gradient_norm=1e30, passes=200, patience=1000, kl_weight=1e30
    )

    assert result.stopped == "not finite"
    assert not math.isfinite(result.records[-1].loss + result.records[-1].gradient_norm)


def test_what_is_computed_at_once_does_not_change_the_step(
    loaded: LoadedBase, reference: tuple[Anchors, Importance]
) -> None:
    results = []
    for batch_tokens in (100_000, 64):
        view = view_of(loaded.model)
        attach_new(view, rank=4, alpha=8.0, seed=0)
        one = LoadedBase(loaded.name, loaded.path, loaded.sha256, view, loaded.tokenizer, loaded.device)
        results.append(trained(one, reference, passes=1, batch_tokens=batch_tokens))
    for whole, apart in zip(results[0].records, results[1].records, strict=True):
        assert apart.loss == pytest.approx(whole.loss, rel=1e-4)
        assert apart.kl == pytest.approx(whole.kl, rel=1e-3, abs=1e-6)
        assert apart.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-3)


def test_the_rate_factor_scales_every_rate(base: LoadedBase, reference: tuple[Anchors, Importance]) -> None:
    rows, settings = material(base, reference), SETTINGS.model_copy(update={"passes": 1})
    whole = train(base.model, rows, settings, seed=0).records
    half = train(base.model, rows, settings, seed=0, rate_factor=0.5).records

    assert [record.learning_rate for record in half] == [0.5 * record.learning_rate for record in whole]


def test_hooks_are_called_around_each_step(base: LoadedBase, reference: tuple[Anchors, Importance]) -> None:
    told: list[object] = []

    def on_step(record: StepRecord) -> None:
        told.append(record.step)

    hooks = Hooks(before_step=lambda step: told.append(f"before {step}"), on_step=on_step)
    train(base.model, material(base, reference), SETTINGS.model_copy(update={"passes": 1}), seed=0, hooks=hooks)

    assert told == ["before 0", 1, "before 1", 2, "before 2", 3]
