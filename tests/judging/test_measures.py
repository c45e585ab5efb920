"""Losses and drift against plain computations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from selflearn.judging.measures import losses, nonfinite_tensors, product_norm, weight_drift
from selflearn.models.base import load_base
from selflearn.models.forward import TokenSequence

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
