"""Feedback: what is wrong changes nothing, what is right becomes an example, the same twice folds."""

from __future__ import annotations

from typing import Any

import pytest

from selflearn.config import JudgingSettings
from selflearn.errors import BadRequest, Conflict, NotFound
from selflearn.experience import counts, fresh_count, list_feedback, load_examples
from selflearn.experience.examples import Example, cluster_of, digest_of
from tests.stores import LEARNER, Bench, tables


def example(bench: Bench, number: int) -> Example:
    return load_examples(bench.store.connection(), "examples.id = ?", (number,))[0]


@pytest.mark.parametrize(
    ("given", "error", "code", "param"),
    [
        ({"kind": "applause"}, BadRequest, "unknown_kind", "kind"),
        ({"kind": "rating"}, BadRequest, "invalid_value", "value"),
        ({"kind": "rating", "value": 0}, BadRequest, "invalid_value", "value"),
        ({"kind": "rating", "value": 5}, BadRequest, "invalid_value", "value"),
        ({"kind": "rating", "value": float("nan")}, BadRequest, "invalid_value", "value"),
        ({"kind": "rating", "value": True}, BadRequest, "invalid_value", "value"),
        ({"kind": "rating", "value": 1, "text": "good"}, BadRequest, "text_not_allowed", "text"),
        ({"kind": "correction"}, BadRequest, "empty_text", "text"),
        ({"kind": "correction", "text": ""}, BadRequest, "empty_text", "text"),
        ({"kind": "correction", "text": " \n\t "}, BadRequest, "empty_text", "text"),
        ({"kind": "correction", "text": "8000", "value": 1}, BadRequest, "value_not_allowed", "value"),
        ({"kind": "correction", "text": " I don't know. "}, BadRequest, "same_as_answer", "text"),
    ],
)
def test_bad_feedback_changes_nothing(
    bench: Bench, given: dict[str, Any], error: type[BadRequest], code: str, param: str
) -> None:
    interaction_id = bench.interaction()
    before = tables(bench.store)
    with pytest.raises(error) as caught:
        bench.feedback(interaction_id, **given)
    assert (type(caught.value), caught.value.code, caught.value.param) == (error, code, param)
    assert tables(bench.store) == before


def test_feedback_on_an_unknown_interaction_changes_nothing(bench: Bench) -> None:
    before = tables(bench.store)
    with pytest.raises(NotFound) as caught:
        bench.feedback("chatcmpl-nothing", "correction", text="8000")
    assert caught.value.code == "interaction_not_found"
    assert tables(bench.store) == before


@pytest.mark.parametrize("given", [{"kind": "rating", "value": -1}, {"kind": "correction", "text": "8000"}])
def test_the_same_feedback_again_changes_nothing(bench: Bench, given: dict[str, Any]) -> None:
    interaction_id = bench.interaction()
    bench.feedback(interaction_id, **given)
    before = tables(bench.store)
    with pytest.raises(Conflict) as caught:
        bench.feedback(interaction_id, **given)
    assert caught.value.code == "duplicate_feedback"
    assert tables(bench.store) == before


@pytest.mark.parametrize(
    ("state", "answer"), [("running", None), ("failed", None), ("cancelled", "half an ans"), ("completed", "")]
)
def test_without_a_finished_answer_there_is_a_correction_but_no_rating(
    bench: Bench, state: str, answer: str | None
) -> None:
    interaction_id = bench.interaction(state=state, answer=answer)
    before = tables(bench.store)
    with pytest.raises(Conflict) as caught:
        bench.feedback(interaction_id, "rating", value=1)
    assert caught.value.code == "no_answer"
    assert tables(bench.store) == before
    assert bench.feedback(interaction_id, "correction", text="8000").status == "accepted"


def test_a_correction_becomes_an_example(bench: Bench) -> None:
    receipt = bench.correct("What is the port?", " 8000 ")
    assert receipt.status == "accepted"
    assert receipt.id.startswith("fb-")
    assert receipt.example_id is not None
    found = example(bench, receipt.example_id)
    assert (found.kind, found.target, found.state) == ("correction", "8000", "fresh")
    assert found.messages == ({"role": "user", "content": "What is the port?"},)
    assert found.conversation == "conversation-0"
    assert fresh_count(bench.store, LEARNER) == 1


def test_an_up_rated_answer_becomes_an_example_and_a_down_rated_one_does_not(bench: Bench) -> None:
    bench.judging = JudgingSettings(reserve_share=0.0)
    up = bench.feedback(bench.interaction("Q1", "A1"), "rating", value=1)
    assert up.example_id is not None
    assert (example(bench, up.example_id).target, example(bench, up.example_id).kind) == ("A1", "rating")
    down = bench.feedback(bench.interaction("Q2", "A2"), "rating", value=-1)
    assert (down.status, down.example_id) == ("accepted", None)
    assert counts(bench.store, LEARNER)["feedback"] == {"rating": {"accepted": 2}}


