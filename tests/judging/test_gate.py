"""The gate as a function of numbers: what promotes, what refuses, and what can't tell."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selflearn.config import JudgingSettings
from selflearn.judging import Check, Limits, Measurements, Verdict, decide

LIMITS = Limits.of(JudgingSettings())
SPREAD = [0.01 * (index % 5 - 2) for index in range(12)]


def around(mean: float, count: int = 12) -> list[float]:
    return [mean + SPREAD[index % 12] for index in range(count)]


GOOD = Measurements(
    holdout_parent=around(2.0),
    holdout_candidate=[1.0] * 12,
    retained_parent=around(1.0),
    retained_candidate=[1.0] * 12,
    anchor_base=around(0.7),
    anchor_candidate=[0.7] * 12,
    anchor_divergence=around(0.02),
    weight_drift={"q": 0.01, "k": 0.02},
    nonfinite=(),
    learned_before=True,
    new_examples=40,
    contradicting_examples=3,
)


def verdict_with(**changed: Any) -> Verdict:
    return decide(dataclasses.replace(GOOD, **changed), LIMITS)


def check(verdict: Verdict, name: str) -> Check:
    return next(found for found in verdict.checks if found.name == name)


def test_an_update_that_learned_and_forgot_nothing_is_promoted() -> None:
    verdict = decide(GOOD, LIMITS)

    assert verdict.outcome == "promote"
    names = [found.name for found in verdict.checks]
    assert names == ["finite", "consistent", "learned", "retained", "anchored", "kl_drift", "weight_drift"]
    assert check(verdict, "learned").value == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("finite", {"nonfinite": ("layer.lora_A",)}),
        ("consistent", {"contradicting_examples": 11}),
        ("learned", {"holdout_candidate": [3.0] * 12}),
        ("learned", {"holdout_candidate": [math.nan] * 12}),
        ("retained", {"retained_candidate": [1.5] * 12}),
        ("anchored", {"anchor_candidate": [0.9] * 12}),
        ("kl_drift", {"anchor_divergence": around(0.5)}),
        ("weight_drift", {"weight_drift": {"q": 0.01, "k": 5.0}}),
        ("weight_drift", {"weight_drift": {"q": math.nan}}),
        ("weight_drift", {"weight_drift": {}}),
    ],
)
def test_each_check_refuses_what_it_is_there_for(name: str, changed: dict[str, Any]) -> None:
    verdict = verdict_with(**changed)

    assert verdict.outcome == "refuse"
    assert check(verdict, name).outcome == "fail"
    assert verdict.reason.startswith(f"{name}: ")
    assert [found.name for found in verdict.checks if found.outcome == "fail"] == [name]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("learned", {"holdout_parent": [2.0] * 3, "holdout_candidate": [1.0] * 3}),
        ("learned", {"holdout_parent": [2.0, 1.0] * 6, "holdout_candidate": [1.0, 2.0] * 6}),
        ("consistent", {"new_examples": 0, "contradicting_examples": 0}),
        ("retained", {"retained_parent": [], "retained_candidate": []}),
        ("anchored", {"anchor_base": [0.5, 0.9] * 6, "anchor_candidate": [0.9, 0.54] * 6}),
    ],
    ids=[
        "too few",
        "no clear difference",
        "no new examples",
        "nothing to measure retention on",
        "interval spans the limit",
    ],
)
def test_what_cannot_be_told_is_never_a_pass(name: str, changed: dict[str, Any]) -> None:
    verdict = verdict_with(**changed)

    assert verdict.outcome == "inconclusive"
    assert check(verdict, name).outcome == "inconclusive"


def test_a_failure_outweighs_a_doubt() -> None:
    assert verdict_with(retained_parent=[], retained_candidate=[], nonfinite=("x",)).outcome == "refuse"


def test_a_first_update_has_nothing_to_retain() -> None:
    verdict = verdict_with(retained_parent=[], retained_candidate=[], learned_before=False)

    assert verdict.outcome == "promote"
    assert check(verdict, "retained").detail == "the parent has learned nothing yet"


def test_the_verdict_survives_json_even_when_it_is_about_nan() -> None:
    told = verdict_with(holdout_candidate=[math.nan] * 12, weight_drift={}).as_dict()

    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["outcome"] == "refuse"


numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)


@given(holdout=st.lists(numbers, max_size=12), anchors=st.lists(numbers, max_size=12), drift=numbers)
def test_whatever_is_measured_a_promotion_means_that_all_numbers_are_finite_and_enough(
    holdout: list[float], anchors: list[float], drift: float
) -> None:
    verdict = verdict_with(
        holdout_parent=[2.0] * len(holdout),
        holdout_candidate=holdout,
        anchor_base=[0.7] * len(anchors),
        anchor_candidate=anchors,
        weight_drift={"q": drift},
    )

    if verdict.outcome == "promote":
        assert len(holdout) >= LIMITS.min_holdout
        assert len(anchors) >= LIMITS.min_holdout
        assert all(math.isfinite(value) for value in [*holdout, *anchors, drift])


def test_the_same_numbers_give_the_same_verdict_after_a_round_trip() -> None:
    again = Measurements.from_dict(json.loads(json.dumps(GOOD.as_dict())))

    assert decide(again, LIMITS).as_dict() == decide(GOOD, LIMITS).as_dict()
