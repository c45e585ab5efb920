"""Repetition, variety and entropy against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from selflearn.judging.collapse import distinct, mean_entropy, repetition


def test_repetition_is_the_share_of_n_grams_that_came_before() -> None:
    assert repetition([1, 2, 3, 4, 5, 6]) == 0.0
    assert repetition([7] * 10) == pytest.approx(6 / 7)  # 7 n-grams of 4, one of them distinct
    assert repetition([1, 2, 1, 2, 1, 2], n=2) == pytest.approx(1 - 2 / 5)
    assert repetition([1, 2, 3]) == 0.0  # too short to repeat itself
    with pytest.raises(ValueError, match="at least 1"):
        repetition([1, 2], n=0)


def test_distinct_sees_what_no_single_answer_shows() -> None:
    varied, uniform = [[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [1, 2, 3]]

    assert [repetition(answer, 2) for answer in uniform] == [0.0, 0.0]
    assert (distinct(varied), distinct(uniform)) == (1.0, 0.5)
    assert math.isnan(distinct([[1], []]))


def test_entropy_is_in_nats_and_a_mean_over_tokens() -> None:
    uniform, sure = torch.zeros(1, 8), torch.tensor([[100.0] + [0.0] * 7])

    assert mean_entropy(uniform) == pytest.approx(math.log(8))
    assert mean_entropy(torch.cat([uniform, sure])) == pytest.approx(math.log(8) / 2, abs=1e-6)
    assert mean_entropy(torch.log(torch.tensor([[0.5, 0.25, 0.25]])).bfloat16()) == pytest.approx(1.0397, abs=0.01)


def test_entropy_where_tokens_are_masked_or_broken() -> None:
    masked = torch.tensor([[0.0, 0.0, -torch.inf, -torch.inf]])

    assert mean_entropy(masked) == pytest.approx(math.log(2))
    assert math.isnan(mean_entropy(torch.tensor([[0.0, torch.nan]])))
    assert math.isnan(mean_entropy(torch.empty(0, 8)))
