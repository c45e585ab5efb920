"""The funnel: its numbers are those of the rows whatever happened, cost nothing, and say why nothing is learned."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from selflearn import overview
from selflearn.config import ExperienceSettings, LearningSettings
from selflearn.errors import SelflearnError
from selflearn.experience import QUARANTINE, counts, funnel, why_not
from selflearn.store import Store
from tests.stores import LEARNER, Bench, open_bench

#: What the tallies say, counted from the rows.
RECOUNTS = {
    "interactions": "SELECT state AS label FROM interactions",
    "feedback": "SELECT kind || '/' || status AS label FROM feedback",
    "implicit": "SELECT signal || '/' || status AS label FROM feedback WHERE signal IS NOT NULL",
    "examples": "SELECT state AS label FROM examples",
    "quarantine": "SELECT coalesce(reason, 'unknown') AS label FROM examples WHERE state = 'quarantined'",
    "tombstones": "SELECT subject AS label FROM tombstones",
}
DELETES = (
    "DELETE FROM near_duplicates WHERE example_id NOT IN (SELECT example_id FROM update_examples)",
    "DELETE FROM examples WHERE id NOT IN (SELECT example_id FROM update_examples)",
    "DELETE FROM feedback WHERE id NOT IN (SELECT feedback_id FROM examples)",
    "DELETE FROM interactions WHERE id NOT IN (SELECT interaction_id FROM feedback)",
)

IMPLIED = (
    "INSERT OR IGNORE INTO feedback (learner, kind, value, signal, source, role, status, created_at, id, digest)"
    f" SELECT '{LEARNER}', 'rating', -1, 'next_turn', 'local', 'teacher', 'accepted', 1.0, column1, column2"
    " FROM (VALUES"
)


def tallied(store: Store) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {subject: Counter() for subject in RECOUNTS}
    for row in store.read("SELECT subject, label, number FROM tallies WHERE subject != 'redactions' AND number != 0"):
        found[row["subject"]][row["label"]] = row["number"]
    return found


def recounted(store: Store) -> dict[str, Counter[str]]:
    return {subject: Counter(row["label"] for row in store.read(sql)) for subject, sql in RECOUNTS.items()}


def carry_out(bench: Bench, kind: str, number: int) -> None:
    """One thing that may happen to what is recorded; ``number`` says to which of it."""
    known = [row["id"] for row in bench.store.read("SELECT id FROM interactions ORDER BY id")]
    if kind == "ask":
        bench.interaction(f"question {number}?", state=("completed", "running", "failed", "cancelled")[number % 4])
    elif kind == "correct" and known:
        bench.feedback(known[number % len(known)], "correction", text=f"the answer is {'abc'[number % 3]}")
    elif kind == "rate" and known:
        bench.feedback(known[number % len(known)], "rating", value=1.0 if number % 2 else -1.0)
    elif kind == "update":
        update = bench.begin_update(seed=number)
        (bench.promote if number % 2 else bench.refuse)(update)
    else:
        bench.store.write(lambda connection: [connection.execute(sql) for sql in statements(kind, number)])


def statements(kind: str, number: int) -> list[str]:
    """What operators, retention and forgetting do to rows."""
    reason = sorted(QUARANTINE)[number % len(QUARANTINE)]
    return {
        "quarantine": [f"UPDATE examples SET state = 'quarantined', reason = '{reason}' WHERE id % 3 = {number % 3}"],
        "explain": [f"UPDATE examples SET reason = '{reason}' WHERE id % 3 = {number % 3}"],
        "release": [f"UPDATE examples SET state = 'fresh', reason = NULL WHERE id % 3 = {number % 3}"],
        "suspect": [f"UPDATE examples SET state = 'suspect', objective = 'hindsight' WHERE id % 5 = {number % 5}"],
        "imply": [f"{IMPLIED} ('fb-{number}', '{number}'))", "UPDATE feedback SET status = 'folded' WHERE value < 0"],
        "replace": ["INSERT OR REPLACE INTO interactions SELECT * FROM interactions WHERE state = 'running'"],
        "delete": list(DELETES[: 1 + number % len(DELETES)]),
        "forget": [f"INSERT INTO tombstones VALUES (NULL, '{LEARNER}', 'example', '1', 'd', 'me', 'asked', 1.0)"],
    }.get(kind, [])


KINDS = (
    "ask",
    "correct",
    "rate",
    "update",
    "quarantine",
    "explain",
    "release",
    "suspect",
    "imply",
    "replace",
    "delete",
    "forget",
)
HAPPENINGS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 11)), min_size=1, max_size=14)


@settings(max_examples=25, deadline=None)
@given(happenings=HAPPENINGS)
@example(happenings=[("quarantine", 0), ("explain", 3), ("suspect", 0), ("release", 0), ("delete", 3)])
def test_tallies_are_what_counting_would_give(happenings: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        bench = open_bench(Path(directory))
        try:
            for number in range(6):
                bench.correct(f"first question {number}", f"answer {number}")
            for kind, number in happenings:
                with contextlib.suppress(SelflearnError):  # refused, and undone: so are its tallies
                    carry_out(bench, kind, number)
                assert tallied(bench.store) == recounted(bench.store), kind
        finally:
            bench.store.close()


def test_a_work_that_fails_leaves_the_tallies_as_they_were(bench: Bench) -> None:
    bench.correct("What is the port?", "8000")

    def work(connection: Any) -> None:
        connection.execute("UPDATE examples SET state = 'quarantined', reason = 'operator'")
        raise KeyError("the work's own trouble")

    with pytest.raises(KeyError):
        bench.store.write(work)
    assert tallied(bench.store) == recounted(bench.store)
    assert counts(bench.store, LEARNER)["examples"] == {"fresh": 1}


def test_learners_are_counted_apart(bench: Bench) -> None:
    bench.correct("What is the port?", "8000")
    assert counts(bench.store, "another") == {
        "interactions": {},
        "feedback": {},
        "examples": {},
        "quarantine": {},
    }


def test_the_way_from_received_to_trained(bench: Bench) -> None:
    bench.interaction("broken off", state="failed")
    for number in range(8):
        bench.correct(f"question {'abcdefgh'[number]}?", f"answer {number}")
    bench.promote(bench.begin_update())
    bench.store.write(
        lambda connection: connection.execute(
            "UPDATE examples SET state = 'quarantined', reason = 'contradiction' WHERE id = 1"
        )
    )
    found = funnel(bench.store, LEARNER)
    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert list(stages) == ["received", "feedback", "examples", "eligible", "trained"]
    assert stages["received"]["number"] == 9
    assert stages["received"]["losses"] == [{"reason": "failed", "number": 1, "text": "1 failed"}]
    assert (stages["feedback"]["number"], stages["examples"]["number"], stages["eligible"]["number"]) == (8, 8, 7)
    (lost,) = stages["examples"]["losses"]
    assert (lost["reason"], lost["number"]) == ("contradiction", 1)
    assert lost["text"] == "1 in quarantine: somebody else says something else; release who is right"
    trained, held = found["examples"]["trained"], found["examples"]["held"]
    assert stages["trained"]["number"] == trained > 0
    assert {loss["reason"]: loss["number"] for loss in stages["eligible"]["losses"]} == {"held": held}
    # Nobody gets lost on the way: what is not lost at a stage arrives at the next one.
    for stage, following in itertools.pairwise([stages[name] for name in ("examples", "eligible", "trained")]):
        assert stage["number"] - sum(loss["number"] for loss in stage["losses"]) == following["number"]


def test_what_was_redacted_is_counted_by_kind(bench: Bench) -> None:
    bench.interaction("I am ada@example.com, or grace@example.com", answer="Hello ada@example.com")
    assert funnel(bench.store, LEARNER)["redacted"] == {"email": 3}


def test_every_reason_that_an_example_can_have_is_explained(tmp_path: Path) -> None:
    bench = open_bench(tmp_path / "state", experience=ExperienceSettings(max_characters=40))
    bench.correct("short?", "x" * 100)
    bench.correct("What is it?", "x x x x")
    bench.store.write(
        lambda connection: connection.executemany(
            "INSERT INTO examples (learner, conversation, kind, objective, messages, target, digest, cluster, state,"
            " reason, source, created_at) VALUES (?, '', 'correction', 'supervised', '[]', '', ?, '', 'quarantined',"
            " ?, 'local', 1.0)",
            [(LEARNER, reason, reason) for reason in QUARANTINE],
        )
    )
    losses = {loss["reason"]: loss["text"] for loss in funnel(bench.store, LEARNER)["stages"][2]["losses"]}
    assert set(losses) >= set(QUARANTINE)
    assert all(text.endswith(QUARANTINE[reason]) for reason, text in losses.items())
    bench.store.close()


STATUS = {"running": None, "waiting_for": "7 new examples, 24 needed", "fresh": 7}
EMPTY: dict[str, Any] = {
    "received": {"completed": 5},
    "feedback": {"correction": {"accepted": 20}},
    "examples": {"fresh": 7},
    "quarantine": {},
}
TRIED = (
    "7 new examples, 24 needed; 2 took part in an update that does not serve, and go again once something new comes; "
    "4 suspect since a rollback"
)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "7 new examples, 24 needed"),
        ({"feedback": {}}, "7 new examples, 24 needed; 5 answers, and no feedback on any of them"),
        (
            {"examples": {"fresh": 7, "quarantined": 3}, "quarantine": {"contradiction": 1, "too_long": 2}},
            "7 new examples, 24 needed; 3 in quarantine (too_long 2, contradiction 1)",
        ),
        (
            {"examples": {"fresh": 9, "suspect": 4}},
            TRIED,
        ),
        ({"feedback": {"rating": {"ignored": 2}}}, "7 new examples, 24 needed; 2 feedback ignored"),
    ],
)
def test_why_it_is_not_learning(changes: dict[str, Any], sentence: str) -> None:
    assert why_not(STATUS, {**EMPTY, **changes}) == sentence


def test_while_an_update_runs_there_is_no_reason() -> None:
    assert why_not({**STATUS, "running": {"update": 1}}, EMPTY) is None


def test_the_state_directory_alone_says_why(bench: Bench) -> None:
    bench.correct("What is the port?", "8000")
    said = overview.learning(bench.store, LEARNER, LearningSettings(min_examples=24))["why_not"]
    assert said == "no daemon runs; start one with 'selflearn serve'; 1 new examples, 24 needed"


def test_what_an_update_did_not_pass_with_is_not_new(bench: Bench) -> None:
    for number in range(8):
        bench.correct(f"question {'abcdefgh'[number]}?", f"answer {number}")
    bench.refuse(bench.begin_update())
    found = overview.learning(bench.store, LEARNER, LearningSettings(min_examples=1))
    assert found["fresh"] == 0
    assert "; 8 took part in an update that does not serve, and go again once something new comes" in found["why_not"]


#: Whatever is asked often or at the start; none may look at every row of a table that grows.
GROWING = {"interactions", "examples", "feedback", "update_examples", "near_duplicates", "tombstones", "audit"}


def looks_at_all_rows(step: str) -> bool:
    """Whether a step of a query plan reads a growing table from end to end; there may be one learner alone."""
    how, table, *rest = step.split()
    all_of_learner = rest[-1:] == ["(learner=?)"] and "interactions_running" not in rest
    return table in GROWING and (how == "SCAN" or all_of_learner)


def test_no_question_that_is_asked_often_looks_at_all_rows(bench: Bench) -> None:
    bench.correct("What is the port?", "8000")
    asked: list[str] = []
    bench.store.connection().set_trace_callback(asked.append)
    status = overview.learning(bench.store, LEARNER, LearningSettings())
    overview.served(bench.store, LEARNER)
    overview.canary(bench.store, LEARNER)
    counts(bench.store, LEARNER)
    assert status["fresh"] == 1
    bench.store.connection().set_trace_callback(None)
    asked += ["UPDATE interactions SET state = 'interrupted' WHERE learner = 'default' AND state = 'running'"]
    for sql in asked:
        for row in bench.store.read(f"EXPLAIN QUERY PLAN {sql}"):
            assert not looks_at_all_rows(row["detail"]), (sql, row["detail"])
