"""What a version says about itself: what made it, what happened after, and what came of an interaction."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from selflearn.config import LearningSettings
from selflearn.errors import NotFound
from selflearn.experience import begin_interaction, finish_interaction
from selflearn.experience.keeping.forgetting import forget
from selflearn.experience.keeping.selection import Selector
from selflearn.versions import close_update, why, why_interaction
from selflearn.versions.names import refused_directory
from tests.stores import LEARNER, Bench
from tests.versions.candidates import make_candidate, promote_new


def answer_with(bench: Bench, version: int, number: int, name: str) -> list[str]:
    """Records so many answers of a version and returns their ids."""
    ids = [f"chatcmpl-{name}{index}" for index in range(number)]
    for one in ids:
        begin_interaction(
            bench.store,
            interaction_id=one,
            learner=LEARNER,
            conversation=one,
            source="local",
            user=None,
            role="client",
            version=version,
            messages=[{"role": "user", "content": f"question of {one}"}],
            parameters={},
            prompt_tokens=3,
            now=bench.now,
        ).result()
        finish_interaction(
            bench.store,
            one,
            answer="an answer",
            state="completed",
            finish_reason="stop",
            completion_tokens=2,
            now=bench.now,
        ).result()
    return ids


def test_what_happened_after_a_version_was_promoted(bench: Bench, state: Path) -> None:
    first = promote_new(bench, state, 0)
    asked = answer_with(bench, first, 4, "a")
    bench.feedback(asked[0], "rating", value=1.0)
    second = promote_new(bench, state, 100)
    worse = answer_with(bench, second, 4, "b")
    bench.feedback(worse[0], "rating", value=-1.0)
    bench.feedback(worse[1], "correction", text="the right one")
    bench.feedback(worse[2], "preference", text="a better one")
    bench.feedback(worse[3], "rating", value=1.0)
    alarm = "INSERT INTO alarms (learner, version, signal, action, detail, created_at) VALUES (?, ?, ?, ?, ?, 5.0)"
    given = (LEARNER, second, "negative_feedback", "rollback", '{"rate": 0.75}')
    bench.store.write(lambda connection: connection.execute(alarm, given))
    bench.roll_back()
    third = promote_new(bench, state, 200)
    after = why(bench.store, state, second)["after"]
    assert (after["promoted_by"]["actor"], after["promoted_by"]["forced"]) == ("gate", False)
    assert after["traffic"]["answers"] == {"completed": 4}
    assert (after["traffic"]["negative"], after["traffic"]["negative_share"]) == (3, 0.75)
    assert (after["before"]["version"], after["before"]["negative_share"]) == (first, 0.0)
    assert [(row["signal"], row["detail"]) for row in after["alarms"]] == [("negative_feedback", {"rate": 0.75})]
    assert (after["ended_by"]["to"], after["ended_by"]["action"]) == (first, "rollback")
    (period,) = after["served"]
    assert period["until"] == after["ended_by"]["at"]
    assert (after["children"], after["descendants"]) == ([], [])
    before = why(bench.store, state, first)["after"]
    assert before["descendants"] == [second, third]
    assert [row["update"] for row in before["children"]] == [second, third]
    assert [period["until"] is None for period in before["served"]] == [False, False]
    assert why(bench.store, state, third)["after"]["served"][0]["until"] is None
    fourth = promote_new(bench, state, 300)
    assert why(bench.store, state, first)["after"]["descendants"] == [second, third, fourth]


def test_a_version_that_was_removed_or_forced_says_so(bench: Bench, state: Path) -> None:
    version = promote_new(bench, state, 0)
    sql = "UPDATE versions SET removed_at = 7.0, removed_because = 'retention', forced = 1 WHERE id = ?"
    bench.store.write(lambda connection: connection.execute(sql, (version,)))
    story = why(bench.store, state, version)
    assert story["after"]["removed"] == {"at": 7.0, "because": "retention"}
    assert story["after"]["promoted_by"]["forced"] is True
    assert story["version"]["intact"] is None


def test_a_canary_serves_a_share_until_it_is_aborted(bench: Bench, state: Path) -> None:
    from selflearn.versions import abort_canary, start_canary

    first, second = promote_new(bench, state, 0), promote_new(bench, state, 100)
    bench.roll_back()
    by: dict[str, Any] = {"learner": LEARNER, "actor": "me", "reason": "try", "now": bench.now}
    bench.store.write(lambda it: start_canary(it, version=second, share=0.25, for_seconds=None, state=state, **by))
    bench.store.write(lambda connection: abort_canary(connection, **by))
    periods = why(bench.store, state, second)["after"]["served"]
    assert [(period["share"], period["until"] is None) for period in periods] == [(None, False), (0.25, False)]
    assert [period["until"] is None for period in why(bench.store, state, first)["after"]["served"]] == [False, True]


def test_what_it_was_made_of(bench: Bench, state: Path) -> None:
    bench.learning = LearningSettings(max_source_share=1.0, max_train_examples=8)
    for number in range(12):
        bench.correct(f"question {number}", f"answer {number}", source="ann" if number % 2 else "bob")
    update = bench.begin_update()
    chosen = why(bench.store, state, update)
    odd = chosen["examples"]["train"]["items"][0]["id"]
    numbers = {"loss": 9.0, "unit": "byte", "score": 8.0, "median": 1.0}
    report = {
        "left_out": [{"id": odd, "role": "train", "reason": "outlier", **numbers}],
        "measurements": {"scale": 0.5},
        "tried": [
            {"scale": 1.0, "outcome": "refuse", "checks": []},
            {"scale": 0.5, "outcome": "promote", "checks": []},
        ],
    }
    bench.store.write(
        lambda it: close_update(it, update, state="refused", report=report, verdict=None, reason="so", now=bench.now)
    )
    story = why(bench.store, state, update)
    assert story["left_out"]["reasons"] == {"outlier": 1}
    assert story["scale"]["kept"] == 0.5
    assert [one["outcome"] for one in story["scale"]["tried"]] == ["refuse", "promote"]
    train = story["examples"]["train"]
    assert train["kinds"] == {"correction": train["count"]}
    assert set(train["sources"]) == {"ann", "bob"}
    assert train["words"][0]["question"].startswith("question ")
    assert train["words"][0]["target"].startswith("answer ")
    came = story["came_in"]
    assert (came["examples"], came["used"]) == (12, sum(role["count"] for role in story["examples"].values()))
    assert came["waiting"] == 12 - came["used"] > 0
    assert story["after"]["promoted_by"] is None


def test_only_what_came_in_since_the_update_before_is_told(bench: Bench, state: Path) -> None:
    promote_new(bench, state, 0)
    second = promote_new(bench, state, 100)
    assert why(bench.store, state, second)["came_in"]["examples"] == 12


def test_settings_that_are_not_the_defaults(bench: Bench, state: Path) -> None:
    update = promote_new(bench, state, 0)
    config = {"learning": {**LearningSettings().model_dump(mode="json"), "rank": 4}, "judging": {"min_holdout": 2}}
    sql = "UPDATE updates SET config = ? WHERE id = ?"
    bench.store.write(lambda connection: connection.execute(sql, (json.dumps(config), update)))
    assert why(bench.store, state, update)["changed_settings"] == [
        {"setting": "learning.rank", "value": 4, "default": 16},
        {"setting": "judging.min_holdout", "value": 2, "default": 8},
    ]


def test_what_it_learned_is_read_from_the_files_of_the_candidate(bench: Bench, state: Path) -> None:
    for number in range(12):
        bench.correct(f"question {number}", "answer")
    update = bench.begin_update()
    bench.refuse(update)
    assert (why(bench.store, state, update)["answers"], why(bench.store, state, update)["curve"]["train"]) == ([], [])
    kept = refused_directory(state, update)
    make_candidate(kept)
    row = {"example": 3, "prompt": [{"role": "user", "content": "q"}], "expected": "a", "before": "x", "after": "a"}
    (kept / "answers.jsonl").write_text(json.dumps(row) + "\n{half a li", encoding="utf-8")
    story = why(bench.store, state, update)
    assert story["answers"] == [row]
    assert story["curve"]["train"] == [(1, 2.5)]


def test_what_was_forgotten_has_no_words_any_more(bench: Bench, state: Path) -> None:
    version = promote_new(bench, state, 0)
    train = why(bench.store, state, version)["examples"]["train"]
    gone = train["items"][0]["interaction_id"]
    forget(
        bench.store,
        LEARNER,
        Selector("interaction", gone),
        actor="me",
        reason="asked",
        now=bench.now,
        end_update=lambda number: None,
    )
    told = why(bench.store, state, version)["examples"]["train"]
    assert (told["count"], told["forgotten"]) == (train["count"], 1)
    assert train["words"][0] not in told["words"]
    with pytest.raises(NotFound, match="was forgotten"):
        why_interaction(bench.store, LEARNER, gone)


def test_what_came_of_an_interaction(bench: Bench, state: Path) -> None:
    first = promote_new(bench, state, 0)
    taught = why(bench.store, state, first)["examples"]["train"]["items"][0]["interaction_id"]
    judge = why(bench.store, state, first)["examples"]["holdout"]["items"][0]["interaction_id"]
    found = why_interaction(bench.store, LEARNER, taught)
    assert found["served"]["learned"]
    assert found["served"]["because"] == "version 1 trained on it"
    assert found["updates"]["train"] == [first]
    assert [row["kind"] for row in found["feedback"]] == ["correction"]
    judged = why_interaction(bench.store, LEARNER, judge)
    assert not judged["served"]["learned"]
    assert judged["served"]["judged_by_it"] == [first]
    assert "trains in the next update" in judged["served"]["because"]
    second = promote_new(bench, state, 100)
    found = why_interaction(bench.store, LEARNER, taught)
    assert found["served"]["through"][0] == first
    assert found["served"]["because"] == f"version {first} trained on it, and version {second} descends from it"
    bench.roll_back(0)
    found = why_interaction(bench.store, LEARNER, taught)
    assert not found["served"]["learned"]
    assert "rolled back" in found["served"]["because"]


def test_why_an_interaction_was_not_learned(bench: Bench, state: Path) -> None:
    silent = bench.interaction()
    assert "nobody said anything" in why_interaction(bench.store, LEARNER, silent)["served"]["because"]
    ignored = bench.interaction()
    bench.feedback(ignored, "correction", text="8000", role="client")
    assert "became no example" in why_interaction(bench.store, LEARNER, ignored)["served"]["because"]
    taken_back = bench.interaction("What is the port?")
    bench.feedback(taken_back, "correction", text="8000")
    bench.feedback(taken_back, "correction", text="9000")
    because = why_interaction(bench.store, LEARNER, taken_back)["served"]["because"]
    assert "a newer word about the same answer replaced them" in because
    assert "waits for an update" in because
    better, worse = (bench.interaction("Which?", text, conversation="one") for text in ("this", "that"))
    bench.feedback(better, "preference", over=worse)
    compared = why_interaction(bench.store, LEARNER, worse)
    assert len(compared["compared_in"]) == len(compared["examples"]) == 1
    with pytest.raises(NotFound, match="no interaction"):
        why_interaction(bench.store, LEARNER, "chatcmpl-none")


def test_it_stays_quick_with_a_hundred_thousand_interactions(bench: Bench, state: Path) -> None:
    version = promote_new(bench, state, 0)
    sql = """
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
        INSERT INTO interactions (id, learner, conversation, source, version, messages, answer, state, parameters,
            created_at) SELECT 'chatcmpl-many' || i, ?, 'c' || i, 'local', ?, '[]', 'a', 'completed', '{}', 9000 + i
        FROM n
    """
    said = """
        INSERT INTO feedback (id, learner, interaction_id, kind, value, source, role, digest, status, created_at)
        SELECT 'f' || id, learner, id, 'rating', -1, 'local', 'client', id, 'accepted', created_at FROM interactions
        WHERE id LIKE 'chatcmpl-many%0'
    """
    bench.store.write(lambda connection: connection.execute(sql, (LEARNER, version)))
    bench.store.write(lambda connection: connection.execute(said))
    started = time.perf_counter()
    after = why(bench.store, state, version)["after"]
    assert time.perf_counter() - started < 2.0  # on a busy machine; it takes about 0.1 s
    assert after["traffic"]["negative_share"] == 0.1
    started = time.perf_counter()
    why_interaction(bench.store, LEARNER, "chatcmpl-many70")
    assert time.perf_counter() - started < 1.0
