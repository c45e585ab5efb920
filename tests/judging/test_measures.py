"""Losses and drift against plain computations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from selflearn.judging.layers import largest_by_kind
from selflearn.judging.measures import (
    adapter_drift,
    drift_between,
    losses,
    nonfinite_tensors,
    product_norm,
    weight_drift,
)
from selflearn.models.adapter import attach_new, base_weight, bias_changes, factors, lora_layers, scale, trained_biases
from selflearn.models.base import load_base
from selflearn.models.forward import TokenSequence
from tests.learning.care.architectures import adapt, make_model

SEQUENCES = [
    TokenSequence((5, 9, 30, 31, 40, 41), 3),
    TokenSequence((7, 8, 9, 50), 2),
    TokenSequence(tuple(range(3, 40)), 1),
]


def test_losses_are_per_token_means_of_the_response_whatever_the_batch(tiny_model: Path) -> None:
    base = load_base(tiny_model, device="cpu", dtype="float32")
    measured = losses(base.model, SEQUENCES, base.device)

    for sequence, loss in zip(SEQUENCES, measured, strict=True):
        logits = base.model(input_ids=torch.tensor([sequence.ids])).logits[0]
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        positions = range(sequence.prompt_length, len(sequence.ids))
        expected = -sum(float(log_probs[p - 1, sequence.ids[p]]) for p in positions) / sequence.response_length
        assert loss == pytest.approx(expected, rel=1e-4)


def test_drift_is_the_norm_of_the_product_over_the_norm_of_the_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 11, generator=generator), torch.randn(7, 3, generator=generator)
    weight = torch.randn(7, 11, generator=generator)

    assert product_norm(a, b, 2.0) == pytest.approx(float((2.0 * b @ a).norm()), rel=1e-5)
    expected = float((2.0 * b @ a).norm() / weight.norm())
    assert weight_drift({"q": (a, b, 2.0)}, {"q": weight})["q"] == pytest.approx(expected, rel=1e-5)


def test_broken_tensors_are_named() -> None:
    tensors = {"good": torch.ones(2), "nan": torch.tensor([1.0, torch.nan]), "inf": torch.tensor([torch.inf])}

    assert nonfinite_tensors(tensors) == ["nan", "inf"]


def test_drift_between_two_adapters_is_that_of_the_difference_of_their_products() -> None:
    first, second, plain = (make_model("llama") for _ in range(3))
    adapt(first, rank=3, alpha=6.0, seed=1)
    adapt(second, rank=5, alpha=5.0, seed=2)

    def product(model: PreTrainedModel, name: str) -> torch.Tensor:
        a, b = factors(lora_layers(model)[name])
        return scale(lora_layers(model)[name]) * (b @ a).detach()

    found = drift_between(first, second)
    assert set(found) == set(lora_layers(first))
    for name, value in found.items():
        weight = base_weight(lora_layers(first)[name])
        expected = (product(second, name) - product(first, name)).norm() / weight.norm()
        assert value == pytest.approx(float(expected), rel=1e-4)
    assert drift_between(plain, second) == pytest.approx(adapter_drift(second))
    assert drift_between(second, plain) == pytest.approx(adapter_drift(second))
    assert max(drift_between(first, first).values()) < 1e-6
    assert (drift_between(plain, plain), adapter_drift(plain)) == ({}, {})


def test_drift_between_counts_biases() -> None:
    first, second = make_model("gpt2"), make_model("gpt2")
    for model, value in ((first, 0.25), (second, 1.0)):
        attach_new(model, rank=2, alpha=2.0, seed=0, biases=True)  # B is 0: only biases differ
        for bias in trained_biases(model).values():
            bias.data.fill_(value)
    name, (_, base) = next(iter(bias_changes(first).items()))
    weight = base_weight(lora_layers(first)[name])

    expected = 0.75 * len(base) ** 0.5 / float(torch.hypot(weight.norm(), base.norm()))
    assert drift_between(first, second)[name] == pytest.approx(expected, rel=1e-4)
    assert drift_between(second, first)[name] == pytest.approx(expected, rel=1e-4)
    assert drift_between(second, make_model("gpt2"))[name] == pytest.approx(expected / 0.75, rel=1e-4)


def test_the_largest_of_each_kind_of_layer() -> None:
    drift = {"layers.0.q_proj": 0.1, "layers.1.q_proj": 0.3, "layers.0.up_proj": 0.2}

    assert largest_by_kind(drift) == {"q_proj": 0.3, "up_proj": 0.2}
