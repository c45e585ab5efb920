"""Outliers: new examples that surprise the parent far more than their likes do. They are left out of an update.

A loss per token alone does not tell garbage from a lesson: a name that the model has never heard costs more nats than
random letters, which fall apart into many cheap tokens. So an example is measured twice. *Per byte* finds what is no
language at all; *per token* finds real words in no order. Short answers say little: each measure is drawn towards the
usual one, as if ``PRIOR`` more tokens (or bytes) of the usual loss followed.

How far is far: the modified z-score, the distance from the median in deviations that are estimated from the median
absolute deviation (MAD), so that the outliers do not spoil the scale that they are measured on. B. Iglewicz and
D. C. Hoaglin, How to Detect and Handle Outliers, 1993. One-sided: nothing is wrong with an easy example.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

Unit = Literal["token", "byte"]

#: Fewer examples than this make no norm.
MIN_NORM: Final = 12
#: At most this share of the examples behind a norm is left out by it: what is common is no outlier.
MAX_SHARE: Final = 0.2
#: So many tokens (or bytes) of the usual loss are added to every example.
PRIOR: Final = 16
#: The deviation is never taken as smaller, in nats per unit: among near equals a little more is not far.
FLOORS: Final[Mapping[Unit, float]] = {"token": 0.75, "byte": 0.4}
#: Standard deviations per MAD, for normally distributed values.
_PER_MAD: Final = 1.4826


@dataclass(frozen=True, slots=True)
class Surprise:
    """An example's loss under the parent: ``nats`` for the whole response of ``tokens`` and ``bytes``.

    ``exempt`` ones shape the norm, but are never outliers: an operator vouched for them.
    """

    id: int
    source: str
    nats: float
    tokens: int
    bytes: int
    exempt: bool = False

    def per(self, unit: Unit) -> float:
        return self.nats / self._size(unit)

    def tempered(self, unit: Unit, usual: float) -> float:
        """The loss per unit, drawn towards the usual one; the more, the shorter the response is."""
        return (self.nats + PRIOR * usual) / (self._size(unit) + PRIOR)

    def _size(self, unit: Unit) -> int:
        return self.tokens if unit == "token" else self.bytes


@dataclass(frozen=True, slots=True)
class Outlier:
    """An example that is left out: its loss and the median, in nats per ``unit``, and its distance in deviations."""

    id: int
    unit: Unit
    loss: float
    median: float
    deviation: float
    score: float


def find_outliers(examples: Sequence[Surprise], limit: float) -> list[Outlier]:
    """Those that are more than ``limit`` deviations above the median, farthest first.

    A source that brings at least ``MIN_NORM`` examples is compared with its own norm: what is usual for one team is odd
    for another. The others are compared with everybody. The price: who sends nothing but garbage sets the norm for it,
    which share caps, the gate and the operator are for.
    """
    everybody = [example for example in examples if math.isfinite(example.nats)]
    found: list[Outlier] = []
    others: list[Surprise] = []
    for source in sorted({example.source for example in examples}):
        own = [example for example in examples if example.source == source]
        finite = [example for example in own if math.isfinite(example.nats)]
        if len(finite) >= MIN_NORM:
            found += _beyond(own, finite, limit)
        else:
            others += own
    if len(everybody) >= MIN_NORM:
        found += _beyond(others, everybody, limit)
    return sorted(found, key=_farthest_first)


def _beyond(examples: Sequence[Surprise], norm: Sequence[Surprise], limit: float) -> list[Outlier]:
    scales = {unit: _scale(norm, unit) for unit in FLOORS}
    judged = [_judge(example, scales) for example in examples if not example.exempt]
    found = sorted((outlier for outlier in judged if outlier.score > limit), key=_farthest_first)
    return found[: int(MAX_SHARE * len(norm))]


def _scale(norm: Sequence[Surprise], unit: Unit) -> tuple[float, float]:
    """The median of a norm, and the robust deviation of its tempered losses."""
    usual = median(example.per(unit) for example in norm)
    spread = _PER_MAD * median(abs(example.tempered(unit, usual) - usual) for example in norm)
    return usual, max(spread, FLOORS[unit])


def _judge(example: Surprise, scales: Mapping[Unit, tuple[float, float]]) -> Outlier:
    """The example by the measure that it stands out most by."""
    by_unit = [
        Outlier(example.id, unit, example.per(unit), usual, deviation, _score(example, unit, usual, deviation))
        for unit, (usual, deviation) in scales.items()
    ]
    return max(by_unit, key=lambda outlier: outlier.score)


def _score(example: Surprise, unit: Unit, usual: float, deviation: float) -> float:
    if not math.isfinite(example.nats):
        return math.inf  # nothing can be learned from it
    return (example.tempered(unit, usual) - usual) / deviation


def _farthest_first(outlier: Outlier) -> tuple[float, int]:
    return -outlier.score, outlier.id
