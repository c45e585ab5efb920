"""The gate's checks of losses, weights and data: each asks one question and passes, fails, or cannot tell.

Whatever compares means does it by interval: to pass, the interval must lie on the right side of the limit. Too few
samples, a missing number or a NaN is never a pass. An update must pass every check (an intersection-union test, Berger
1982), so that one which is bad in any way passes with no more than the level of the check that is about it: the number
of checks needs no correction. How often is looked does (:mod:`~selflearn.judging.looks`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final, Literal

from selflearn.config import JudgingSettings
from selflearn.judging.looks import level
from selflearn.judging.measurements import TOKEN_OBJECTIVES, Measurements
from selflearn.judging.statistics import Interval, p_value, paired_bootstrap, samples_needed, stratified

CheckOutcome = Literal["pass", "fail", "inconclusive"]

#: What the losses of an objective are in, where that is not nats per token.
_UNITS: Final[Mapping[str, str]] = {
    "paired_preference": "nats/pair",
    "unpaired_preference": "KTO loss (0 to 1)",
    "reward_weighted": "reward × nats/token",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What the gate demands; see :class:`selflearn.config.JudgingSettings` for the meaning of each."""

    min_holdout: int
    confidence: float
    least_level: float
    min_improvement: float
    min_match: float
    max_objective_rise: float
    max_retained_rise: float
    max_ancestor_rise: float
    max_anchor_rise: float
    max_kl_drift: float
    max_weight_drift: float
    max_contradicting_share: float
    max_entropy_fall: float
    max_repetition: float
    max_repetition_rise: float
    max_broken_rise: float

    @classmethod
    def of(cls, settings: JudgingSettings) -> Limits:
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})


@dataclass(frozen=True, slots=True)
class Check:
    """One question to the candidate: what was observed, the limit, and what follows.

    A ``name`` may have a part after a colon, which says of what: ``retained:paired_preference``. ``needed`` is the
    number of samples at which an inconclusive check would decide if mean and spread stay as they are; None where it
    did decide, where that is beyond all reason, and where there are no more samples to be had.
    """

    name: str
    outcome: CheckOutcome
    value: float
    limit: float
    low: float
    high: float
    samples: int
    detail: str
    needed: int | None = None

    @property
    def family(self) -> str:
        """The name without what follows a colon."""
        return self.name.partition(":")[0]


def plain(name: str, passed: bool, value: float, limit: float, samples: int, detail: str) -> Check:
    """A check of a number that is what it is: it has no interval."""
    return Check(name, "pass" if passed else "fail", value, limit, math.nan, math.nan, samples, detail)


def unknown(name: str, limit: float, samples: int, detail: str) -> Check:
    """A check that cannot be made."""
    return Check(name, "inconclusive", math.nan, limit, math.nan, math.nan, samples, detail)


def finite(measured: Measurements) -> Check:
    bad = list(measured.nonfinite)
    detail = f"not finite: {', '.join(bad[:3])}" if bad else "every weight is a finite number"
    return plain("finite", not bad, float(len(bad)), 0.0, 1, detail)


def consistent(measured: Measurements, limits: Limits) -> Check:
    """Data that takes back what was taught is not learned unasked: its loss alone would not give it away."""
    new, contradicting, limit = measured.new_examples, measured.contradicting_examples, limits.max_contradicting_share
    if new < 1:
        return unknown("consistent", limit, new, "there are no new examples")
    share = contradicting / new
    told = f"{contradicting} of {new} new examples answer a known question differently than before, at most {limit:.0%}"
    return plain("consistent", share <= limit, share, limit, new, told)


def trust(measured: Measurements) -> list[Check]:
    """No source brings more than its share of the new examples; none where shares were not measured."""
    shares, limit = measured.source_shares, measured.source_limit
    if not shares:
        return []
    largest = max(sorted(shares), key=lambda source: shares[source])
    told = f"the largest share of the new examples, {shares[largest]:.0%}, is of {largest!r}, at most {limit:.0%}"
    passed = shares[largest] <= limit + 1e-9
    return [plain("trust", passed, shares[largest], limit, measured.new_examples, told)]


