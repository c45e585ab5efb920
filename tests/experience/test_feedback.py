"""Feedback: what is wrong changes nothing, what is right becomes an example, the same twice folds."""

from __future__ import annotations

from typing import Any

import pytest

from selflearn.config import ExperienceSettings
from selflearn.errors import BadRequest, Conflict, NotFound
from selflearn.experience import FeedbackReceipt, add_feedback, counts, list_feedback, load_examples
from selflearn.experience.examples import Example
from selflearn.experience.feedback import MAX_REWARDED
from selflearn.experience.keeping.erasing import Note, erase_interactions
from selflearn.experience.texts import digest_of, question_of
from tests.stores import LEARNER, Bench, tables


def example(bench: Bench, number: int) -> Example:
    return load_examples(bench.store.connection(), "examples.id = ?", (number,))[0]


@pytest.mark.parametrize(
    ("given", "error", "code", "param"),
    [
        ({"kind": "applause"}, BadRequest, "unknown_kind", "kind"),
        ({"kind": "demonstration", "text": "8000"}, BadRequest, "unknown_kind", "kind"),
        ({"kind": "rating", "value": 1, "conversation": "c"}, BadRequest, "invalid_value", "interaction_id"),
        ({"kind": "rating", "value": 1, "over": "chatcmpl-1"}, BadRequest, "over_not_allowed", "over"),
        ({"kind": "preference"}, BadRequest, "empty_text", "text"),
        ({"kind": "preference", "text": "8000", "value": 1}, BadRequest, "value_not_allowed", "value"),
        ({"kind": "preference", "text": "I don't know."}, BadRequest, "same_as_answer", "text"),
        ({"kind": "preference", "text": "8000", "over": "chatcmpl-1"}, BadRequest, "over_not_allowed", "over"),
        ({"kind": "preference", "over": "chatcmpl-nothing"}, NotFound, "interaction_not_found", "over"),
        ({"kind": "reward"}, BadRequest, "invalid_value", "value"),
        ({"kind": "reward", "value": float("nan")}, BadRequest, "invalid_value", "value"),
        ({"kind": "reward", "value": float("inf")}, BadRequest, "invalid_value", "value"),
        ({"kind": "reward", "value": -1000.5}, BadRequest, "invalid_value", "value"),
        ({"kind": "reward", "value": True}, BadRequest, "invalid_value", "value"),
        ({"kind": "reward", "value": 1, "text": "good"}, BadRequest, "text_not_allowed", "text"),
        ({"kind": "comment", "text": " "}, BadRequest, "empty_text", "text"),
        ({"kind": "comment", "text": "too long", "value": 0}, BadRequest, "value_not_allowed", "value"),
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


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "rating", "value": -1},
        {"kind": "correction", "text": "8000"},
        {"kind": "preference", "text": "8000"},
        {"kind": "reward", "value": 0.25},
        {"kind": "comment", "text": "You could have asked which daemon."},
    ],
)
def test_the_same_feedback_again_changes_nothing(bench: Bench, given: dict[str, Any]) -> None:
    interaction_id = bench.interaction()
    bench.feedback(interaction_id, **given)
    before = tables(bench.store)
    with pytest.raises(Conflict) as caught:
        bench.feedback(interaction_id, **given)
    assert caught.value.code == "duplicate_feedback"
    assert tables(bench.store) == before


@pytest.mark.parametrize(
    ("ended", "answer"), [("running", None), ("failed", None), ("cancelled", "half an ans"), ("completed", "")]
)
def test_without_a_finished_answer_there_is_a_correction_but_no_rating(
    bench: Bench, ended: str, answer: str | None
) -> None:
    interaction_id = bench.interaction(state=ended, answer=answer)
    before = tables(bench.store)
    for kind, said in (("rating", {"value": 1}), ("preference", {"text": "8000"}), ("comment", {"text": "Too short."})):
        with pytest.raises(Conflict) as caught:
            bench.feedback(interaction_id, kind, **said)
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
    assert counts(bench.store, LEARNER)["examples"]["fresh"] == 1


def test_an_up_rated_answer_is_to_be_given_and_a_down_rated_one_is_not(bench: Bench) -> None:
    bench.experience = ExperienceSettings(reserve_share=0.0)
    up = bench.feedback(bench.interaction("Q1", "A1"), "rating", value=1)
    assert up.example_id is not None
    assert (example(bench, up.example_id).target, example(bench, up.example_id).kind) == ("A1", "rating")
    down = bench.feedback(bench.interaction("Q2", "A2"), "rating", value=-1)
    assert (down.status, down.detail) == ("accepted", "new example 2")
    assert down.example_id is not None
    found = example(bench, down.example_id)
    assert (found.objective, found.target, found.state) == ("unpaired_preference", "A2", "fresh")
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


