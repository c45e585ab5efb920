"""The bootstrap interval: what it covers, and what it says about nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from selflearn.judging.statistics import p_value, paired_bootstrap, samples_needed, stratified


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


def test_it_is_never_narrower_than_students() -> None:
    values = np.random.default_rng(4).standard_t(3, 12).tolist()
    interval = paired_bootstrap(values, confidence=0.95, seed=1)
    half = 2.200985 * float(np.std(values, ddof=1)) / math.sqrt(12)  # t(0.975) with 11 degrees of freedom

    assert interval.low <= interval.mean - half + 1e-6
    assert interval.high >= interval.mean + half - 1e-6


def test_a_p_value_is_as_rare_as_it_says_where_tails_are_even_or_gains_are_few() -> None:
    generator = np.random.default_rng(7)
    draws = (
        generator.normal(0.0, 1.0, (4000, 16)),
        generator.standard_t(3, (4000, 16)),
        generator.lognormal(0.0, 1.0, (4000, 16)) - math.exp(0.5),
    )
    for rows in draws:
        assert np.mean([p_value(row.tolist(), 0.0) <= 0.05 for row in rows]) < 0.06


def test_a_p_value_knows_its_limit_and_what_is_no_number() -> None:
    gains = [0.3, 0.5, 0.4, 0.2, 0.6, 0.4, 0.3, 0.5]

    assert p_value(gains, 0.0) < 0.001 < p_value(gains, 0.3) < 0.5 < p_value(gains, 0.6)
    assert (p_value([0.2] * 8, 0.1), p_value([0.2] * 8, 0.2)) == (0.0, 1.0)
    assert math.isnan(p_value([0.1], 0.0))
    assert math.isnan(p_value([0.1, math.nan, 0.2], 0.0))


def test_strata_keep_the_mean_and_lose_what_is_between_them() -> None:
    values, strata = [5.0, 5.2, 5.1, 0.1, 0.3, 9.0], ["a", "a", "a", "b", "b", "c"]
    found = stratified(values, strata)

    assert np.mean(found) == pytest.approx(np.mean(values))
    assert found[3] == pytest.approx(np.mean(values) - 0.1 * math.sqrt(2))
    assert np.std(found) > 1.0  # the single one counts with the largest: nothing is known of its spread
    assert stratified(values, ["a"] * 6) == values
    assert np.std(stratified([1.0, 2.0, 5.0, 7.0], ["a", "a", "b", "c"])) > 0.5
    assert math.isnan(sum(stratified([1.0, math.nan, 2.0, 3.0], ["a", "a", "b", "b"])))


def test_intervals_of_strata_cover_as_often_as_they_say() -> None:
    generator, strata, missed = np.random.default_rng(5), ["a"] * 5 + ["b"] * 5, 0
    for trial in range(400):
        drawn = [*generator.normal(3.0, 1.0, 5), *generator.normal(-3.0, 0.3, 5)]
        interval = paired_bootstrap(stratified(drawn, strata), confidence=0.9, seed=trial)
        missed += not interval.low <= 0.0 <= interval.high
    assert missed / 400 < 0.14


def test_the_samples_that_are_needed_just_decide() -> None:
    values = [0.5, -0.3, 0.4, -0.2, 0.6, -0.1, 0.3, -0.4]
    needed = samples_needed(values, 0.0, 0.025)

    assert needed == 62  # the least n with t(0.975, n - 1) · 0.3928 / √n ≤ 0.1: t is 1.9996
    assert samples_needed(values, 0.0, 0.001) == 153
    assert samples_needed(values, 0.1, 0.025) is None
    assert samples_needed([0.1], 0.0, 0.025) is None


@pytest.mark.parametrize("values", [[], [0.5], [0.1, math.nan, 0.2], [math.inf, 0.0]])
def test_too_few_or_broken_numbers_give_no_interval(values: list[float]) -> None:
    interval = paired_bootstrap(values, confidence=0.95, seed=0)

    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_equal_differences_have_no_spread() -> None:
    interval = paired_bootstrap([0.25] * 9, confidence=0.95, seed=0)

    assert (interval.low, interval.mean, interval.high, interval.samples) == (0.25, 0.25, 0.25, 9)
