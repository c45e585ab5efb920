"""Losses against dense computations in float64, and their gradients against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from selflearn.learning.objectives import (
    balanced,
    departure,
    mean_over_response,
    paired_preference,
    reward_weights,
    top_k_divergence,
    top_k_log_probs,
    unlikelihood,
    unpaired_preference,
)


def logits(seed: int, *shape: int) -> Tensor:
    return 2.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))


# Means over tokens


def test_the_mean_is_over_response_tokens_only() -> None:
    values = torch.tensor([[9.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    mask = torch.tensor([[False, True, True], [True, True, True]])

    torch.testing.assert_close(mean_over_response(values, mask), torch.tensor([1.5, 4.0]))


# Unlikelihood


def test_unlikelihood_is_minus_the_log_of_one_minus_the_probability() -> None:
    scores, targets = logits(0, 3, 5, 10).double(), torch.randint(0, 10, (3, 5))
    probability = torch.softmax(scores, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)

    torch.testing.assert_close(unlikelihood(scores, targets), -torch.log(1.0 - probability))


def test_unlikelihood_of_a_certain_token_is_finite_and_its_gradient_bounded() -> None:
    scores = torch.tensor([[60.0, 0.0, 0.0], [-60.0, 0.0, 0.0]], requires_grad=True)
    loss = unlikelihood(scores, torch.tensor([0, 0]))
    loss.sum().backward()

    assert loss.tolist() == pytest.approx([60.0 - math.log(2.0), 0.0], abs=1e-5)  # log(1 − p) itself would be −inf
    assert scores.grad is not None
    assert scores.grad[0].tolist() == pytest.approx([1.0, -0.5, -0.5])
    assert float(scores.grad[1].abs().max()) < 1e-6


def test_unlikelihood_has_the_gradient_that_finite_differences_give() -> None:
    scores = logits(1, 4, 6).double().requires_grad_()

    assert torch.autograd.gradcheck(lambda given: unlikelihood(given, torch.tensor([0, 5, 2, 2])), (scores,))


# Preferences


def test_paired_preference_by_hand() -> None:
    loss = paired_preference(doubles(-10.0), doubles(-12.0), doubles(-11.0), doubles(-11.5), 0.5)

    assert loss.item() == pytest.approx(-math.log(sigmoid(0.5 * ((-10.0 + 11.0) - (-12.0 + 11.5)))))


@pytest.mark.parametrize("same", [0.0, -3.0, 700.0])
def test_equal_answers_are_worth_log_2(same: float) -> None:
    given = torch.tensor([same])

    assert float(paired_preference(given, given, given, given, 0.1)) == pytest.approx(math.log(2.0))


@pytest.mark.parametrize(("ratio", "expected"), [(50.0, 0.0), (-50.0, 100.0)])
def test_paired_preference_far_from_the_reference(ratio: float, expected: float) -> None:
    chosen = torch.tensor([ratio], requires_grad=True)
    loss = paired_preference(chosen, torch.tensor([-ratio]), torch.zeros(1), torch.zeros(1), 1.0)
    loss.sum().backward()

    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert chosen.grad is not None
    assert float(chosen.grad) == pytest.approx(-expected / 100.0, abs=1e-6)


def test_paired_preference_has_the_gradient_that_finite_differences_give() -> None:
    given = (doubles(-3.0, 1.0), doubles(-2.0, -9.0), doubles(-2.5, 0.5), doubles(-2.0, -1.0))

    assert torch.autograd.gradcheck(lambda a, b, c, d: paired_preference(a, b, c, d, 0.7), given)


def test_unpaired_preference_by_hand() -> None:
    ratio, baseline, beta = doubles(1.5, 1.5), torch.tensor(0.4, dtype=torch.float64), 0.3
    loss = unpaired_preference(ratio, torch.tensor([2.0, -0.5], dtype=torch.float64), baseline, beta)
    desirable = 2.0 - 2.0 * sigmoid(beta * (1.5 - 0.4))
    undesirable = 0.5 - 0.5 * sigmoid(beta * (0.4 - 1.5))

    assert loss.tolist() == pytest.approx([desirable, undesirable])


@pytest.mark.parametrize("ratio", [50.0, -50.0])
def test_unpaired_preference_far_from_the_reference(ratio: float) -> None:
    given = torch.tensor([ratio, ratio], requires_grad=True)
    loss = unpaired_preference(given, torch.tensor([1.0, -1.0]), torch.zeros(()), 1.0)
    loss.sum().backward()

    assert loss.tolist() == pytest.approx([0.0, 1.0] if ratio > 0 else [1.0, 0.0], abs=1e-6)
    assert given.grad is not None
    assert bool(torch.isfinite(given.grad).all())


def test_unpaired_preference_has_the_gradient_that_finite_differences_give() -> None:
    value, baseline = torch.tensor([1.0, -1.0, -0.5], dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)

    assert torch.autograd.gradcheck(
        lambda ratio: unpaired_preference(ratio, value, baseline, 0.4), (doubles(0.3, -2.0, 5.0),)
    )


def test_the_departure_is_a_mean_never_negative_and_has_no_gradient() -> None:
    ratios = torch.tensor([3.0, -1.0], requires_grad=True)

    assert float(departure(ratios)) == 1.0
    assert not departure(ratios).requires_grad
    assert float(departure(torch.tensor([-3.0, 1.0]))) == 0.0
    assert float(departure(torch.zeros(0))) == 0.0


def test_both_sides_of_unpaired_lessons_weigh_the_same() -> None:
    values = balanced([True, False, False, False])

    assert values == pytest.approx([2.0, -2.0 / 3.0, -2.0 / 3.0, -2.0 / 3.0])
    assert sum(abs(value) for value in values) == pytest.approx(4.0)
    assert balanced([False, False]) == [-1.0, -1.0]
    assert balanced([]) == []


# Rewards


def test_reward_weights_by_hand() -> None:
    weights = reward_weights([0.0, 1.0, 2.0], 0.5)
    scores = [math.exp((reward - 1.0) / math.sqrt(2.0 / 3.0) / 0.5) for reward in (0.0, 1.0, 2.0)]

    assert weights == pytest.approx([3.0 * score / sum(scores) for score in scores])


def test_reward_weights_do_not_know_the_scale_of_the_rewards() -> None:
    assert reward_weights([0.0, 0.3, 1.0], 1.0) == pytest.approx(reward_weights([-500.0, -200.0, 500.0], 1.0))


def test_rewards_that_say_nothing_weigh_1() -> None:
    assert reward_weights([], 1.0) == []
    assert reward_weights([-7.0], 1.0) == [1.0]
    assert reward_weights([0.1] * 3, 1.0) == [1.0] * 3
    assert reward_weights([0.0] * 3, 1.0) == [1.0] * 3


def test_one_reward_far_from_all_others_is_cut() -> None:
    weights = reward_weights([0.0] * 99 + [1000.0], 1.0)  # its standard score is 9.9

    assert weights[-1] / weights[0] == pytest.approx(math.exp(3.0 + 1000.0 / 100.0 / 99.5), rel=0.01)
    assert sum(weights) == pytest.approx(100.0)


# Distillation


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


def test_divergence_has_the_gradient_that_finite_differences_give() -> None:
    log_probs, ids = top_k_log_probs(logits(4, 3, 8), 3)
    student = logits(5, 3, 8).double().requires_grad_()

    assert torch.autograd.gradcheck(lambda given: top_k_divergence(given, log_probs.double(), ids), (student,))
