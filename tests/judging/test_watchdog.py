"""The watchdog's judgement, from counts alone."""

from __future__ import annotations

import dataclasses
import math

import pytest

from selflearn.config import WatchdogSettings
from selflearn.judging.anchor_probe import TOLERANCES, Said, departure
from selflearn.judging.sequences import Counted
from selflearn.judging.watchdog import Limits, Live, Signal, judge

LIMITS = Limits.of(WatchdogSettings())
TOLERANCE = TOLERANCES["bfloat16"]


def live(
    conversations: int, *, negative: float = 0.05, collapsed: float = 0.0, failed: int = 0, heard: int = 5
) -> Live:
    return Live(
        negative_feedback=Counted(round(conversations * negative), conversations),
        collapse=Counted(round(conversations * collapsed), conversations),
        errors=Counted(failed, conversations // 2),
        heard=heard,
    )


BEFORE = live(1000)


@pytest.mark.parametrize(
    ("after", "signal"),
    [
        (live(100, negative=0.4), "negative_feedback"),
        (live(100, collapsed=0.3), "collapse"),
        (live(100, failed=20), "errors"),
    ],
)
def test_each_signal_alone_is_enough(after: Live, signal: Signal) -> None:
    found = judge(BEFORE, after, LIMITS)
    assert (found.outcome, found.signal) == ("worse", signal)
    assert f"{after.of(signal).bad} of {after.of(signal).total}" in found.reason
    # and is not, seen from the other side
    assert judge(after, BEFORE, LIMITS).signal is None


def test_a_few_bad_ones_are_no_alarm() -> None:
    assert judge(BEFORE, live(10, negative=0.2), LIMITS).outcome == "undecided"


def test_a_rise_that_does_not_matter_is_none() -> None:
    many, more = live(200_000, negative=0.05), live(200_000, negative=0.06)
    assert judge(many, more, LIMITS).outcome != "worse"
    assert judge(many, more, dataclasses.replace(LIMITS, margin=0.005)).signal == "negative_feedback"


def test_with_too_little_history_the_assumed_share_is_compared_with() -> None:
    nothing = live(0, heard=0)
    alarm = judge(nothing, live(40, negative=0.6), LIMITS)
    assert alarm.signal == "negative_feedback"
    assert "10.0% expected" in alarm.reason
    assert judge(nothing, live(40, negative=0.1), LIMITS).outcome == "undecided"
    # What replaced a bad version is not blamed for being as bad.
    assert judge(live(20, negative=0.8), live(40, negative=0.6), LIMITS).signal is None


def test_a_version_that_is_shown_to_be_as_good() -> None:
    assert judge(BEFORE, live(1000), LIMITS).outcome == "no_worse"
    assert judge(BEFORE, live(60), LIMITS).outcome == "undecided"
    assert judge(BEFORE, live(40), LIMITS).outcome == "undecided"
    assert judge(BEFORE, live(1000, failed=40), dataclasses.replace(LIMITS, margin=1.0)).outcome == "undecided"


def test_silence_promotes_nothing() -> None:
    quiet = live(1000, negative=0.0, heard=0)
    assert judge(quiet, quiet, LIMITS, beside=True).outcome == "undecided"
    heard = dataclasses.replace(quiet, heard=1)
    assert judge(heard, quiet, LIMITS, beside=True).outcome == "no_worse"


def test_a_canary_is_compared_with_what_is_served_beside_it() -> None:
    assert judge(live(300), live(100, negative=0.4), LIMITS, beside=True).signal == "negative_feedback"
    assert judge(live(3000), live(3000), LIMITS, beside=True).outcome == "no_worse"
    # Few conversations of the served version are no reason to compare with an assumed share instead.
    assert judge(live(5), live(100, negative=0.4), LIMITS, beside=True).signal is None


def test_a_judgement_can_be_written_down() -> None:
    row = judge(BEFORE, live(100, negative=0.4), LIMITS).readings["negative_feedback"].as_dict()
    assert row["before"] == {"bad": 50, "total": 1000}
    assert row["after"] == {"bad": 40, "total": 100}
    assert 0.0 < row["low"] < 0.35 < row["high"]
    assert row["log_evidence"] > math.log(300)


def test_answers_that_depart_are_told_from_rounding() -> None:
    first = [Said((5, 6, 7), (3.0, TOLERANCE / 2, 3.0)), Said((1, 2), (4.0, 4.0))]
    assert departure(first, first, TOLERANCE) is None
    rounded = [Said((5, 9, 4), (3.0, 0.1, 1.0)), first[1]]
    assert departure(first, rounded, TOLERANCE) is None
    damaged = [first[0], Said((1, 3), (4.0, 1.0))]
    found = departure(first, damaged, TOLERANCE)
    assert found is not None
    assert (found.prompt, found.position, found.lead) == (1, 1, 4.0)
    unknown = [Said((5,), (math.nan,))]
    assert departure(unknown, [Said((6,), (1.0,))], TOLERANCE) is not None


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="min_conversations 60 can never be reached"):
        WatchdogSettings(conversations=50, min_conversations=60)
