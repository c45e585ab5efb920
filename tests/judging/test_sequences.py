"""Evidence of a higher rate: against exact values, and by simulation against what it promises."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from selflearn.judging.sequences import (
    Counted,
    difference_bounds,
    log_evidence_of_excess,
    log_evidence_of_rise,
)

ALPHA = 0.05
LOOKS = np.unique(np.geomspace(5, 10_000, 30).astype(int))


def cumulated(rate: float, runs: int, seed: int) -> np.ndarray:
    """Bad ones among the first observations, at each look: [runs, looks]."""
    drawn = np.random.default_rng(seed).random((runs, int(LOOKS[-1]))) < rate
    return drawn.cumsum(axis=1)[:, LOOKS - 1]


def test_evidence_of_excess_is_the_mixture_of_likelihood_ratios() -> None:
    # By hand, b = 0.2: the alternatives are 0.2 + 0.8/2, 0.2 + 0.8/4, ...
    for bad, total in ((0, 3), (2, 3), (7, 40)):
        ratios = []
        for step in range(1, 11):
            q = 0.2 + 0.8 / 2**step
            ratios.append((q / 0.2) ** bad * ((1 - q) / 0.8) ** (total - bad))
        expected = math.log(sum(ratios) / len(ratios))
        assert float(log_evidence_of_excess(bad, total, 0.2)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.1, 0.2])
def test_evidence_of_excess_has_an_expectation_of_at_most_one(rate: float) -> None:
    # Exactly: over all sequences of eight observations at a rate that keeps the bound.
    expectation = 0.0
    for outcome in itertools.product((0, 1), repeat=8):
        bad = sum(outcome)
        expectation += rate**bad * (1 - rate) ** (8 - bad) * math.exp(float(log_evidence_of_excess(bad, 8, 0.2)))
    assert expectation <= 1.0 + 1e-9
    if rate == 0.2:
        assert expectation == pytest.approx(1.0)


@pytest.mark.parametrize(("old", "new"), [(0.1, 0.1), (0.5, 0.5), (0.1, 0.05), (0.9, 0.9), (0.3, 0.25)])
@pytest.mark.parametrize("growing", [False, True])
def test_evidence_of_rise_has_an_expectation_of_at_most_one(old: float, new: float, growing: bool) -> None:
    # Exactly, over the counts of both samples.
    total, seen = 12, 9
    expectation = 0.0
    for x in range(total + 1):
        for y in range(seen + 1):
            chance = math.comb(total, x) * old**x * (1 - old) ** (total - x)
            chance *= math.comb(seen, y) * new**y * (1 - new) ** (seen - y)
            expectation += chance * math.exp(float(log_evidence_of_rise(Counted(x, total), y, seen, growing=growing)))
    assert expectation <= 1.0


@pytest.mark.parametrize(("rate", "history"), [(0.02, 1000), (0.1, 100), (0.5, 100)])
def test_a_version_that_is_no_worse_raises_hardly_any_alarm_in_its_life(rate: float, history: int) -> None:
    runs = 40
    before = np.random.default_rng(1).binomial(history, rate, size=runs)
    after = cumulated(rate, runs, seed=2)
    alarms = 0
    for x, path in zip(before, after, strict=True):
        found = log_evidence_of_rise(Counted(int(x), history), path, LOOKS)
        alarms += bool((found >= -math.log(ALPHA)).any())
    assert alarms / runs <= ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


def test_a_control_that_grows_beside_raises_hardly_any_alarm_either() -> None:
    runs, alarms = 30, 0
    looks = LOOKS[LOOKS <= 2000]
    control, tried = cumulated(0.1, runs, seed=3), cumulated(0.1, runs, seed=4)
    for old, new in zip(control, tried, strict=True):
        found = [
            float(log_evidence_of_rise(Counted(int(x), int(n)), y, n, growing=True))
            for x, y, n in zip(old, new, looks, strict=False)
        ]
        alarms += max(found) >= -math.log(ALPHA)
    assert alarms / runs <= ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


@pytest.mark.parametrize(("rate", "rise", "within"), [(0.05, 0.2, 100), (0.05, 0.1, 400), (0.1, 0.1, 600)])
def test_a_rise_is_found_soon(rate: float, rise: float, within: int) -> None:
    history = Counted(int(5000 * rate), 5000)
    path = cumulated(rate + rise, 20, seed=5)
    found = log_evidence_of_rise(history, path, np.broadcast_to(LOOKS, path.shape))
    first = np.where((found >= -math.log(0.01)).any(axis=1), LOOKS[(found >= -math.log(0.01)).argmax(axis=1)], np.inf)
    assert np.median(first) <= within


def test_the_interval_holds_the_difference_and_shrinks() -> None:
    widths = []
    for size in (50, 500, 5000):
        low, high = difference_bounds(Counted(size // 10, size), Counted(size // 5, size), alpha=0.01)
        assert low < 0.1 < high
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]
    assert difference_bounds(Counted(100, 1000), Counted(300, 1000), alpha=0.01)[0] > 0.1
    assert difference_bounds(Counted(300, 1000), Counted(100, 1000), alpha=0.01)[1] < -0.1


def test_nothing_seen_says_nothing() -> None:
    low, high = difference_bounds(Counted(0, 0), Counted(0, 0), alpha=0.01)
    assert low == pytest.approx(-1.0, abs=0.01)
    assert high == pytest.approx(1.0, abs=0.01)
    assert float(log_evidence_of_rise(Counted(0, 0), 50, 50)) <= 0.0


def test_a_long_history_costs_no_more_than_a_short_one() -> None:
    low, high = difference_bounds(Counted(10**6, 10**8), Counted(2 * 10**6, 10**8), alpha=0.01)
    assert 0.005 < low < 0.01 < high < 0.015
