"""Looking often: at which level an update must show that it learned, given how often the gate has looked in vain.

A gate that tests every update at 2.5% promotes one of forty that learned nothing. Here a budget is spent: of all looks
between two promotions that stand, whatever their number, at most ``budget`` promote something that learned nothing.
"""

from __future__ import annotations

import math
from typing import Final

#: γ_k ∝ k^-1.6 sums to 1 over k = 1, 2, …: ζ(1.6) is the sum of the powers (the sequence of Javanmard and Montanari).
_POWER: Final = 1.6
_ZETA: Final = 2.2857656926


def level(budget: float, look: int, least: float, tried: int = 1) -> float:
    """The one-sided level of the ``look``-th test (1, 2, …) since the last promotion that stands.

    ``max(budget · γ_look, least) / tried``: LORD in its first form (Javanmard and Montanari 2018, *Ann. Stat.* 46,
    rule LORD 1), with a floor, and Bonferroni over the ``tried`` sizes of one update that the same examples judge.

    Let V be the promotions of what learned nothing and R all that stand. Between two promotions the levels sum to at
    most ``budget``, so by the union bound, whatever the dependence between these tests (they share held-out examples),
    E[V] ≤ budget · (E[R] + 1) without the floor; with it at most ``least`` more for each look. This asks only that a
    test has its level given what led to the promotion before, which is why a promoted update's examples judge nothing
    again.
    """
    return max(budget * math.pow(look, -_POWER) / _ZETA, least) / tried
