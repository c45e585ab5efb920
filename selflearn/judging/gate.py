"""The gate: a pure function from measured numbers and limits to a verdict.

It promotes only what *proves* that it learned and forgot nothing. Each check passes, fails, or cannot tell; too few
samples, a missing number or a NaN is never a pass. One failure refuses; without failures, one doubt waits.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from selflearn.judging import answering, checks
from selflearn.judging.checks import Check, CheckOutcome, Limits
from selflearn.judging.measurements import Measurements

__all__ = ["Check", "CheckOutcome", "Limits", "Outcome", "Verdict", "decide"]

Outcome = Literal["promote", "refuse", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """``promote``, ``refuse`` or ``inconclusive``, with the checks that say why."""

    outcome: Outcome
    reason: str
    checks: tuple[Check, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: NaN and infinities become None."""
        told = [{key: _finite_or_none(value) for key, value in asdict(check).items()} for check in self.checks]
        return {"outcome": self.outcome, "reason": self.reason, "checks": told}


def decide(measured: Measurements, limits: Limits) -> Verdict:
    """Judges ``measured`` against ``limits``. The same numbers always give the same verdict."""
    made = (
        checks.finite(measured),
        checks.consistent(measured, limits),
        *checks.trust(measured),
        checks.learned(measured, limits),
        *checks.matched(measured, limits),
        *checks.not_worse(measured, limits),
        *checks.retained(measured, limits),
        *checks.ancestors(measured, limits),
        checks.anchored(measured, limits),
        checks.kl_drift(measured, limits),
        checks.weight_drift(measured, limits),
        *answering.collapse(measured, limits),
        *answering.canaries(measured),
    )
    failed = [check for check in made if check.outcome == "fail"]
    doubted = [check for check in made if check.outcome == "inconclusive"]
    if found := failed or doubted:
        outcome: Outcome = "refuse" if failed else "inconclusive"
        return Verdict(outcome, "; ".join(f"{check.name}: {check.detail}" for check in found), made)
    return Verdict("promote", "every check passed", made)


def _finite_or_none(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