def learned(measured: Measurements, limits: Limits) -> Check:
    """The fresh holdout improves, at the usual confidence and at the level that looking so often leaves."""
    gains, limit = _differences(measured.holdout_parent, measured.holdout_candidate), limits.min_improvement
    gains = stratified(gains, measured.holdout_objectives)
    wording = f"improvement on fresh examples of {{mean:+.3f}} {unit(measured.holdout_objectives)}, "
    question = _Question("learned", gains, limit, _confidence(measured, limits), wording + "must exceed {limit:.3f}")
    check = question.answer(limits, measured.seed, lambda i: i.low > limit, lambda i: i.high <= limit)
    look = measured.earlier_looks + 1
    wanted = level(1.0 - limits.confidence, look, limits.least_level, measured.tried_scales)
    if check.outcome != "fail" and check.samples >= limits.min_holdout:
        found = p_value(gains, limit)
        told = f"p {found:.2g}, at most {wanted:.2g} in look {look} since the last promotion"
        passed = check.outcome == "pass" and found <= wanted
        check = replace(check, outcome="pass" if passed else "inconclusive", detail=f"{check.detail}; {told}")
    return _in_new_examples(_with_need(check, gains, wanted, limits), measured)


def matched(measured: Measurements, limits: Limits) -> list[Check]:
    """The answers belong to their questions: the candidate finds them less likely after the question of another one.

    Labels that were shuffled, noise, and one answer to everything lower the loss of a holdout of their kind as well:
    the model learns what answers look like. What it cannot learn from them is which answer belongs to which question.
    None where too few examples have a right answer, and none where this was not measured.
    """
    if len(measured.mismatch) < limits.min_holdout:
        return []
    limit, wording = limits.min_match, "answers fit their own questions better than others' by {mean:+.3f} nats/token"
    confidence = _confidence(measured, limits)
    question = _Question("matched", measured.mismatch, limit, confidence, wording + ", must exceed {limit:.3f}")
    check = question.answer(limits, measured.seed, lambda i: i.low > limit, lambda i: i.high <= limit)
    return [_in_new_examples(_with_need(check, measured.mismatch, (1.0 - confidence) / 2, limits), measured)]


def not_worse(measured: Measurements, limits: Limits) -> list[Check]:
    """For each objective among several: what was held out of it got no worse, which the mean over all would hide."""
    rises = _differences(measured.holdout_candidate, measured.holdout_parent)
    found = _by_objective("not_worse", rises, measured.holdout_objectives, measured, limits, "on fresh examples")
    return [_in_new_examples(check, measured) for check in found]


def retained(measured: Measurements, limits: Limits) -> list[Check]:
    """What was learned before is still known, over all and for each objective among several."""
    rises = _differences(measured.retained_candidate, measured.retained_parent)
    limit = limits.max_retained_rise
    if not measured.learned_before:
        return [plain("retained", True, 0.0, limit, len(rises), "the parent has learned nothing yet")]
    wording = f"rise of {{mean:+.3f}} {unit(measured.retained_objectives)} on what was learned before"
    within = stratified(rises, measured.retained_objectives)
    overall = rise("retained", within, limit, measured, limits, wording, more=True)
    about = "on what was learned before"
    return [overall, *_by_objective("retained", rises, measured.retained_objectives, measured, limits, about)]


def ancestors(measured: Measurements, limits: Limits) -> list[Check]:
    """Many small rises are a large one: against older versions as well, on the examples that both were measured on.

    The worst of them counts. None where no older version has enough of the same examples.
    """
    found = [
        _against(version, losses, measured, limits)
        for version, losses in measured.ancestors.items()
        if sum(str(example) in losses for example in measured.retained_ids) >= limits.min_holdout
    ]
    order = ("pass", "inconclusive", "fail")
    return [max(found, key=lambda check: (order.index(check.outcome), check.value))] if found else []


def _against(version: str, losses: Mapping[str, float], measured: Measurements, limits: Limits) -> Check:
    now = dict(zip(measured.retained_ids, measured.retained_candidate, strict=False))
    rises = [loss - losses[str(example)] for example, loss in now.items() if str(example) in losses]
    wording = f"rise of {{mean:+.3f}} {unit(measured.retained_objectives)} since version {version}"
    return rise("ancestors", rises, limits.max_ancestor_rise, measured, limits, wording, more=True)


def anchored(measured: Measurements, limits: Limits) -> Check:
    rises = _differences(measured.anchor_candidate, measured.anchor_base)
    wording = "rise of {mean:+.3f} nats/token on the base model's own answers"
    return rise("anchored", rises, limits.max_anchor_rise, measured, limits, wording)


def kl_drift(measured: Measurements, limits: Limits) -> Check:
    wording = "KL(base || candidate) of {mean:.3f} nats/token on the anchors"
    return rise("kl_drift", measured.anchor_divergence, limits.max_kl_drift, measured, limits, wording)


def weight_drift(measured: Measurements, limits: Limits) -> Check:
    limit, drift = limits.max_weight_drift, measured.weight_drift
    if not drift or not all(math.isfinite(value) for value in drift.values()):
        return plain("weight_drift", False, math.nan, limit, len(drift), "drift is not a finite number")
    worst = max(drift, key=lambda layer: drift[layer])
    detail = f"largest ‖ΔW‖/‖W‖ is {drift[worst]:.3f} in {worst}, at most {limit:.3f}"
    return plain("weight_drift", drift[worst] <= limit, drift[worst], limit, len(drift), detail)


