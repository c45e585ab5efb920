"""The learning rate from one update to the next: it falls when an update went too far and recovers as updates succeed.

As in the success rules of evolution strategies (Rechenberg 1973; Schumer and Steiglitz 1968), a success multiplies the
rate and a failure divides it by more. Here the rate halves and grows by √2, so that it settles where two updates in
three are promoted; it never exceeds what the operator set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from selflearn.versions import PastUpdate

Outcome = Literal["promoted", "went too far", "learned too little", "says nothing"]

FALL = 0.5
RISE = math.sqrt(2.0)
LOWEST = 1 / 8
#: So many updates are looked back on: six promotions in a row make up for anything.
LOOK_BACK = 32

_FACTORS: dict[str, float] = {"promoted": RISE, "learned too little": RISE, "went too far": FALL, "says nothing": 1.0}
#: Checks that a smaller step helps to pass are all but these: the first wants a longer one, the second other data.
_LEARNED, _OF_DATA = "learned", {"consistent", "trust"}


def rate_factor(outcomes: Sequence[Outcome]) -> float:
    """The factor on the learning rate after ``outcomes``, oldest first: from ``LOWEST`` to 1, and 1 if there are none.

    An update that only learned too little raises the rate, as a promotion does: one that has fallen so low that
    nothing is learned any more would stay there for good otherwise.
    """
    factor = 1.0
    for outcome in outcomes:
        factor = min(1.0, max(LOWEST, factor * _FACTORS[outcome]))
    return factor if factor < 1.0 - 1e-9 else 1.0


def outcome_of(past: PastUpdate) -> Outcome:
    """What the end of an update says about its rate.

    A promotion that was rolled back went too far, and so did the step of which only a part passed; one that only
    descended from such a one, or that something newer took off, says nothing. Neither does an update that broke off, or
    one that was refused for its data.
    """
    if past.state == "promoted" and (past.rolled_back or past.serves):
        return "went too far" if past.rolled_back or past.scale < 1.0 else "promoted"
    if past.state not in ("refused", "inconclusive"):
        return "says nothing"
    if set(past.failed) - {_LEARNED} - _OF_DATA:
        return "went too far"
    return "learned too little" if {*past.failed, *past.doubted} == {_LEARNED} else "says nothing"