def test_a_newer_correction_of_the_same_prompt_wins_over_the_older_one(bench: Bench) -> None:
    bench.correct("What is the port?", "8080")
    bench.correct("What is the port?", "8000")
    assert bench.states() == {1: "quarantined", 2: "fresh"}
    assert example(bench, 1).cluster == example(bench, 2).cluster


def test_what_is_said_again_is_not_superseded_any_more(bench: Bench) -> None:
    interaction_id = bench.interaction()
    bench.feedback(interaction_id, "correction", text="8080")
    bench.feedback(interaction_id, "correction", text="8000")
    again = bench.correct("What is the port?", "8080")
    assert (again.status, again.example_id) == ("folded", 1)
    assert bench.states() == {1: "fresh", 2: "quarantined"}  # the newer word wins


def test_the_latest_spelling_of_the_same_person_is_learned(bench: Bench) -> None:
    interaction_id = bench.interaction()
    bench.feedback(interaction_id, "correction", text="kubernetes")
    receipt = bench.feedback(interaction_id, "correction", text="Kubernetes")
    assert receipt.status == "folded"
    assert example(bench, 1).target == "Kubernetes"


def test_a_correction_outweighs_a_rating_of_the_same_interaction(bench: Bench) -> None:
    bench.experience = ExperienceSettings(reserve_share=0.0)
    rated_first = bench.interaction("Q1", "A1")
    bench.feedback(rated_first, "rating", value=1)
    bench.feedback(rated_first, "correction", text="better")
    corrected_first = bench.interaction("Q2", "A2")
    bench.feedback(corrected_first, "correction", text="better")
    late = bench.feedback(corrected_first, "rating", value=1)
    assert (late.status, late.example_id) == ("ignored", None)
    assert bench.states() == {1: "quarantined", 2: "fresh", 3: "fresh"}


def test_a_rating_taken_back_no_longer_trains(bench: Bench) -> None:
    bench.experience = ExperienceSettings(reserve_share=0.0)
    interaction_id = bench.interaction()
    bench.feedback(interaction_id, "rating", value=1)
    bench.feedback(interaction_id, "rating", value=-1)
    assert bench.store.read("SELECT objective, state, reason FROM examples ORDER BY id") == [
        {"objective": "supervised", "state": "quarantined", "reason": "down_rated"},
        {"objective": "unpaired_preference", "state": "fresh", "reason": None},
    ]


def test_a_rating_taken_back_the_other_way_is_good_again(bench: Bench) -> None:
    bench.experience = ExperienceSettings(reserve_share=0.0)
    interaction_id = bench.interaction()
    bench.feedback(interaction_id, "rating", value=-1)
    bench.feedback(interaction_id, "rating", value=1)
    assert bench.states() == {1: "quarantined", 2: "fresh"}


def test_a_share_of_up_rated_answers_goes_to_the_bounded_reserve(bench: Bench) -> None:
    bench.experience = ExperienceSettings(reserve_share=0.5, max_reserve=5)
    for number in range(40):
        asked = bench.interaction(f"question {number}", f"answer {number}")
        bench.feedback(asked, "rating", value=1, source="one" if number < 20 else "two")
    found = bench.store.read("SELECT source, state, count(*) AS n FROM examples GROUP BY 1, 2 ORDER BY 1, 2 DESC")
    assert [(row["source"], row["state"], row["n"]) for row in found] == [
        ("one", "reserve", 3),  # of one source no more than half
        ("one", "fresh", 17),
        ("two", "reserve", 2),
        ("two", "fresh", 18),
    ]


def test_a_prompt_that_trains_is_not_reserved(bench: Bench) -> None:
    bench.experience = ExperienceSettings(reserve_share=1.0)
    bench.correct("What is the port?", "8000")
    bench.feedback(bench.interaction("What is the port?", "8000, I think"), "rating", value=1)
    assert bench.states() == {1: "fresh", 2: "fresh"}


def test_content_in_parts_counts_as_text() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "What is the port?"}]}]
    plain = [{"role": "user", "content": "What is the port?"}]
    assert question_of(parts) == question_of(plain)
    assert digest_of(parts, "8000") == digest_of(plain, "8000")
    assert digest_of(plain, "8000") != digest_of([{"role": "system", "content": "x"}, *plain], "8000")
    assert question_of([{"role": "user", "content": "???"}]) != question_of([{"role": "user", "content": "!!!"}])


def test_half_a_surrogate_in_a_correction_is_stored_as_a_replacement(bench: Bench) -> None:
    receipt = bench.feedback(bench.interaction("q\ud800"), "correction", text="a\ud800b")
    assert receipt.example_id is not None
    assert example(bench, receipt.example_id).target == "a\ufffdb"


