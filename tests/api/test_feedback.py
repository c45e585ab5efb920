"""Feedback of every kind, events, and what is read from chats, over HTTP."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from selflearn.config import ExperienceSettings
from tests.api.server import Running, until
from tests.api.test_bad_input import check_error

ON = ExperienceSettings(implicit_regenerate=True, implicit_next_turn=True, implicit_events=True)
QUESTION = {"role": "user", "content": "what is the port of the daemon?"}


def ask(running: Running, *messages: Any, **options: Any) -> Any:
    body: Any = {"model": "selflearn", "messages": messages or (QUESTION,), "max_tokens": 6}
    return running.openai.chat.completions.create(**body, **options)


def say(running: Running, **body: Any) -> dict[str, Any]:
    response = running.http.post("/v1/feedback", json=body)
    assert response.status_code == 201, response.text
    receipt: dict[str, Any] = response.json()
    return receipt


def said_of(running: Running, identity: str) -> list[dict[str, Any]]:
    sql = "SELECT kind, signal, status FROM feedback WHERE interaction_id = ? ORDER BY rowid"
    return running.store.read(sql, (identity,))


def has_two(running: Running, identity: str) -> bool:
    return len(said_of(running, identity)) == 2


def test_every_kind(running: Running) -> None:
    name = {"x-selflearn-conversation": "trip"}
    answer = ask(running, n=3, temperature=1.5, extra_headers=name)
    assert len({choice.message.content for choice in answer.choices}) > 1
    worse = next(
        f"{answer.id}-{choice.index}"
        for choice in answer.choices
        if choice.message.content != answer.choices[0].message.content
    )
    said: list[dict[str, Any]] = [
        {"kind": "comment", "text": "say which daemon", "user": "ann"},
        {"kind": "reward", "value": 0.5},
        {"kind": "preference", "text": "8000"},
        {"kind": "preference", "over": worse},
        {"kind": "rating", "value": -1},
        {"kind": "correction", "text": "port 8000"},
    ]
    receipts = [say(running, interaction_id=answer.id, **given) for given in said]
    assert [receipt["kind"] for receipt in receipts] == [given["kind"] for given in said]
    corrected = receipts[-1]["status"]  # of the others, what the tiny model happened to write may be held back
    assert corrected == "accepted"
    # two preferences, a rating of -1 and a correction find an answer bad; a comment and a reward do not say so
    assert "selflearn_negative_feedback_total 4.0" in running.http.get("/metrics").text
    objectives = [
        running.store.read("SELECT objective FROM examples WHERE id = ?", (receipt["example_id"],))[0]["objective"]
        for receipt in receipts
    ]
    assert objectives == [
        "hindsight",
        "reward_weighted",
        "paired_preference",
        "paired_preference",
        "unpaired_preference",
        "supervised",
    ]
    whole = say(running, conversation="trip", kind="reward", value=1)
    assert (whole["interaction_id"], whole["conversation"], whole["example_id"]) == (None, "trip", None)
    assert whole["detail"].startswith("3 answers")
    (row,) = running.store.read("SELECT source, user, role FROM feedback WHERE kind = 'comment'")
    assert row == {"source": "local", "user": "ann", "role": "operator"}


def test_events_are_off_until_they_are_switched_on(running: Running) -> None:
    body = {"interaction_id": ask(running).id, "event": "copied"}
    response = running.http.post("/v1/events", json=body)
    assert response.status_code == 201
    assert (response.json()["status"], response.json()["example_id"]) == ("ignored", None)
    assert "switched off" in response.json()["detail"]
    said = running.http.post("/v1/events", json={"interaction_id": ask(running).id, "event": "discarded"})
    assert said.json()["status"] == "ignored"
    assert "selflearn_negative_feedback_total 4.0" in running.http.get("/metrics").text
    check_error(running.http.post("/v1/events", json=body), 409, "duplicate_feedback")
    check_error(running.http.post("/v1/events", json={**body, "event": "liked"}), 400, "unknown_event", "event")
    check_error(
        running.http.post("/v1/events", json={**body, "interaction_id": "chatcmpl-none"}),
        404,
        "interaction_not_found",
        "interaction_id",
    )


def test_what_people_do_is_read_once_it_is_switched_on(start: Callable[..., Running]) -> None:
    running = start(experience=ON)
    running.serve(0)
    for stream in (False, True):
        question = {"role": "user", "content": f"what is the port? (stream {stream})"}
        first = ask(running, question)
        said = str(first.choices[0].message.content)
        turn = {"role": "user", "content": "That's wrong, it is 8443."}
        answer = ask(running, question, {"role": "assistant", "content": said}, turn, stream=stream)
        if stream:
            list(answer)
        until(functools.partial(has_two, running, first.id), 10.0)
        assert said_of(running, first.id) == [
            {"kind": "rating", "signal": "next_turn", "status": "accepted"},
            {"kind": "comment", "signal": "next_turn", "status": "accepted"},
        ]
    response = running.http.post("/v1/events", json={"interaction_id": ask(running).id, "event": "discarded"})
    assert response.json()["status"] != "ignored"
    assert response.json()["example_id"]
    metrics = running.http.get("/metrics").text
    assert 'selflearn_feedback_total{kind="comment",status="accepted"} 2.0' in metrics
    assert 'selflearn_feedback_total{kind="rating",status="accepted"}' in metrics
    assert "selflearn_negative_feedback_total 3.0" in metrics


def test_a_store_that_fails_while_signals_are_read_fails_no_chat(start: Callable[..., Running]) -> None:
    running = start(experience=ON)
    running.serve(0)
    running.store.write(lambda connection: connection.execute("ALTER TABLE feedback RENAME TO gone"))
    question = {"role": "user", "content": "what is the port?"}
    said = str(ask(running, question).choices[0].message.content)
    history = (question, {"role": "assistant", "content": said}, {"role": "user", "content": "That's wrong."})
    assert ask(running, *history).choices[0].finish_reason
    assert ask(running, *history).choices[0].finish_reason
