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


ASSOCIATED = [0.4, 0.9, 1.3, 0.2, 0.7, -0.1, 1.1, 0.6]


def test_an_update_that_learned_and_forgot_nothing_is_promoted() -> None:
    verdict = decide(GOOD, LIMITS)

    assert verdict.outcome == "promote"
    names = [found.name for found in verdict.checks]
    assert names == ["finite", "consistent", "learned", "retained", "anchored", "kl_drift", "weight_drift"]
    assert check(verdict, "learned").value == pytest.approx(1.0, abs=0.02)


def test_answers_that_fit_any_question_teach_nothing() -> None:
    """However much the losses fall: labels that were shuffled do that as well, and one answer to everything."""
    assert verdict_with(mismatch=ASSOCIATED).outcome == "promote"
    assert check(verdict_with(mismatch=ASSOCIATED), "matched").value == pytest.approx(0.6375)
    assert check(verdict_with(mismatch=[0.0] * 12), "matched").outcome == "fail"
    assert check(verdict_with(mismatch=[-value for value in ASSOCIATED]), "matched").outcome == "fail"
    assert check(verdict_with(mismatch=[0.5, -0.5] * 6), "matched").outcome == "inconclusive"
    assert check(verdict_with(mismatch=[*ASSOCIATED, math.nan]), "matched").outcome == "fail"
    lenient = dataclasses.replace(LIMITS, min_match=-1.0)
    assert decide(dataclasses.replace(GOOD, mismatch=[0.0] * 12), lenient).outcome == "promote"


def test_where_too_few_have_a_right_answer_it_is_not_asked_whose_it_is() -> None:
    verdict = verdict_with(mismatch=[0.0] * (LIMITS.min_holdout - 1))
    assert verdict.outcome == "promote"
    assert "matched" not in {found.name for found in verdict.checks}


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


def answers(**changed: Any) -> dict[str, Any]:
    collapse = {"answers": 12, "empty": 0, "endless": 6, "entropy": [2.0, 1.0] * 4, "repetition": [0.1] * 12}
    canary = {"passed": True, "required": False, "why": ""}
    return {"canaries": {"port": canary, "manners": canary}, "collapse": {**collapse, **changed}}


def failing(required: bool = False) -> dict[str, Any]:
    told = {"passed": False, "required": required, "why": "/8000/ is not in the answer"}
    return {**answers(), "canaries": {**answers()["canaries"], "port": told}}


def test_what_else_was_gathered_is_judged_as_well_and_passes_where_nothing_changed() -> None:
    verdict = verdict_with(
        evidence={"parent": answers(), "candidate": answers()}, source_shares={"a": 0.5, "b": 0.5}, source_limit=0.5
    )

    assert verdict.outcome == "promote"
    names = {found.name for found in verdict.checks}
    assert {"trust", "collapse:entropy", "collapse:repetition", "collapse:broken", "canaries"} <= names
    assert check(verdict, "canaries").detail == "2 of 2 canary prompts pass"


@pytest.mark.parametrize(
    ("name", "parent", "candidate"),
    [
        ("collapse:entropy", answers(), answers(entropy=[0.5, 0.5] * 4)),
        ("collapse:entropy", answers(), answers(entropy=[2.0, None] * 4)),
        ("collapse:repetition", answers(), answers(repetition=[0.35] * 12)),
        ("collapse:repetition", answers(repetition=[0.45] * 12), answers(repetition=[0.55] * 12)),
        ("collapse:broken", answers(), answers(empty=6)),
        ("collapse:broken", answers(), answers(endless=12)),
        ("canaries", answers(), failing()),
        ("canaries", failing(), failing(required=True)),
    ],
)
def test_answers_that_got_worse_are_refused(name: str, parent: dict[str, Any], candidate: dict[str, Any]) -> None:
    verdict = verdict_with(evidence={"parent": parent, "candidate": candidate})

    assert verdict.outcome == "refuse"
    assert [found.name for found in verdict.checks if found.outcome == "fail"] == [name]


def test_a_canary_that_the_parent_failed_may_fail_and_one_that_broke_says_how() -> None:
    assert verdict_with(evidence={"parent": failing(), "candidate": failing()}).outcome == "promote"
    broken = verdict_with(evidence={"parent": answers(), "candidate": failing()})
    assert "port: /8000/ is not in the answer" in broken.reason


def test_a_candidate_that_gave_no_answers_does_not_pass() -> None:
    assert verdict_with(evidence={"parent": answers(), "candidate": None}).outcome == "inconclusive"
    assert verdict_with(evidence={"parent": answers(), "candidate": answers(answers=0)}).outcome == "inconclusive"


def test_a_source_that_brings_too_much_is_refused_by_name() -> None:
    verdict = verdict_with(source_shares={"flood": 0.7, "b": 0.3}, source_limit=0.5)

    assert verdict.outcome == "refuse"
    assert "70%, is of 'flood', at most 50%" in verdict.reason


MIXED = ["supervised"] * 24 + ["unpaired_preference"] * 8


def test_an_objective_that_got_worse_is_seen_behind_one_that_got_much_better() -> None:
    better = {"holdout_parent": around(2.0, 24) + [0.3] * 8, "holdout_candidate": [1.0] * 24 + [0.5] * 8}
    verdict = verdict_with(**better, holdout_objectives=MIXED)

    assert check(verdict, "learned").outcome == "pass"
    assert verdict.outcome == "refuse"
    assert "KTO loss" in check(verdict, "not_worse:unpaired_preference").detail
    assert "nats/token" in check(verdict, "not_worse:supervised").detail
    assert verdict_with(**better, holdout_objectives=MIXED[:1] * 32).outcome == "promote"


