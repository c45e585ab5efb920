"""Anytime-valid comparison of two rates: whether the second is higher, asked again after every observation.

An *e-value* is a non-negative statistic of expectation at most 1 under the null hypothesis; an *e-process* is one at
every stopping time. By Ville's inequality (1939) it ever reaches 1/α with probability at most α, so that looking often
costs nothing (Ramdas, Grünwald, Vovk and Shafer, 2023). All of it depends on counts alone: nothing has to be kept
between two looks.

The null hypothesis "the rate after is at most the rate before plus a margin" is cut into pieces by what the rate before
may be. For each piece [θ, θ′] the evidence that the rate before is below θ (from its sample) is multiplied with the
evidence that the rate after is above θ′ + margin; the smallest product over all pieces is valid for the whole, as in
universal inference (Wasserman, Ramdas and Balakrishnan, 2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: How finely the rate before is cut; even on the scale of arcsin √θ, where the error of a share is the same everywhere.
PIECES: Final = 512
_EDGES: Final[Array] = np.sin(np.linspace(0.0, np.pi / 2, PIECES + 1)) ** 2
#: The alternatives to a bound b are b + (1 − b)/2, b + (1 − b)/4, …, so many, with equal weights.
ALTERNATIVES: Final = 10
#: Steps of the bisection for the ends of an interval: they are off by at most 2/2^12.
_HALVINGS: Final = 12


@dataclass(frozen=True, slots=True)
class Counted:
    """``bad`` of ``total`` observations."""

    bad: int
    total: int

    @property
    def share(self) -> float:
        """``bad / total``; 0 for none."""
        return self.bad / self.total if self.total else 0.0

    @property
    def opposite(self) -> Counted:
        """The good ones counted as bad: of it, a rise is a fall."""
        return Counted(self.total - self.bad, self.total)


def log_evidence_of_excess(bad: Any, total: Any, bound: Any) -> Array:
    """log of an e-process against "the rate is at most ``bound``"; arguments broadcast.

    The mixture, with equal weights, of the likelihood ratios of the alternatives q > bound (Robbins, 1970). Each has
    expectation p·q/b + (1 − p)(1 − q)/(1 − b) per observation, which is at most 1 for every rate p ≤ b. A bound of 1 or
    more cannot be exceeded: 0 in the log. No rate is at most a bound below 0: infinite.
    """
    bad, total, bound = np.broadcast_arrays(*(np.asarray(each, dtype=np.float64) for each in (bad, total, bound)))
    b = np.clip(bound, 1e-12, 1.0 - 1e-12)[..., None]
    left = 0.5 ** np.arange(1, ALTERNATIVES + 1)  # of the way from b to 1; (1 − q) / (1 − b) = 1 − left
    good = (total - bad)[..., None]
    ratios = bad[..., None] * np.log1p((1.0 - b) * left / b) + good * np.log1p(-left)
    mixed = _log_sum(ratios) - math.log(ALTERNATIVES)
    return np.where(bound >= 1.0, 0.0, np.where(bound < 0.0, np.inf, mixed))


def log_evidence_of_rise(before: Counted, bad: Any, total: Any, *, margin: float = 0.0, growing: bool = False) -> Array:
    """log e-value against "the rate after is at most the rate before plus ``margin``" (which may be negative).

    ``bad`` of ``total`` observations came after: numbers, or arrays of one shape for several looks. ``before`` is a
    sample that is complete; with ``growing`` it may grow between looks, as that of a control that is observed beside
    (then the evidence from it is an e-process as well, a little weaker).
    """
    of_before = _of_before(before, growing)  # [pieces]
    bad, total = np.asarray(bad, dtype=np.float64), np.asarray(total, dtype=np.float64)
    of_after = log_evidence_of_excess(bad[..., None], total[..., None], _EDGES[1:] + margin)
    smallest: Array = (of_before + of_after).min(axis=-1)
    return smallest


def difference_bounds(before: Counted, after: Counted, *, alpha: float, growing: bool = False) -> tuple[float, float]:
    """An interval for the rate after minus the rate before that holds at all looks together.

    Each end is wrong with probability at most ``alpha``: it is where the evidence against a smaller (a larger)
    difference reaches 1/alpha.
    """
    low = _largest_refuted(before, after, alpha, growing)
    return low, -_largest_refuted(before.opposite, after.opposite, alpha, growing)


def _largest_refuted(before: Counted, after: Counted, alpha: float, growing: bool) -> float:
    low, high = -1.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = log_evidence_of_rise(before, after.bad, after.total, margin=middle, growing=growing)
        low, high = (middle, high) if float(found) >= -math.log(alpha) else (low, middle)
    return low


def _log_sum(terms: Array) -> Array:
    """log Σ exp over the last axis; far quicker than ``np.logaddexp.reduce``."""
    largest = terms.max(axis=-1, keepdims=True)
    found: Array = largest[..., 0] + np.log(np.exp(terms - largest).sum(axis=-1))
    return found


@lru_cache(maxsize=64)
def _of_before(before: Counted, growing: bool) -> Array:
    """For each piece, the log e-value against "the rate before is in it, or above"."""
    if growing:
        opposite = before.opposite
        return log_evidence_of_excess(opposite.bad, opposite.total, 1.0 - _EDGES[:-1])
    return _calibrated(_log_tail(before, _EDGES[:-1]))


def _log_tail(counted: Counted, rates: Array) -> Array:
    """log of an upper bound of P(X ≤ bad), X binomial with ``total`` draws, for each rate: a p-value against so high
    rates.

    Below ``bad`` the terms fall at least as fast as a geometric series, which bounds their sum: P(X = bad) / (1 − r),
    r = P(X = bad − 1) / P(X = bad). Closed form whatever the counts, and close to the sum from one standard error on.
    """
    many, few = counted.total, counted.bad
    log_choices = math.lgamma(many + 1) - math.lgamma(few + 1) - math.lgamma(many - few + 1)
    p = np.clip(rates, 1e-12, 1.0 - 1e-12)
    last = log_choices + few * np.log(p) + (many - few) * np.log1p(-p)
    ratio = few * (1.0 - p) / ((many - few + 1) * p)
    bound = last - np.log1p(-np.minimum(ratio, 1.0 - 1e-9))
    return np.where(ratio < 1.0, np.minimum(bound, 0.0), 0.0)


def _calibrated(log_p: Array) -> Array:
    """log e-value of a p-value: (1 − p + p·ln p) / (p·ln² p) (Vovk and Wang, 2021, the mixture over κ of κ·p^(κ−1)).

    It falls from infinity at p = 0 to 1/2 at p = 1, and keeps almost all of 1/p when p is small.
    """
    close = log_p > -0.01  # there the formula loses its digits; 1/2 is below its value
    safe = np.where(close, -1.0, log_p)
    found = np.log1p(np.exp(safe) * (safe - 1.0)) - safe - 2.0 * np.log(-safe)
    return np.where(close, math.log(0.5), found)