def test_what_each_kind_becomes(bench: Bench) -> None:
    said: list[dict[str, Any]] = [
        {"kind": "rating", "value": 1},
        {"kind": "rating", "value": -1},
        {"kind": "correction", "text": "It is 8000."},
        {"kind": "preference", "text": "It is 8000."},
        {"kind": "reward", "value": 0.25},
        {"kind": "comment", "text": "Say where to look it up."},
    ]
    bench.experience = ExperienceSettings(reserve_share=0.0)
    became = []
    for number, given in enumerate(said):
        receipt = bench.feedback(bench.interaction(f"What is the port of machine {number}?", "No idea."), **given)
        assert receipt.example_id is not None
        found = example(bench, receipt.example_id)
        became.append((found.objective, found.target, found.rejected, found.reward, found.state))
    assert became == [
        ("supervised", "No idea.", None, None, "fresh"),
        ("unpaired_preference", "No idea.", None, None, "fresh"),
        ("supervised", "It is 8000.", "No idea.", None, "fresh"),
        ("paired_preference", "It is 8000.", "No idea.", None, "fresh"),
        ("reward_weighted", "No idea.", None, 0.25, "fresh"),
        ("hindsight", "No idea.", None, None, "fresh"),
    ]


def test_comments_stand_beside_each_other_and_leave_the_question_what_it_was(bench: Bench) -> None:
    interaction_id = bench.interaction("What is the port?", "8080")
    first = bench.feedback(interaction_id, "comment", text="Too short.")
    second = bench.feedback(interaction_id, "comment", text="Also, it is 8000.")
    corrected = bench.feedback(interaction_id, "correction", text="8000")
    assert bench.states() == {1: "fresh", 2: "fresh", 3: "fresh"}
    examples = [example(bench, number) for number in (1, 2, 3)]
    assert [receipt.example_id for receipt in (first, second, corrected)] == [1, 2, 3]
    question = {"role": "user", "content": "What is the port?"}
    assert examples[0].messages == (question, {"role": "system", "name": "comment", "content": "Too short."})
    assert len({each.cluster for each in examples}) == 1


def test_one_answer_is_better_than_others_to_the_same_request(bench: Bench) -> None:
    chosen = bench.interaction("What is the port?", "8000", conversation="c")
    other = bench.interaction("What is the port?", "8080", conversation="c")
    third = bench.interaction("What is the port?", "I don't know.", conversation="c")
    receipts = [bench.feedback(chosen, "preference", over=worse) for worse in (other, third)]
    assert bench.states() == {1: "fresh", 2: "fresh"}
    assert [receipt.example_id for receipt in receipts] == [1, 2]
    found = example(bench, 1)
    assert (found.objective, found.target, found.rejected) == ("paired_preference", "8000", "8080")
    rows = bench.store.read("SELECT text, rejected FROM feedback ORDER BY rowid")
    assert rows == [{"text": other, "rejected": "8080"}, {"text": third, "rejected": "I don't know."}]


def test_answers_that_cannot_be_compared_change_nothing(bench: Bench) -> None:
    chosen = bench.interaction("What is the port?", "8000", conversation="c")
    others = {
        "another question": bench.interaction("What is the host?", "8080", conversation="c"),
        "another conversation": bench.interaction("What is the port?", "8080"),
        "another caller": bench.interaction("What is the port?", "8080", conversation="c", source="other"),
        "the same answer": bench.interaction("What is the port?", "8000", conversation="c"),
    }
    unfinished = bench.interaction("What is the port?", None, conversation="c", state="running")
    before = tables(bench.store)
    for what, other in others.items():
        with pytest.raises(BadRequest) as caught:
            bench.feedback(chosen, "preference", over=other)
        assert (caught.value.code, caught.value.param) == ("not_comparable", "over"), what
    with pytest.raises(Conflict):
        bench.feedback(chosen, "preference", over=unfinished)
    assert tables(bench.store) == before


def test_the_latest_reward_of_an_answer_holds(bench: Bench) -> None:
    interaction_id = bench.interaction()
    bench.feedback(interaction_id, "reward", value=1)
    bench.feedback(interaction_id, "reward", value=-0.5)
    bench.feedback(bench.interaction(), "reward", value=7)
    rows = bench.store.read("SELECT reward, state FROM examples ORDER BY id")
    assert [tuple(row.values()) for row in rows] == [(1.0, "quarantined"), (-0.5, "fresh"), (7.0, "fresh")]


def reward(bench: Bench, conversation: str, value: float) -> FeedbackReceipt:
    return add_feedback(
        bench.store,
        learner=LEARNER,
        conversation=conversation,
        kind="reward",
        value=value,
        source="local",
        now=bench.now,
    )


