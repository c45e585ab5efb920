"""Intervals for the mean of paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its confidence interval: ``low`` ≤ ``mean`` ≤ ``high`` over ``samples`` paired differences."""

    mean: float
    low: float
    high: float
    samples: int


def paired_bootstrap(differences: Sequence[float], *, confidence: float, seed: int) -> Interval:
    """Studentised (bootstrap-t) interval for the mean of ``differences`` (Efron and Tibshirani 1993, ch. 12.5).

    Each resample's mean is studentised by its own standard error, which keeps the coverage near ``confidence`` even
    for samples as small as the gate's, where the percentile interval is too narrow. Deterministic by ``seed``.
    """
    values = np.asarray(differences, dtype=np.float64)
    count = len(values)
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
    low, high = np.quantile(studentised, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(mean - high * error), float(mean - low * error), count)
