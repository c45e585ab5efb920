"""Contradictions: who differs waits for the operator, who changes their own mind does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selflearn.config import ExperienceSettings
from selflearn.experience import FeedbackReceipt, Order, release, show_example
from selflearn.experience.trust.contradictions import MAX_OPEN, contradicts
from tests.stores import LEARNER, Bench

QUESTION = "What is the port of the daemon?"


def reasons(bench: Bench) -> dict[int, str | None]:
    """The reason of each example in quarantine; the state of the others."""
    found = bench.store.read("SELECT id, state, reason FROM examples ORDER BY id")
    return {row["id"]: row["reason"] if row["state"] == "quarantined" else row["state"] for row in found}


def detail(bench: Bench, example_id: int) -> str:
    return str(bench.store.read("SELECT detail FROM examples WHERE id = ?", (example_id,))[0]["detail"])


def test_two_sources_that_differ_are_both_held(bench: Bench) -> None:
    bench.correct(QUESTION, "8000", source="alice")
    receipt = bench.correct(QUESTION, "It is 9999.", source="mallory")

    assert receipt.status == "quarantined"
    assert reasons(bench) == {1: "contradiction", 2: "contradiction"}
    assert "mallory" in detail(bench, 1)
    assert "example 1 of alice" in detail(bench, 2)
    assert "8000" not in detail(bench, 2)


def test_a_third_answer_waits_as_well(bench: Bench) -> None:
    for source, answer in (("alice", "8000"), ("mallory", "9999"), ("eve", "7777")):
        bench.correct(QUESTION, answer, source=source)

    assert set(reasons(bench).values()) == {"contradiction"}


def test_who_agrees_with_one_side_changes_nothing(bench: Bench) -> None:
    bench.correct(QUESTION, "8000", source="alice")
    bench.correct(QUESTION, "9999", source="mallory")
    receipt = bench.correct(QUESTION, "8000", source="bob")

    assert receipt.status == "folded"
    assert reasons(bench) == {1: "contradiction", 2: "contradiction"}


def test_the_newer_word_of_a_source_wins(bench: Bench) -> None:
    bench.correct(QUESTION, "8000", source="alice")
    receipt = bench.correct(QUESTION, "It is 9999 since Monday.", source="alice")

    assert receipt.status == "accepted"
    assert reasons(bench) == {1: "superseded", 2: "fresh"}


def test_a_source_that_is_held_may_think_again(bench: Bench) -> None:
    bench.correct(QUESTION, "8000", source="alice")
    bench.correct(QUESTION, "9999", source="mallory")
    bench.correct(QUESTION, "7777", source="mallory")

    assert reasons(bench) == {1: "contradiction", 2: "superseded", 3: "contradiction"}


def test_what_was_taken_back_does_not_come_in_through_another_source(bench: Bench) -> None:
    bench.correct(QUESTION, "9999", source="alice")
    bench.correct(QUESTION, "8000", source="alice")
    bench.correct(QUESTION, "9999", source="mallory")  # the same as what alice took back

    assert reasons(bench) == {1: "contradiction", 2: "contradiction"}


def test_a_trained_word_stays_and_the_newer_one_waits(bench: Bench) -> None:
    for number in range(12):
        bench.correct(f"question {number}", f"the answer {number}", source="alice")
    bench.promote(bench.begin_update())
    trained = next(number for number, state in bench.states().items() if state == "trained")
    receipt = bench.correct(f"question {trained - 1}", "something else", source="bob")

    assert receipt.status == "quarantined"
    assert bench.states()[trained] == "trained"


def test_only_the_same_whole_prompt_counts(bench: Bench) -> None:
    asked = {"role": "user", "content": QUESTION}
    for source, system in (("alice", "You are the daemon of team A."), ("bob", "You are the daemon of team B.")):
        messages = [{"role": "system", "content": system}, asked]
        bench.feedback(bench.interaction(messages=messages), "correction", text=source, source=source)

    assert reasons(bench) == {1: "fresh", 2: "fresh"}


def test_two_good_answers_never_contradict(bench: Bench) -> None:
    bench.experience = ExperienceSettings(reserve_share=0.0)
    bench.correct(QUESTION, "8000", source="alice")
    bench.feedback(bench.interaction(QUESTION, "It depends."), "rating", value=1.0, source="bob")
    bench.feedback(bench.interaction(QUESTION, "Look it up."), "rating", value=1.0, source="eve")
    bench.feedback(bench.interaction(QUESTION, "Who knows?"), "rating", value=-1.0, source="eve")
    bench.feedback(bench.interaction(QUESTION, "It depends."), "preference", text="Look it up.", source="bob")
    bench.feedback(bench.interaction(QUESTION, "8000"), "reward", value=-1.0, source="bob")
    bench.feedback(bench.interaction(QUESTION, "8000"), "comment", text="Is it?", source="bob")

    assert set(reasons(bench).values()) == {"fresh"}


@pytest.mark.parametrize("written", [True, False])
def test_the_same_answer_cannot_be_right_and_wrong(bench: Bench, written: bool) -> None:
    bench.experience = ExperienceSettings(reserve_share=0.0)

    def right(source: str) -> FeedbackReceipt:
        if written:
            return bench.correct(QUESTION, "It is 8000.", source=source)
        return bench.feedback(bench.interaction(QUESTION, "It is 8000."), "rating", value=1.0, source=source)

    def wrong(source: str) -> FeedbackReceipt:
        return bench.feedback(bench.interaction(QUESTION, "it is  8000."), "rating", value=-1.0, source=source)

    right("alice")
    assert wrong("bob").status == "quarantined"
    assert reasons(bench) == {1: "contradiction", 2: "contradiction"}
    wrong("alice")  # she thinks again, and agrees with bob: an operator may release it
    assert reasons(bench) == {1: "contradiction", 2: "contradiction"}


def test_of_the_same_source_the_newer_rating_of_an_answer_wins(bench: Bench) -> None:
    bench.experience = ExperienceSettings(reserve_share=0.0)
    for value, expected in (
        (1.0, {1: "fresh"}),
        (-1.0, {1: "superseded", 2: "fresh"}),
        (1.0, {1: "fresh", 2: "superseded"}),
        (-1.0, {1: "superseded", 2: "fresh"}),
    ):
        bench.feedback(bench.interaction(QUESTION, "It is 8000."), "rating", value=value, source="alice")
        assert reasons(bench) == expected


def prefer(bench: Bench, better: str, worse: str, source: str) -> FeedbackReceipt:
    return bench.feedback(bench.interaction(QUESTION, worse), "preference", text=better, source=source)


def test_preferences_contradict_where_they_are_each_other_the_wrong_way_around(bench: Bench) -> None:
    prefer(bench, "It is 8000.", "It is 8080.", "alice")
    prefer(bench, "It is 8000.", "No idea.", "bob")
    prefer(bench, "See the manual.", "It is 8000.", "bob")
    assert set(reasons(bench).values()) == {"fresh"}
    assert prefer(bench, "It is 8080.", "It is 8000.", "bob").status == "quarantined"
    assert reasons(bench) == {1: "contradiction", 2: "fresh", 3: "fresh", 4: "contradiction"}
    assert prefer(bench, "It is 8080.", "It is 8000.", "alice").status == "folded"


def test_who_prefers_otherwise_now_has_changed_their_mind(bench: Bench) -> None:
    prefer(bench, "It is 8000.", "It is 8080.", "alice")
    prefer(bench, "It is 8080.", "It is 8000.", "alice")
    assert reasons(bench) == {1: "superseded", 2: "fresh"}


def test_an_operator_decides_between_ratings(bench: Bench) -> None:
    bench.experience = ExperienceSettings(reserve_share=0.0)
    bench.feedback(bench.interaction(QUESTION, "It is 8000."), "rating", value=1.0, source="alice")
    bench.feedback(bench.interaction(QUESTION, "It is 8000."), "rating", value=-1.0, source="bob")
    order = Order(LEARNER, "operator", "asked", 5000.0)
    done = bench.store.write(lambda connection: release(connection, order, [2]))
    assert (done["released"], done["superseded"]) == ([{"id": 2, "state": "fresh"}], [1])
    shown = show_example(bench.store, LEARNER, 2)
    assert (shown["objective"], shown["contradicts"]) == ("unpaired_preference", [])


def test_what_a_source_takes_back_elsewhere_after_it_trained_is_not_replayed(bench: Bench) -> None:
    for number in range(12):
        bench.correct(f"question {number}", f"the answer {number}", source="alice")
    bench.promote(bench.begin_update())
    trained = next(number for number, state in bench.states().items() if state == "trained")
    receipt = bench.correct(f"question {trained - 1}", "something else", source="alice")

    assert receipt.status == "accepted"
    assert reasons(bench)[trained] == "superseded"


def test_a_hostile_key_cannot_deny_everybody_their_learning(bench: Bench) -> None:
    questions = [f"Who owns building {number}?" for number in range(MAX_OPEN + 4)]
    for number, question in enumerate(questions):
        bench.correct(question, f"Department {number}", source="alice")
    for question in questions:
        bench.correct(question, "Mallory", source="mallory")

    found = bench.store.read("SELECT source, state, count(*) AS n FROM examples GROUP BY source, state")
    counted = {(row["source"], row["state"]): row["n"] for row in found}
    assert counted == {
        ("alice", "quarantined"): MAX_OPEN,
        ("alice", "fresh"): 4,
        ("mallory", "quarantined"): len(questions),
    }


SAME: tuple[tuple[str, str], ...] = (
    ("8000", "The port is 8000."),
    ("Paris", "paris!"),
    ("The port is 8000.", "the port is  8000"),
    ("Yes.", "Yes, since release 4."),
    ("No.", "No, it does not."),
    ("Run `svc restart`.", "Run svc restart, then wait."),
)
DIFFERENT: tuple[tuple[str, str], ...] = (
    ("8000", "9000"),
    ("-5", "5"),
    ("The shop opens at nine in the morning.", "The shop opens at ten in the morning."),
    ("It is allowed.", "It is not allowed."),
    ("Yes.", "Yes, but not on Sundays."),
    ("restart it", "don't restart it"),
    ("Das geht.", "Das geht nicht."),
    ("18", "In 2018."),
    ("...", "Paris"),
)


@pytest.mark.parametrize(("a", "b"), SAME)
def test_saying_it_shorter_is_no_contradiction(a: str, b: str) -> None:
    assert not contradicts(a, b)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_saying_something_else_is(a: str, b: str) -> None:
    assert contradicts(a, b)


@given(st.text(max_size=40), st.text(max_size=40))
def test_contradicting_goes_both_ways(a: str, b: str) -> None:
    assert contradicts(a, b) == contradicts(b, a)
    assert not contradicts(a, a)