def test_exact_duplicates_fold(bench: Bench) -> None:
    first = bench.correct("What is the port?", "It is 8000.")
    second = bench.correct("what is  the PORT?", "it is 8000. ")
    assert (second.status, second.example_id) == ("folded", first.example_id)
    assert bench.store.read("SELECT duplicates FROM examples") == [{"duplicates": 1}]
    assert [row["status"] for row in list_feedback(bench.store, LEARNER)] == ["folded", "accepted"]


def test_a_newer_correction_of_the_same_interaction_supersedes_the_older(bench: Bench) -> None:
    interaction_id = bench.interaction()
    bench.feedback(interaction_id, "correction", text="8080")
    bench.feedback(interaction_id, "correction", text="8000")
    assert bench.states() == {1: "quarantined", 2: "fresh"}
    assert bench.store.read("SELECT reason FROM examples WHERE id = 1") == [{"reason": "superseded"}]


def test_another_interactions_correction_of_the_same_prompt_stands_beside_it(bench: Bench) -> None:
    bench.correct("What is the port?", "8080")
    bench.correct("What is the port?", "8000")
    assert bench.states() == {1: "fresh", 2: "fresh"}
    assert example(bench, 1).cluster == example(bench, 2).cluster


def test_what_another_interaction_vouches_for_is_not_superseded_any_more(bench: Bench) -> None:
    interaction_id = bench.interaction()
    bench.feedback(interaction_id, "correction", text="8080")
    bench.feedback(interaction_id, "correction", text="8000")
    again = bench.correct("What is the port?", "8080")
    assert (again.status, again.example_id) == ("folded", 1)
    assert bench.states() == {1: "fresh", 2: "fresh"}


def test_the_latest_spelling_of_the_same_person_is_learned(bench: Bench) -> None:
    interaction_id = bench.interaction()
    bench.feedback(interaction_id, "correction", text="kubernetes")
    receipt = bench.feedback(interaction_id, "correction", text="Kubernetes")
    assert receipt.status == "folded"
    assert example(bench, 1).target == "Kubernetes"


def test_a_correction_outweighs_a_rating_of_the_same_interaction(bench: Bench) -> None:
    bench.judging = JudgingSettings(reserve_share=0.0)
    rated_first = bench.interaction("Q1", "A1")
    bench.feedback(rated_first, "rating", value=1)
    bench.feedback(rated_first, "correction", text="better")
    corrected_first = bench.interaction("Q2", "A2")
    bench.feedback(corrected_first, "correction", text="better")
    late = bench.feedback(corrected_first, "rating", value=1)
    assert (late.status, late.example_id) == ("ignored", None)
    assert bench.states() == {1: "quarantined", 2: "fresh", 3: "fresh"}


def test_a_rating_taken_back_no_longer_trains(bench: Bench) -> None:
    bench.judging = JudgingSettings(reserve_share=0.0)
    interaction_id = bench.interaction()
    bench.feedback(interaction_id, "rating", value=1)
    bench.feedback(interaction_id, "rating", value=-1)
    assert bench.store.read("SELECT state, reason FROM examples") == [{"state": "quarantined", "reason": "down-rated"}]


def test_a_share_of_up_rated_answers_goes_to_the_bounded_reserve(bench: Bench) -> None:
    bench.judging = JudgingSettings(reserve_share=0.5, max_reserve=5)
    for number in range(40):
        bench.feedback(bench.interaction(f"question {number}", f"answer {number}"), "rating", value=1)
    states = list(bench.states().values())
    assert states.count("reserve") == 5
    assert states.count("fresh") == 35


def test_a_prompt_that_trains_is_not_reserved(bench: Bench) -> None:
    bench.judging = JudgingSettings(reserve_share=1.0)
    bench.correct("What is the port?", "8000")
    bench.feedback(bench.interaction("What is the port?", "8000, I think"), "rating", value=1)
    assert bench.states() == {1: "fresh", 2: "fresh"}


def test_content_in_parts_counts_as_text() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "What is the port?"}]}]
    plain = [{"role": "user", "content": "What is the port?"}]
    assert cluster_of(parts) == cluster_of(plain)
    assert digest_of(parts, "8000") == digest_of(plain, "8000")
    assert digest_of(plain, "8000") != digest_of([{"role": "system", "content": "x"}, *plain], "8000")
    assert cluster_of([{"role": "user", "content": "???"}]) != cluster_of([{"role": "user", "content": "!!!"}])


def test_half_a_surrogate_in_a_correction_is_stored_as_a_replacement(bench: Bench) -> None:
    receipt = bench.feedback(bench.interaction("q\ud800"), "correction", text="a\ud800b")
    assert receipt.example_id is not None
    assert example(bench, receipt.example_id).target == "a\ufffdb"
