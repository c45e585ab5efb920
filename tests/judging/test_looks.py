"""Looking often: the level that is left, and what a gate that looks for months promotes by chance."""

from __future__ import annotations

import pytest

from selflearn.config import JudgingSettings
from selflearn.judging.looks import level
from tests.benchmarks.gate_error_rate import GAINS, p_values, power, promotions

LEAST = JudgingSettings().least_level


def test_the_levels_between_two_promotions_sum_to_the_budget() -> None:
    levels = [level(0.05, look, 0.0) for look in range(1, 200_000)]

    assert 0.0495 < sum(levels) < 0.05
    assert levels == sorted(levels, reverse=True)


def test_the_level_never_falls_below_the_floor_and_is_shared_by_the_sizes_of_one_update() -> None:
    assert level(0.05, 100_000, 1e-4) == 1e-4
    assert level(0.05, 3, 1e-4, tried=4) == level(0.05, 3, 1e-4) / 4


@pytest.mark.parametrize("gains", ["normal", "heavy tails (t, 3 df)"])
def test_months_of_looks_at_updates_that_learned_nothing_promote_next_to_none(gains: str) -> None:
    found = p_values(GAINS[gains], 4_000, 16, seed=3)

    assert len(promotions(found, least_level=None)) > 40  # one of forty looks, or nearly so
    assert len(promotions(found, least_level=LEAST)) <= 3
    assert len(promotions(found, least_level=0.0)) <= 1


def test_a_promotion_gives_the_level_back() -> None:
    in_vain, sure, fair = 0.9, 1e-6, 0.01

    assert promotions([in_vain] * 30 + [fair], least_level=LEAST) == []
    assert promotions([in_vain] * 30 + [sure, fair], least_level=LEAST) == [31, 32]


def test_the_gate_does_not_go_deaf() -> None:
    assert power(1.0, 64, in_vain=10_000, trials=200) > 0.95
    assert power(1.0, 16, in_vain=0, trials=200) > 0.8
