"""The exact interval of a share, against a binomial test and at its ends."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binomtest

from selflearn.judging.statistics import proportion_interval


@pytest.mark.parametrize(("successes", "samples"), [(0, 20), (20, 20), (3, 11), (199, 200)])
def test_it_is_that_of_clopper_and_pearson(successes: int, samples: int) -> None:
    found = proportion_interval(successes, samples, 0.95)
    expected = binomtest(successes, samples).proportion_ci(0.95, method="exact")

    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert (found.mean, found.samples) == (successes / samples, samples)


def test_nothing_says_nothing() -> None:
    assert math.isnan(proportion_interval(0, 0, 0.95).mean)