def test_a_conversation_is_rewarded_answer_by_answer(bench: Bench) -> None:
    bench.interaction("Q1", "A1", conversation="trip")
    bench.interaction("Q2", None, conversation="trip", state="failed")
    last = bench.interaction("Q3", "A3", conversation="trip")
    bench.interaction("Q4", "A4", conversation="other")
    receipt = reward(bench, "trip", 0.5)
    assert (receipt.status, receipt.example_id) == ("accepted", None)
    assert receipt.detail.startswith("2 answers of this conversation: 2 accepted")
    rows = bench.store.read("SELECT target, reward, state, interaction_id FROM examples ORDER BY id")
    assert [(row["target"], row["reward"], row["state"]) for row in rows] == [
        ("A1", 0.5, "fresh"),
        ("A3", 0.5, "fresh"),
    ]
    assert rows[1]["interaction_id"] == last
    (listed,) = list_feedback(bench.store, LEARNER)
    assert (listed["interaction_id"], listed["conversation"], listed["example_id"]) == (None, "trip", 1)
    with pytest.raises(Conflict) as caught:
        reward(bench, "trip", 0.5)
    assert caught.value.code == "duplicate_feedback"
    bench.interaction("Q5", "A5", conversation="trip")
    assert "1 accepted, 2 folded" in reward(bench, "trip", 0.5).detail


def test_only_a_reward_is_for_conversations_that_are_known(bench: Bench) -> None:
    bench.interaction("Q1", None, conversation="empty", state="failed")
    before = tables(bench.store)
    for name in ("unknown", "empty"):
        with pytest.raises(NotFound) as caught:
            reward(bench, name, 1)
        assert (caught.value.code, caught.value.param) == ("conversation_not_found", "conversation")
    with pytest.raises(BadRequest) as refused:
        add_feedback(bench.store, learner=LEARNER, conversation="empty", kind="rating", value=1, source="local")
    assert refused.value.code == "conversation_not_allowed"
    assert tables(bench.store) == before


def test_a_conversation_is_rewarded_up_to_a_bound(bench: Bench) -> None:
    for number in range(MAX_REWARDED + 2):
        bench.interaction(f"Q{number}", f"A{number}", conversation="long")
    assert reward(bench, "long", 1).detail.startswith(f"{MAX_REWARDED} answers")
    rows = bench.store.read("SELECT target FROM examples ORDER BY id")
    assert [row["target"] for row in rows] == [f"A{number}" for number in range(2, MAX_REWARDED + 2)]


def test_what_a_client_key_says_is_recorded_and_teaches_nothing(bench: Bench) -> None:
    interaction_id = bench.interaction()
    receipt = bench.feedback(interaction_id, "correction", text="8000", role="client")
    assert (receipt.status, receipt.example_id) == ("ignored", None)
    assert "role client" in receipt.detail
    assert bench.states() == {}
    bench.experience = ExperienceSettings(reserve_share=0.0)
    assert bench.feedback(interaction_id, "rating", value=1, role="teacher").status == "accepted"


def test_sources_and_users_are_kept_apart_and_pseudonymised(bench: Bench) -> None:
    who = {"source": "desk", "user": "ann@example.org", "role": "teacher"}
    bench.feedback(bench.interaction(), "correction", text="8000", **who)
    (row,) = bench.store.read("SELECT source, user, role FROM feedback")
    assert (row["source"], row["role"]) == ("desk", "teacher")
    assert row["user"]
    assert "ann" not in row["user"]
    assert bench.store.read("SELECT source, user FROM examples") == [{"source": "desk", "user": row["user"]}]


def test_secrets_in_what_is_said_are_redacted(bench: Bench) -> None:
    said = "Write to ann@example.org."
    for number, kind in enumerate(("correction", "preference", "comment")):
        bench.feedback(bench.interaction(f"Q{number}", f"A{number}"), kind, text=said, reason=said)
    assert "ann@" not in str(tables(bench.store))
    assert [row["redactions"] for row in list_feedback(bench.store, LEARNER)] == [2, 2, 2]


def test_what_an_answer_was_compared_with_is_forgotten_with_the_comparison(bench: Bench) -> None:
    chosen = bench.interaction("What is the port?", "8000", conversation="c")
    other = bench.interaction("What is the port?", "the worse answer", conversation="c")
    bench.feedback(chosen, "preference", over=other)
    note = Note(LEARNER, "operator", "asked to", 2000.0)
    done = bench.store.write(lambda connection: erase_interactions(connection, [other], note))
    assert done["feedback"] == 1
    assert "the worse answer" not in str(tables(bench.store))
    assert bench.store.read("SELECT id FROM interactions") == [{"id": chosen}]


def test_an_answer_that_its_length_cut_off_is_no_example(bench: Bench) -> None:
    receipt = bench.feedback(bench.interaction(answer="It listens on", finish_reason="length"), "rating", value=1)
    assert (receipt.status, receipt.example_id, bench.states()) == ("ignored", None, {})
    assert bench.feedback(bench.interaction(answer="It listens."), "rating", value=1).example_id
