"""Calibration against values computed by hand, and of a model against its own logits."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from selflearn.judging.calibration import expected_calibration_error, next_token_confidences, of_distributions
from selflearn.models.base import load_base
from selflearn.models.forward import TokenSequence


def test_the_error_of_calibration_by_hand() -> None:
    """Two bins of two: |1/2 − 0.85| · 1/2 + |1/2 − 0.3| · 1/2."""
    found = expected_calibration_error([0.8, 0.9, 0.2, 0.4], [True, False, False, True], bins=2)

    assert found == pytest.approx(0.5 * 0.35 + 0.5 * 0.2)
    assert expected_calibration_error([1.0, 1.0], [True, True]) == 0.0
    assert expected_calibration_error([1.0, 0.0], [False, True]) == 1.0
    assert math.isnan(expected_calibration_error([], []))


def test_bins_are_closed_above() -> None:
    """Guo et al.: ((m − 1)/M, m/M]. 0.5 shares the lower bin with 0.1, where the errors cancel."""
    assert expected_calibration_error([0.5, 0.1], [False, True], bins=2) == pytest.approx(abs(0.5 - 0.3))


def test_the_brier_score_by_hand() -> None:
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
    found = of_distributions(probs.log(), torch.tensor([0, 2]))

    assert found.confidence == pytest.approx((0.7, 0.6))
    assert found.correct == (True, False)
    assert found.brier == pytest.approx((0.3**2 + 0.2**2 + 0.1**2, 0.1**2 + 0.6**2 + 0.7**2))


def test_next_tokens_whatever_the_batch(tiny_model: Path) -> None:
    base = load_base(tiny_model, device="cpu", dtype="float32")
    rows = [TokenSequence((5, 9, 30, 31), 2), TokenSequence(tuple(range(3, 20)), 4), TokenSequence((7, 8, 50), 1)]
    found = next_token_confidences(base.model, rows, base.device, max_tokens=30)

    for row, each in zip(rows, found, strict=True):
        logits = base.model(input_ids=torch.tensor([row.ids])).logits[0, row.prompt_length - 1 : -1]
        expected = of_distributions(logits.log_softmax(dim=-1), torch.tensor(row.ids[row.prompt_length :]))
        assert each.confidence == pytest.approx(expected.confidence, rel=1e-4)
        assert each.brier == pytest.approx(expected.brier, rel=1e-4)
        assert len(each.correct) == row.response_length
