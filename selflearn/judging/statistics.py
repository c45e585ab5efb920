"""The mean of paired differences: its interval, the evidence that it is above a limit, and how many samples decide."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import betaincinv, stdtr, stdtrit

RESAMPLES = 10_000
#: More samples than this are not worth waiting for: the mean lies at the limit.
MOST_NEEDED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its confidence interval: ``low`` ≤ ``mean`` ≤ ``high`` over ``samples`` paired differences."""

    mean: float
    low: float
    high: float
    samples: int


def paired_bootstrap(differences: Sequence[float], *, confidence: float, seed: int) -> Interval:
    """Interval for the mean of ``differences``: on each side the farther end of two. Deterministic by ``seed``.

    The studentised bootstrap (bootstrap-t; Efron and Tibshirani 1993, ch. 12.5) follows the skewness of the sample,
    where Student's interval covers far too little on one side; Student's is the wider one for heavy tails on both
    sides, which the bootstrap of a small sample has not seen.
    """
    values = np.asarray(differences, dtype=np.float64)
    count = len(values)
    with np.errstate(invalid="ignore"):  # the mean of infinities of both signs is no number, as it should be
        mean = float(values.mean()) if count else math.nan
    if count < 2 or not np.isfinite(values).all():
        return Interval(mean, math.nan, math.nan, count)
    error = values.std(ddof=1) / math.sqrt(count)
    if error == 0.0:
        return Interval(mean, mean, mean, count)
    drawn = values[np.random.default_rng(seed).integers(0, count, size=(RESAMPLES, count))]
    errors = drawn.std(axis=1, ddof=1) / math.sqrt(count)
    usable = errors > error * 1e-6
    studentised = (drawn.mean(axis=1)[usable] - mean) / errors[usable]
    student = float(stdtrit(count - 1, (1 + confidence) / 2))
    low, high = np.quantile(studentised, [(1 - confidence) / 2, (1 + confidence) / 2])
    below, above = max(float(high), student), max(-float(low), student)
    return Interval(mean, float(mean - below * error), float(mean + above * error), count)


def stratified(differences: Sequence[float], strata: Sequence[str]) -> list[float]:
    """Differences with the same mean and the spread *within* strata alone: that between them is no chance.

    The mean over strata of fixed sizes n_s has the variance Σ n_s·σ_s² / n² (Cochran 1977, *Sampling Techniques*, ch.
    5). Each stratum's deviations are stretched by √(n_s / (n_s - 1)), so that what is computed of all of them as if
    they were one sample is that. Strata of one are put together, and a single one of them to the largest.
    """
    if len(set(strata)) < 2 or len(strata) != len(differences):
        return list(differences)
    sizes = Counter(strata)
    alone = [name for name, size in sizes.items() if size == 1]
    largest = max(sorted(sizes), key=lambda name: sizes[name])
    target = largest if len(alone) == 1 else "alone"
    groups = np.asarray([target if name in alone else name for name in strata])
    values = np.asarray(differences, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # infinities of both signs have no mean, and then nothing passes
        found = np.full(len(values), values.mean())
        for name in set(groups.tolist()):
            members = groups == name
            size = int(members.sum())
            found[members] += (values[members] - values[members].mean()) * math.sqrt(size / max(size - 1, 1))
    return [float(value) for value in found]


def p_value(differences: Sequence[float], limit: float) -> float:
    """One-sided p-value of "the mean is at most ``limit``", in [0, 1]; NaN for fewer than two values or a broken one.

    The larger one of Student's and of Hall's (1992, *J. R. Stat. Soc. B* 54: the monotone cubic transformation, which
    takes the skewness out of the t statistic). Student's alone lets through too much where the few losses are large and
    the many gains small, Hall's alone where tails are heavy on both sides. A bootstrap cannot resolve levels below one
    over its resamples.
    """
    values = np.asarray(differences, dtype=np.float64) - limit
    count = len(values)
    if count < 2 or not np.isfinite(values).all():
        return math.nan
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    if deviation == 0.0:
        return 0.0 if mean > 0.0 else 1.0
    shift = mean / deviation
    skewness = float(np.mean(((values - mean) / values.std()) ** 3))
    corrected = shift + skewness * shift**2 / 3 + skewness**2 * shift**3 / 27 + skewness / (6 * count)
    least = min(shift, corrected) * math.sqrt(count)
    return float(stdtr(count - 1, -least))


def samples_needed(differences: Sequence[float], limit: float, level: float) -> int | None:
    """How many samples decide on which side of ``limit`` the mean is, if mean and spread stay as they are here.

    The least n with ``t(1 - level, n - 1) · s / √n ≤ |mean - limit|`` (Student 1908; Cochran 1977, *Sampling
    Techniques*, eq. 4.2): with n the interval just excludes the limit, so that about every second time it takes more.
    ``level`` is one-sided. None if that is more than :data:`MOST_NEEDED`, or if nothing can be said.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    distance, deviation = abs(float(values.mean()) - limit), float(values.std(ddof=1))
    counts = np.arange(2, MOST_NEEDED + 1)
    halves = stdtrit(counts - 1, 1.0 - level) * deviation / np.sqrt(counts)
    decided = counts[halves <= distance] if distance > 0.0 else counts[:0]
    return int(decided[0]) if len(decided) else None


def proportion_interval(successes: float, samples: int, confidence: float) -> Interval:
    """The exact interval of a share (Clopper and Pearson, 1934): never too narrow, also for none or all of few samples,
    where every bootstrap gives the width 0."""
    if not samples:
        return Interval(math.nan, math.nan, math.nan, 0)
    tail, failures = (1.0 - confidence) / 2.0, samples - successes
    low = float(betaincinv(successes, failures + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, failures, 1.0 - tail)) if failures else 1.0
    return Interval(successes / samples, low, high, samples)
