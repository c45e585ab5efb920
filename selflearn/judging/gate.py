"""The gate: a pure function from measured numbers and limits to a verdict.

It promotes only what *proves* that it learned and forgot nothing. Each check passes, fails, or cannot tell; too few
samples, a missing number or a NaN is never a pass. One failure refuses; without failures, one doubt waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from selflearn.config import JudgingSettings
from selflearn.judging.statistics import Interval, paired_bootstrap

CheckOutcome = Literal["pass", "fail", "inconclusive"]
Outcome = Literal["promote", "refuse", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Measurements:
    """What was measured, all losses per example in nats per token.

    ``holdout_*`` and ``retained_*`` compare the candidate with its parent on the same examples; ``anchor_*`` compares
    it with the base model. ``weight_drift`` maps each layer to ‖ΔW‖_F / ‖W‖_F. ``nonfinite`` names every tensor
    of the candidate that holds a NaN or an infinity. ``learned_before`` says whether the parent ever learned anything.
    ``contradicting_examples`` counts those of the ``new_examples`` that answer a known question differently.
    """

    holdout_parent: Sequence[float]
    holdout_candidate: Sequence[float]
    retained_parent: Sequence[float]
    retained_candidate: Sequence[float]
    anchor_base: Sequence[float]
    anchor_candidate: Sequence[float]
    anchor_divergence: Sequence[float]
    weight_drift: Mapping[str, float]
    nonfinite: Sequence[str]
    learned_before: bool
    new_examples: int
    contradicting_examples: int
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measurements:
        return cls(**{field.name: values[field.name] for field in fields(cls)})


@dataclass(frozen=True, slots=True)
class Limits:
    """What the gate demands; see :class:`selflearn.config.JudgingSettings` for the meaning of each."""

    min_holdout: int
    confidence: float
    min_improvement: float
    max_retained_rise: float
    max_anchor_rise: float
    max_kl_drift: float
    max_weight_drift: float
    max_contradicting_share: float

    @classmethod
    def of(cls, settings: JudgingSettings) -> Limits:
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})


@dataclass(frozen=True, slots=True)
class Check:
    """One question to the candidate: what was observed, the limit, and what follows."""

    name: str
    outcome: CheckOutcome
    value: float
    limit: float
    low: float
    high: float
    samples: int
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """``promote``, ``refuse`` or ``inconclusive``, with the checks that say why."""

    outcome: Outcome
    reason: str
    checks: tuple[Check, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: NaN and infinities become None."""
        checks = [{key: _finite_or_none(value) for key, value in asdict(check).items()} for check in self.checks]
        return {"outcome": self.outcome, "reason": self.reason, "checks": checks}


def decide(measured: Measurements, limits: Limits) -> Verdict:
    """Judges ``measured`` against ``limits``. The same numbers always give the same verdict."""
    checks = (
        _finite(measured),
        _consistent(measured, limits),
        _learned(measured, limits),
        _retained(measured, limits),
        _anchored(measured, limits),
        _kl_drift(measured, limits),
        _weight_drift(measured, limits),
    )
    for outcome, verdict in (("fail", "refuse"), ("inconclusive", "inconclusive")):
        found = [check for check in checks if check.outcome == outcome]
        if found:
            return Verdict(verdict, "; ".join(f"{check.name}: {check.detail}" for check in found), checks)  # type: ignore[arg-type]
    return Verdict("promote", "every check passed", checks)


def _finite(measured: Measurements) -> Check:
    bad = list(measured.nonfinite)
    detail = f"not finite: {', '.join(bad[:3])}" if bad else "every weight is a finite number"
    return Check("finite", "fail" if bad else "pass", float(len(bad)), 0.0, math.nan, math.nan, 1, detail)


def _consistent(measured: Measurements, limits: Limits) -> Check:
    """Data that takes back what was taught is not learned unasked: its loss alone would not give it away."""
    new, contradicting, limit = measured.new_examples, measured.contradicting_examples, limits.max_contradicting_share
    if new < 1:
        return Check(
            "consistent", "inconclusive", math.nan, limit, math.nan, math.nan, new, "there are no new examples"
        )
    share = contradicting / new
    told = f"{contradicting} of {new} new examples answer a known question differently than before, at most {limit:.0%}"
    outcome: CheckOutcome = "pass" if share <= limit else "fail"
    return Check("consistent", outcome, share, limit, math.nan, math.nan, new, told)