def test_an_objective_that_was_forgotten_is_seen_behind_one_that_was_not() -> None:
    forgot = {"retained_parent": [1.0] * 24 + [0.3] * 8, "retained_candidate": [0.9] * 24 + [0.45] * 8}
    verdict = verdict_with(**forgot, retained_objectives=MIXED)

    assert check(verdict, "retained").outcome == "pass"
    assert check(verdict, "retained:unpaired_preference").outcome == "fail"


def test_that_objectives_gain_differently_is_no_doubt_about_a_mean_over_them() -> None:
    gained = {
        "holdout_parent": [5.0, 5.1, 5.2, 5.1, 0.4, 0.45, 0.42, 0.41],
        "holdout_candidate": [2.0] * 4 + [0.35] * 4,
    }
    kinds = ["supervised"] * 4 + ["unpaired_preference"] * 4

    assert verdict_with(**gained).outcome == "inconclusive"
    told = check(verdict_with(**gained, holdout_objectives=kinds), "learned")
    assert told.outcome == "pass"
    assert told.value == pytest.approx(1.585)


def test_an_objective_of_which_too_few_judge_has_no_check_of_its_own() -> None:
    few = ["supervised"] * 8 + ["paired_preference"] * 4

    names = [found.name for found in verdict_with(holdout_objectives=few).checks]
    assert "not_worse:supervised" in names
    assert "not_worse:paired_preference" not in names


def test_many_small_rises_are_a_large_one() -> None:
    ids = list(range(12))
    older = {str(number): 0.9 - 0.02 * (number % 3) for number in ids}
    crept = {str(number): 0.7 - 0.02 * (number % 3) for number in ids}

    assert verdict_with(retained_ids=ids, ancestors={"5": older}).outcome == "promote"
    verdict = verdict_with(retained_ids=ids, ancestors={"5": older, "3": crept})
    assert check(verdict, "retained").outcome == "pass"
    assert check(verdict, "ancestors").outcome == "fail"
    assert "since version 3" in verdict.reason
    few = {str(number): 0.0 for number in ids[:7]}
    assert verdict_with(retained_ids=ids, ancestors={"3": few}).outcome == "promote"


FAIR = {"holdout_parent": [1.6, 1.2, 1.5, 1.1, 1.7, 1.2, 1.4, 0.9, 1.3, 1.6, 1.0, 1.4], "holdout_candidate": [1.1] * 12}


def test_what_was_looked_at_often_must_be_surer() -> None:
    assert verdict_with(**FAIR).outcome == "promote"
    late = verdict_with(**FAIR, earlier_looks=40)

    assert late.outcome == "inconclusive"
    assert "in look 41 since the last promotion" in check(late, "learned").detail
    assert verdict_with(**FAIR, tried_scales=4).outcome == "inconclusive"
    assert verdict_with(earlier_looks=10_000).outcome == "promote"


def test_the_sizes_of_one_update_share_the_level_of_every_interval() -> None:
    one, four = verdict_with(), verdict_with(tried_scales=4)

    assert check(four, "retained").high > check(one, "retained").high


def test_a_doubt_says_how_many_examples_would_decide_it() -> None:
    gains = [0.5, -0.3, 0.4, -0.2, 0.6, -0.1, 0.3, -0.4]
    verdict = verdict_with(holdout_parent=[1.0 + gain for gain in gains], holdout_candidate=[1.0] * 8, new_examples=32)
    doubt = check(verdict, "learned")

    assert doubt.outcome == "inconclusive"
    assert doubt.needed is not None
    again = math.ceil(doubt.needed / 8)
    more = {"holdout_parent": [1.0 + gain for gain in gains * again], "holdout_candidate": [1.0] * (8 * again)}
    assert check(verdict_with(**more), "learned").outcome == "pass"
    half = again // 2
    less = {"holdout_parent": [1.0 + gain for gain in gains * half], "holdout_candidate": [1.0] * (8 * half)}
    assert check(verdict_with(**less), "learned").outcome == "inconclusive"
    assert f"about {math.ceil(doubt.needed * 4)} new ones together (8 of 32 judged" in doubt.detail
    assert verdict.as_dict()["checks"][2]["needed"] == doubt.needed


def test_too_few_examples_say_how_many_are_needed_and_a_mean_at_the_limit_that_none_would_do() -> None:
    assert check(verdict_with(retained_parent=[1.0] * 3, retained_candidate=[1.0] * 3), "retained").needed == 8
    at_limit = {"retained_parent": [1.0, 1.2] * 6, "retained_candidate": [1.2, 1.2] * 6}
    hardly = check(verdict_with(**at_limit), "retained")
    assert hardly.needed is None
    assert "more samples hardly decide" in hardly.detail


def test_reports_of_before_there_was_more_to_measure_are_judged_as_they_were() -> None:
    old = GOOD.as_dict()
    for name in ("evidence", "source_shares", "source_limit", "ancestors", "scale", "tried_scales", "earlier_looks"):
        del old[name]
    for name in ("holdout_objectives", "retained_objectives", "retained_ids"):
        del old[name]

    assert decide(Measurements.from_dict(old), LIMITS).as_dict() == decide(GOOD, LIMITS).as_dict()
    with pytest.raises(KeyError, match="weight_drift"):
        Measurements.from_dict({key: value for key, value in old.items() if key != "weight_drift"})


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
