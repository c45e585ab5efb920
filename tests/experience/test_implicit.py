"""Implicit signals: what is read from what people do, when it counts, and what outranks it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from selflearn.config import ExperienceSettings
from selflearn.errors import BadRequest, NotFound
from selflearn.experience import (
    FeedbackReceipt,
    add_event,
    begin_interaction,
    finish_interaction,
    list_feedback,
    observe,
)
from selflearn.experience.implicit import RECENT
from selflearn.experience.rejections import rejection
from selflearn.experience.signals import Role
from tests.benchmarks.implicit import Score, conversations, score_sessions, score_turns
from tests.stores import LEARNER, Bench, tables

ON = ExperienceSettings(implicit_regenerate=True, implicit_next_turn=True, implicit_events=True, reserve_share=0.0)
QUESTION = {"role": "user", "content": "What is the port?"}


def ask(
    bench: Bench,
    name: str,
    *messages: dict[str, Any],
    at: float,
    answer: str = "It is 8000.",
    role: Role = "teacher",
    user: str | None = "ann",
    conversation: str = "chat",
    settings: ExperienceSettings = ON,
) -> list[FeedbackReceipt]:
    """Records an answer that took two seconds, and returns what was read from the request."""
    begin_interaction(
        bench.store,
        interaction_id=name,
        learner=LEARNER,
        conversation=conversation,
        source="desk",
        user=user,
        role=role,
        version=0,
        messages=messages,
        parameters={"temperature": 0.7},
        prompt_tokens=None,
        now=lambda: at,
    ).result()
    finish_interaction(
        bench.store,
        name,
        answer=answer,
        state="completed",
        finish_reason="stop",
        completion_tokens=None,
        now=lambda: at + 2,
    ).result()
    return observe(bench.store, LEARNER, name, settings, now=bench.now)


def history(answer: str, turn: str) -> tuple[dict[str, Any], ...]:
    return QUESTION, {"role": "assistant", "content": answer}, {"role": "user", "content": turn}


def event(bench: Bench, interaction_id: str, name: str, **options: Any) -> FeedbackReceipt:
    given: dict[str, Any] = {"source": "desk", "role": "teacher", "settings": ON, **options}
    return add_event(bench.store, learner=LEARNER, interaction_id=interaction_id, event=name, now=bench.now, **given)


@pytest.mark.parametrize(
    ("part", "precision", "recall"), [("first", 0.99, 0.99), ("second", 0.97, 0.87), ("unseen", 0.9, 0.8)]
)
def test_next_turns_are_read_as_precisely_as_the_documentation_says(part: str, precision: float, recall: float) -> None:
    rows = [row for row in conversations() if row["signal"] == "next_turn" and row["part"] == part]
    assert len(rows) > 100
    check(score_turns(rows), precision, recall)


@pytest.mark.parametrize(
    ("signal", "precision", "recall"),
    [("regenerate", 0.74, 0.79), ("discarded", 0.8, 0.99), ("copied", 0.73, 0.99), ("accepted", 0.83, 0.99)],
)
def test_sessions_are_read_as_precisely_as_the_documentation_says(
    bench: Bench, signal: str, precision: float, recall: float
) -> None:
    check(score_sessions(bench.store, [row for row in conversations() if row["signal"] == signal]), precision, recall)


def check(score: Score, precision: float, recall: float) -> None:
    assert score.precision is not None
    assert score.recall is not None
    assert score.precision >= precision, score.mistakes
    assert score.recall >= recall, score.mistakes


@pytest.mark.parametrize(
    "piece", ["no, ", "that's ", "wrong ", '"', "not the ", "I'm afraid that ", "translate ", "a: "]
)
def test_reading_a_hostile_turn_takes_no_time(piece: str) -> None:
    started = time.monotonic()
    for _ in range(3):
        rejection("q" * 10_000, "paste " * 10_000, piece * 20_000)
        rejection("q", "a", piece * 20_000)
    assert time.monotonic() - started < 1.5


def test_a_turn_that_rejects_the_answer_is_a_rating_and_a_comment_on_it(bench: Bench) -> None:
    ask(bench, "first", QUESTION, at=0.0)
    turn = "That's wrong, it is 8443. My mail is ann@example.org."
    rating, comment = ask(bench, "second", *history("It is 8000.", turn), at=60.0)
    assert (rating.kind, rating.status, comment.kind, comment.status) == ("rating", "accepted", "comment", "accepted")
    newest, oldest = list_feedback(bench.store, LEARNER)
    assert (oldest["interaction_id"], oldest["value"], oldest["signal"]) == ("first", -1.0, "next_turn")
    assert "that's wrong" in oldest["reason"]
    assert (newest["interaction_id"], newest["signal"], newest["source"], newest["user"]) == (
        "first",
        "next_turn",
        "desk",
        "ann",
    )
    assert newest["text"].startswith("That's wrong, it is 8443.")
    assert "ann@example.org" not in newest["text"]
    rows = bench.store.read("SELECT objective, state, interaction_id FROM examples ORDER BY id")
    assert [tuple(row.values()) for row in rows] == [
        ("unpaired_preference", "fresh", "first"),
        ("hindsight", "fresh", "first"),
    ]
    assert observe(bench.store, LEARNER, "second", ON) == []


@pytest.mark.parametrize(
    "changed",
    [{"answer": "It is 80."}, {"user": "bob"}, {"conversation": "another"}, {"settings": ExperienceSettings()}],
)
def test_a_turn_is_about_an_answer_only_as_it_was_given_to_the_same_person(
    bench: Bench, changed: dict[str, Any]
) -> None:
    ask(bench, "first", QUESTION, at=0.0)
    said = history(changed.pop("answer", "It is 8000."), "That's wrong.")
    before = bench.store.read("SELECT * FROM feedback")
    assert ask(bench, "second", *said, at=60.0, **changed) == []
    assert bench.store.read("SELECT * FROM feedback") == before


def test_asking_again_counts_against_the_answer_before(bench: Bench) -> None:
    ask(bench, "first", QUESTION, at=0.0)
    (receipt,) = ask(bench, "second", QUESTION, at=30.0, answer="8443")
    assert (receipt.kind, receipt.status) == ("rating", "accepted")
    assert bench.store.read("SELECT interaction_id, value, signal FROM feedback") == [
        {"interaction_id": "first", "value": -1.0, "signal": "regenerate"}
    ]


def test_what_a_client_key_does_teaches_nothing(bench: Bench) -> None:
    ask(bench, "first", QUESTION, at=0.0, role="client")
    receipts = [
        *ask(bench, "again", QUESTION, at=30.0, role="client", answer="8001"),
        *ask(bench, "said", *history("8001", "That's wrong."), at=60.0, role="client"),
        event(bench, "first", "copied", role="client"),
    ]
    assert [receipt.status for receipt in receipts] == ["ignored"] * 4
    assert all("role client" in receipt.detail for receipt in receipts)
    assert bench.states() == {}


def test_events_are_ratings_and_the_latest_holds(bench: Bench) -> None:
    ask(bench, "first", QUESTION, at=0.0)
    assert event(bench, "first", "copied").status == "accepted"
    assert event(bench, "first", "accepted").status == "folded"
    assert bench.states() == {1: "fresh"}
    assert "no longer trains" in event(bench, "first", "discarded").detail
    assert bench.states() == {1: "quarantined", 2: "fresh"}


def test_events_that_are_switched_off_are_ignored_and_say_so(bench: Bench) -> None:
    ask(bench, "first", QUESTION, at=0.0)
    receipt = event(bench, "first", "copied", settings=ExperienceSettings())
    assert receipt.status == "ignored"
    assert "experience.implicit_events" in receipt.detail
    assert bench.states() == {}


def test_wrong_events_change_nothing(bench: Bench) -> None:
    ask(bench, "first", QUESTION, at=0.0)
    before = tables(bench.store)
    with pytest.raises(BadRequest) as unknown:
        event(bench, "first", "liked")
    with pytest.raises(NotFound):
        event(bench, "nothing", "copied")
    assert (unknown.value.code, unknown.value.param) == ("unknown_event", "event")
    assert tables(bench.store) == before


@pytest.mark.parametrize(
    "said",
    [
        {"kind": "rating", "value": 1},
        {"kind": "rating", "value": -1},
        {"kind": "correction", "text": "It is 8443."},
        {"kind": "preference", "text": "It is 8443."},
        {"kind": "reward", "value": 0.5},
    ],
)
@pytest.mark.parametrize("signal", ["copied", "discarded"])
def test_a_word_outranks_a_signal_before_and_after_it(bench: Bench, said: dict[str, Any], signal: str) -> None:
    bench.experience = ON
    for name, words_first in (("before", True), ("after", False)):
        ask(bench, name, {"role": "user", "content": f"What is the port {name}?"}, at=0.0, answer=f"It is {name}.")
        steps = [lambda name=name: bench.feedback(name, **said), lambda name=name: event(bench, name, signal)]
        receipts = [step() for step in (steps if words_first else reversed(steps))]
        assert (receipts[1].status == "ignored") is words_first
    standing = "SELECT signal, count(*) AS n FROM examples JOIN feedback ON feedback.id = feedback_id"
    found = bench.store.read(f"{standing} WHERE state != 'quarantined' GROUP BY signal")
    assert found == [{"signal": None, "n": 2}]


def test_a_comment_outranks_no_signal(bench: Bench) -> None:
    bench.experience = ON
    ask(bench, "first", QUESTION, at=0.0)
    event(bench, "first", "copied")
    bench.feedback("first", "comment", text="Which of the two daemons?")
    assert bench.states() == {1: "fresh", 2: "fresh"}


def test_signals_of_a_long_conversation_are_read_from_a_bounded_number_of_rows(bench: Bench) -> None:
    for number in range(RECENT + 1):
        ask(bench, f"n{number}", QUESTION, at=number * 1000.0, answer=f"It is port {number}.")
    assert len(ask(bench, "near", *history("It is port 1.", "That's wrong."), at=50_000.0)) == 2
    assert ask(bench, "far", *history("It is port 0.", "That's wrong."), at=60_000.0) == []


def test_who_asks_the_same_all_day_is_a_program(bench: Bench) -> None:
    read = [ask(bench, f"n{number}", QUESTION, at=number * 300.0, answer=f"It is {number}.") for number in range(8)]
    assert [len(receipts) for receipts in read] == [0, 1, 1, 0, 0, 0, 0, 0]