def _learned(measured: Measurements, limits: Limits) -> Check:
    gains = _differences(measured.holdout_parent, measured.holdout_candidate)
    return _interval_check(
        "learned", gains, limits.min_improvement, limits, measured.seed,
        passes=lambda i: i.low > limits.min_improvement,
        fails=lambda i: i.high <= limits.min_improvement,
        wording="improvement on fresh examples of {mean:+.3f} nats/token, must exceed {limit:.3f}",
    )  # fmt: skip


def _retained(measured: Measurements, limits: Limits) -> Check:
    rises = _differences(measured.retained_candidate, measured.retained_parent)
    limit = limits.max_retained_rise
    if not measured.learned_before:
        return Check(
            "retained", "pass", 0.0, limit, math.nan, math.nan, len(rises), "the parent has learned nothing yet"
        )
    return _rise_check(
        "retained", rises, limit, limits, measured.seed, "rise of {mean:+.3f} nats/token on what was learned before"
    )


def _anchored(measured: Measurements, limits: Limits) -> Check:
    rises = _differences(measured.anchor_candidate, measured.anchor_base)
    wording = "rise of {mean:+.3f} nats/token on the base model's own answers"
    return _rise_check("anchored", rises, limits.max_anchor_rise, limits, measured.seed, wording)


def _kl_drift(measured: Measurements, limits: Limits) -> Check:
    wording = "KL(base || candidate) of {mean:.3f} nats/token on the anchors"
    return _rise_check("kl_drift", measured.anchor_divergence, limits.max_kl_drift, limits, measured.seed, wording)


def _rise_check(name: str, rises: Sequence[float], limit: float, limits: Limits, seed: int, wording: str) -> Check:
    return _interval_check(
        name, rises, limit, limits, seed,
        passes=lambda i: i.high <= limit, fails=lambda i: i.low > limit, wording=wording + ", at most {limit:.3f}",
    )  # fmt: skip


def _weight_drift(measured: Measurements, limits: Limits) -> Check:
    limit, drift = limits.max_weight_drift, measured.weight_drift
    if not drift or not all(math.isfinite(value) for value in drift.values()):
        return Check(
            "weight_drift", "fail", math.nan, limit, math.nan, math.nan, len(drift), "drift is not a finite number"
        )
    worst = max(drift, key=lambda layer: drift[layer])
    detail = f"largest ‖ΔW‖/‖W‖ is {drift[worst]:.3f} in {worst}, at most {limit:.3f}"
    outcome: CheckOutcome = "pass" if drift[worst] <= limit else "fail"
    return Check("weight_drift", outcome, drift[worst], limit, math.nan, math.nan, len(drift), detail)


def _interval_check(
    name: str,
    differences: Sequence[float],
    limit: float,
    limits: Limits,
    seed: int,
    *,
    passes: Callable[[Interval], bool],
    fails: Callable[[Interval], bool],
    wording: str,
) -> Check:
    """Compares a bootstrap interval with a limit. A NaN among the differences fails: the candidate broke a loss."""
    interval = paired_bootstrap(differences, confidence=limits.confidence, seed=seed)
    numbers = (interval.mean, limit, interval.low, interval.high, interval.samples)
    if differences and not math.isfinite(sum(differences)):
        return Check(name, "fail", *numbers, detail="a loss is not a finite number")
    if interval.samples < limits.min_holdout:
        needed = f"{interval.samples} examples measured, {limits.min_holdout} needed to decide"
        return Check(name, "inconclusive", *numbers, detail=needed)
    outcome: CheckOutcome = "pass" if passes(interval) else "fail" if fails(interval) else "inconclusive"
    told = wording.format(mean=interval.mean, limit=limit)
    told += f" ({limits.confidence:.0%} interval {interval.low:+.3f} to {interval.high:+.3f}, n={interval.samples})"
    return Check(name, outcome, *numbers, detail=told)


def _differences(left: Sequence[float], right: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(left, right, strict=True)]


def _finite_or_none(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
