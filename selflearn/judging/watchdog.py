"""The watchdog's judgement: from what was counted of two versions in service to worse, no worse, or not known yet.

A pure function. The same one decides about a version that replaced another, and about a canary beside the served one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, get_args

from selflearn.config import WatchdogSettings
from selflearn.judging.sequences import Counted, difference_bounds, log_evidence_of_excess, log_evidence_of_rise

Signal = Literal["negative_feedback", "collapse", "errors"]
Outcome = Literal["worse", "no_worse", "undecided"]

SIGNALS: Final[tuple[Signal, ...]] = get_args(Signal)

#: What the shares are of, for people.
_MEANINGS: Final[dict[Signal, str]] = {
    "negative_feedback": "conversations with negative feedback",
    "collapse": "conversations with an answer that is empty, repeats itself or runs into its limit",
    "errors": "minutes with an answer that failed",
}


@dataclass(frozen=True, slots=True)
class Live:
    """What was counted of one version in service.

    ``negative_feedback`` and ``collapse`` are counted per conversation, not per answer: the answers of one conversation
    share a person and a topic, and would not be independent. ``errors`` are counted per minute in which it answered,
    because what makes answers fail strikes many of them at once. ``heard`` is the number of conversations with any
    feedback at all.
    """

    negative_feedback: Counted
    collapse: Counted
    errors: Counted
    heard: int

    @property
    def conversations(self) -> int:
        return self.negative_feedback.total

    def of(self, signal: Signal) -> Counted:
        found: Counted = getattr(self, signal)
        return found


@dataclass(frozen=True, slots=True)
class Limits:
    """What the judgement is made by; see :class:`selflearn.config.WatchdogSettings` for the meaning of each."""

    false_alarm_rate: float
    margin: float
    canary_margin: float
    min_conversations: int
    assumed_share: float

    @classmethod
    def of(cls, settings: WatchdogSettings) -> Limits:
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})


@dataclass(frozen=True, slots=True)
class Reading:
    """One signal: its counts before and after, and where the difference of the two shares lies.

    ``low`` and ``high`` bound the difference at all looks together; without enough conversations before they are None,
    and ``expected`` is the share that was compared with instead. ``log_evidence`` is against "no worse", in nats.
    """

    signal: Signal
    before: Counted
    after: Counted
    expected: float | None
    log_evidence: float
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        finite = self.log_evidence if math.isfinite(self.log_evidence) else None
        return {**asdict(self), "log_evidence": finite}

    def __str__(self) -> str:
        after, before = self.after, self.before
        told = f"{after.bad} of {after.total} {_MEANINGS[self.signal]} ({after.share:.1%})"
        if self.expected is not None:
            return f"{told}, {self.expected:.1%} expected"
        bounds = "" if self.low is None or self.high is None else f", difference {self.low:+.1%} to {self.high:+.1%}"
        return f"{told}, of the version before {before.bad} of {before.total} ({before.share:.1%}){bounds}"


@dataclass(frozen=True, slots=True)
class Judgement:
    """``worse`` in ``signal``, ``no_worse`` in any, or ``undecided``; ``reason`` says why, for people."""

    outcome: Outcome
    signal: Signal | None
    reason: str
    readings: Mapping[Signal, Reading]


def judge(before: Live, after: Live, limits: Limits, *, beside: bool = False) -> Judgement:
    """Compares a version with the one before it, or (``beside``) a canary with what is served at the same time.

    *Worse*: for some signal, the evidence that its share rose reaches 1/α, and the rise observed is at least
    ``margin``. α is ``false_alarm_rate`` divided among the signals, so that over its whole life a version that is no
    worse is called worse with at most that probability, however often it is asked. *No worse*: both have
    ``min_conversations``, somebody says anything at all, and both rises that are counted per conversation are shown to
    be below ``canary_margin``, with the same error. Of the errors, whose minutes are few, it is enough that no such
    rise is observed. Everything else is undecided.
    """
    alpha = limits.false_alarm_rate / len(SIGNALS)
    readings = {signal: _read(signal, before, after, limits, alpha, beside) for signal in SIGNALS}
    for signal, found in readings.items():
        if found.log_evidence >= -math.log(alpha) and _rise(found) >= limits.margin:
            return Judgement("worse", signal, str(found), readings)
    if (doubt := _doubt(before, after, limits, readings)) is not None:
        return Judgement("undecided", None, doubt, readings)
    told = f"no share rose by {limits.canary_margin:.1%} or more in {after.conversations} conversations"
    return Judgement("no_worse", None, told, readings)


def _read(signal: Signal, before: Live, after: Live, limits: Limits, alpha: float, beside: bool) -> Reading:
    old, new = before.of(signal), after.of(signal)
    if old.total < limits.min_conversations and not beside:
        # The share that was seen counts all the same where it is higher: what replaced a bad version may be as bad.
        expected = max(limits.assumed_share, old.share)
        evidence = float(log_evidence_of_excess(new.bad, new.total, expected))
        return Reading(signal, old, new, expected, evidence, None, None)
    evidence = float(log_evidence_of_rise(old, new.bad, new.total, growing=beside))
    low, high = difference_bounds(old, new, alpha=alpha, growing=beside)
    return Reading(signal, old, new, None, evidence, low, high)


def _rise(found: Reading) -> float:
    return found.after.share - (found.before.share if found.expected is None else found.expected)


def _doubt(before: Live, after: Live, limits: Limits, readings: Mapping[Signal, Reading]) -> str | None:
    """Why it is not known yet whether the version is worse; None if it is known not to be."""
    if min(before.conversations, after.conversations) < limits.min_conversations:
        seen = f"{after.conversations} conversations, {before.conversations} of the other version"
        return f"{seen}; {limits.min_conversations} of each are needed"
    if before.heard + after.heard == 0:
        return "nobody has said anything about an answer yet, so that silence means nothing"
    for signal, found in readings.items():
        highest = _rise(found) if signal == "errors" else found.high
        if highest is None or highest >= limits.canary_margin:
            return f"{_MEANINGS[signal]} may have risen by {limits.canary_margin:.1%}: {found}"
    return None