def rise(
    name: str,
    rises: Sequence[float],
    limit: float,
    measured: Measurements,
    limits: Limits,
    wording: str,
    *,
    more: bool = False,
) -> Check:
    """Non-inferiority: passes if the interval of the mean rise lies below the limit. ``more`` samples can be had."""
    question = _Question(name, rises, limit, _confidence(measured, limits), wording + ", at most {limit:.3f}")
    check = question.answer(limits, measured.seed, lambda i: i.high <= limit, lambda i: i.low > limit)
    return _with_need(check, rises, (1.0 - question.confidence) / 2, limits) if more else check


def unit(objectives: Sequence[str]) -> str:
    """What losses of these objectives are in; without any, they are of a time when all were in nats per token."""
    units = {_UNITS.get(each, "nats/token" if each in TOKEN_OBJECTIVES else each) for each in objectives}
    if len(units) > 1:
        return "(mean loss of several objectives)"
    return units.pop() if units else "nats/token"


@dataclass(frozen=True, slots=True)
class _Question:
    """On which side of a limit the mean of some differences lies."""

    name: str
    differences: Sequence[float]
    limit: float
    confidence: float
    wording: str

    def answer(
        self, limits: Limits, seed: int, passes: Callable[[Interval], bool], fails: Callable[[Interval], bool]
    ) -> Check:
        """By a bootstrap interval. A NaN among the differences fails: the candidate broke a loss."""
        interval = paired_bootstrap(self.differences, confidence=self.confidence, seed=seed)
        numbers = (interval.mean, self.limit, interval.low, interval.high, interval.samples)
        if self.differences and not math.isfinite(sum(self.differences)):
            return Check(self.name, "fail", *numbers, detail="a loss is not a finite number")
        if interval.samples < limits.min_holdout:
            told = f"{interval.samples} examples measured, {limits.min_holdout} needed to decide"
            return Check(self.name, "inconclusive", *numbers, detail=told)
        outcome: CheckOutcome = "pass" if passes(interval) else "fail" if fails(interval) else "inconclusive"
        told = self.wording.format(mean=interval.mean, limit=self.limit)
        told += f" ({self.confidence:.4g} interval {interval.low:+.3f} to {interval.high:+.3f}, n={interval.samples})"
        return Check(self.name, outcome, *numbers, detail=told)


def _confidence(measured: Measurements, limits: Limits) -> float:
    """Of the two-sided intervals: Bonferroni over the sizes of one update that the same examples judge."""
    return 1.0 - (1.0 - limits.confidence) / measured.tried_scales


def _by_objective(
    family: str,
    rises: Sequence[float],
    objectives: Sequence[str],
    measured: Measurements,
    limits: Limits,
    about: str,
) -> list[Check]:
    """A check for each objective that has enough examples; none for an only one, which the overall check is about."""
    if len(set(objectives)) < 2:
        return []
    checks = []
    for each in sorted(set(objectives)):
        own = [value for value, objective in zip(rises, objectives, strict=True) if objective == each]
        if len(own) >= limits.min_holdout:
            wording = f"rise of {{mean:+.3f}} {unit([each])} {about} with the objective {each}"
            limit = limits.max_objective_rise
            checks.append(rise(f"{family}:{each}", own, limit, measured, limits, wording, more=True))
    return checks


def _with_need(check: Check, differences: Sequence[float], level_: float, limits: Limits) -> Check:
    """An inconclusive check says how many samples would decide."""
    if check.outcome != "inconclusive":
        return check
    needed = samples_needed(differences, check.limit, level_)
    if check.samples < limits.min_holdout:
        needed = max(limits.min_holdout, needed or 0)
    if needed is None:
        return replace(check, detail=f"{check.detail}; the mean is so near the limit that more samples hardly decide")
    needed = max(needed, check.samples + 1)
    return replace(check, needed=needed, detail=f"{check.detail}; about {needed} such examples would decide")


def _in_new_examples(check: Check, measured: Measurements) -> Check:
    """What an operator can send are new examples, of which a part judges."""
    judged = len(measured.holdout_parent)
    if check.needed is None or not check.samples or not measured.new_examples:
        return check
    new = math.ceil(check.needed / check.samples * measured.new_examples)
    told = f"that is about {new} new ones together ({judged} of {measured.new_examples} judged; judging.max_holdout "
    return replace(check, detail=f"{check.detail}, {told}must allow them)")


def _differences(left: Sequence[float], right: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(left, right, strict=True)]
