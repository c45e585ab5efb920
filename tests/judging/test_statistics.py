"""The bootstrap interval: what it covers, and what it says about nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from selflearn.judging import paired_bootstrap


@pytest.mark.parametrize("count", [8, 30])
def test_it_covers_the_true_mean_about_as_often_as_it_says(count: int) -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        interval = paired_bootstrap(list(generator.normal(0.3, 1.0, count)), confidence=0.9, seed=trial)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.85 <= covered / 300 <= 0.96


def test_it_is_deterministic_and_widens_with_the_confidence() -> None:
    values = [0.1, 0.4, -0.2, 0.3, 0.25, 0.0, 0.5, 0.2]
    narrow = paired_bootstrap(values, confidence=0.8, seed=1)
    wide = paired_bootstrap(values, confidence=0.99, seed=1)

    assert narrow == paired_bootstrap(values, confidence=0.8, seed=1)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high
    assert narrow.mean == pytest.approx(sum(values) / len(values))


@pytest.mark.parametrize("values", [[], [0.5], [0.1, math.nan, 0.2], [math.inf, 0.0]])
def test_too_few_or_broken_numbers_give_no_interval(values: list[float]) -> None:
    interval = paired_bootstrap(values, confidence=0.95, seed=0)

    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_equal_differences_have_no_spread() -> None:
    interval = paired_bootstrap([0.25] * 9, confidence=0.95, seed=0)

    assert (interval.low, interval.mean, interval.high, interval.samples) == (0.25, 0.25, 0.25, 9)
