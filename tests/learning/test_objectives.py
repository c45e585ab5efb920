"""Losses against dense computations."""

from __future__ import annotations

import math

import pytest
import torch

from selflearn.learning.objectives import supervised, top_k_divergence, top_k_log_probs


def logits(seed: int, *shape: int) -> torch.Tensor:
    return 2.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_supervised_is_the_mean_over_response_tokens_only() -> None:
    scores, targets = logits(0, 2, 3, 10), torch.tensor([[-1, 4, 5], [1, 2, 3]])
    log_probs = torch.log_softmax(scores, dim=-1)
    picked = [log_probs[0, 1, 4], log_probs[0, 2, 5], log_probs[1, 0, 1], log_probs[1, 1, 2], log_probs[1, 2, 3]]

    torch.testing.assert_close(supervised(scores, targets), -torch.stack(picked).mean())


def test_divergence_over_the_whole_vocabulary_is_the_exact_one() -> None:
    teacher, student = logits(1, 4, 10), logits(2, 4, 10)
    p, q = torch.log_softmax(teacher, -1), torch.log_softmax(student, -1)
    exact = (p.exp() * (p - q)).sum(-1)

    torch.testing.assert_close(top_k_divergence(student, *top_k_log_probs(teacher, 10)), exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_divergence_over_the_top_is_a_lower_bound_and_zero_for_the_same_model(k: int) -> None:
    teacher, student = logits(1, 50, 10), logits(2, 50, 10)
    p, q = torch.log_softmax(teacher, -1), torch.log_softmax(student, -1)
    exact = (p.exp() * (p - q)).sum(-1)
    merged = top_k_divergence(student, *top_k_log_probs(teacher, k))

    assert bool((merged <= exact + 1e-5).all())
    assert bool((merged >= -1e-6).all())
    assert float(top_k_divergence(teacher, *top_k_log_probs(teacher, k)).abs().max()) < 1e-5


def test_divergence_stays_finite_when_the_teacher_is_certain() -> None:
    certain = torch.tensor([[100.0, 0.0, 0.0, 0.0]])
    value = float(top_k_divergence(logits(3, 1, 4), *top_k_log_probs(certain, 2)))

    assert math.isfinite(value)
