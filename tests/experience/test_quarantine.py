"""Quarantine: by order of an operator and after an update, with the way back; and what operators see of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from selflearn.errors import Conflict, NotFound
from selflearn.experience import (
    Order,
    list_examples,
    list_interactions,
    quarantine_examples,
    quarantine_source,
    release,
    show_example,
    show_interaction,
    sources,
)
from selflearn.versions import close_update, register
from selflearn.versions.rollouts import append
from tests.stores import LEARNER, Bench, tables

QUESTION = "What is the port of the daemon?"
WORDS = " ".join(f"word{number}" for number in range(60))


def ordered(bench: Bench, deed: Callable[..., Any], what: Any, reason: str = "checked", **given: Any) -> dict[str, Any]:
    order = Order(LEARNER, "operator:ann", reason, bench.now())
    done: dict[str, Any] = bench.store.write(lambda connection: deed(connection, order, what, **given))
    return done


def audit(bench: Bench, action: str) -> list[dict[str, Any]]:
    found = bench.store.read("SELECT actor, detail FROM audit WHERE action = ? ORDER BY id", (action,))
    return [{"actor": row["actor"], **json.loads(row["detail"])} for row in found]


def row(bench: Bench, example_id: int) -> dict[str, Any]:
    (found,) = bench.store.read("SELECT * FROM examples WHERE id = ?", (example_id,))
    return found


def taught(bench: Bench, count: int = 12, source: str = "alice") -> None:
    for number in range(count):
        bench.correct(f"question {number} by {source}", f"the answer {number}", source=source)


# Orders


def test_there_and_back(bench: Bench) -> None:
    bench.correct(QUESTION, "8000")
    done = ordered(bench, quarantine_examples, [1], "looks odd")
    assert (done["quarantined"], done["unchanged"], done["learned_from"]) == (1, 0, [])
    assert (row(bench, 1)["state"], row(bench, 1)["reason"], row(bench, 1)["detail"]) == (
        "quarantined",
        "operator",
        "looks odd",
    )
    assert ordered(bench, quarantine_examples, [1])["unchanged"] == 1

    done = ordered(bench, release, [1])
    assert done == {"released": [{"id": 1, "state": "fresh"}], "unchanged": [], "superseded": []}
    assert (row(bench, 1)["reason"], row(bench, 1)["detail"], row(bench, 1)["vouched"]) == (None, None, 1)
    assert ordered(bench, release, [1])["unchanged"] == [1]


def test_orders_are_in_the_audit_log_without_secrets(bench: Bench) -> None:
    bench.correct(QUESTION, "8000")
    ordered(bench, quarantine_examples, [1], "sent by jane.doe@example.com")
    ordered(bench, release, [1])

    (first,), (second,) = audit(bench, "data.quarantine"), audit(bench, "data.release")
    assert (first["actor"], first["examples"], first["number"]) == ("operator:ann", [1], 1)
    assert "jane.doe" not in str(tables(bench.store))
    assert second["examples"] == [1]


@pytest.mark.parametrize("deed", [quarantine_examples, release])
def test_an_unknown_number_changes_nothing(bench: Bench, deed: Callable[..., Any]) -> None:
    bench.correct(QUESTION, "8000")
    before = tables(bench.store)
    with pytest.raises(NotFound, match="no example 7"):
        ordered(bench, deed, [1, 7])
    with pytest.raises(NotFound, match="nobody"):
        ordered(bench, quarantine_source, "nobody")
    assert tables(bench.store) == before


def test_a_whole_source_goes_and_is_counted_first(bench: Bench) -> None:
    taught(bench, 3, "alice")
    taught(bench, 5, "mallory")
    before = tables(bench.store)
    assert ordered(bench, quarantine_source, "mallory", dry_run=True)["quarantined"] == 5
    assert tables(bench.store) == before

    assert ordered(bench, quarantine_source, "mallory")["quarantined"] == 5
    states = {row["source"]: row["examples"] for row in sources(bench.store, LEARNER)}
    assert states == {"alice": {"fresh": 3}, "mallory": {"quarantined": 5}}


def test_what_trained_is_not_replayed_and_the_versions_are_named(bench: Bench) -> None:
    taught(bench)
    version = bench.begin_update()
    bench.promote(version)
    trained = [number for number, state in bench.states().items() if state == "trained"]
    done = ordered(bench, quarantine_examples, trained)
    assert done["learned_from"] == [{"version": version, "parent": 0, "examples": len(trained)}]

    taught(bench, source="bob")
    bench.begin_update()
    replayed = bench.store.read("SELECT count(*) AS n FROM update_examples WHERE role = 'replay'")
    assert replayed == [{"n": 0}]
    ordered(bench, release, trained[:1])
    assert bench.states()[trained[0]] == "trained"


def test_suspects_can_be_released_and_are_never_suspect_again(bench: Bench) -> None:
    taught(bench)
    version = bench.begin_update()
    bench.promote(version)
    trained = [number for number, state in bench.states().items() if state == "trained"]

    def go_back(connection: Any) -> None:
        append(connection, learner=LEARNER, version=0, action="rollback", actor="t", reason="worse", now=bench.now)

    bench.store.write(go_back)
    assert {bench.states()[number] for number in trained} == {"suspect"}
    assert ordered(bench, release, trained[:1])["released"] == [{"id": trained[0], "state": "fresh"}]
    assert {bench.states()[number] for number in trained[1:]} == {"suspect"}


# Contradictions, decided


def disputed(bench: Bench) -> tuple[int, int]:
    """Alice says 1, Mallory says 2; both are held."""
    bench.correct(QUESTION, "8000", source="alice")
    bench.correct(QUESTION, "9999", source="mallory")
    return 1, 2


def test_releasing_one_overrules_the_other(bench: Bench) -> None:
    alice, mallory = disputed(bench)
    assert ordered(bench, release, [alice])["superseded"] == [mallory]
    assert (row(bench, alice)["state"], row(bench, mallory)["reason"]) == ("fresh", "superseded")

    again = bench.correct(QUESTION, "9999", source="mallory")  # a vouched word stands
    assert again.status == "quarantined"
    assert (row(bench, alice)["state"], row(bench, mallory)["reason"]) == ("fresh", "contradiction")
    assert bench.correct(QUESTION, "1234", source="alice").status == "quarantined"  # even against its own source


def test_what_an_operator_vouched_for_is_not_even_taken_back_by_its_own_source(bench: Bench) -> None:
    bench.correct(QUESTION, "8000", source="alice")
    ordered(bench, quarantine_examples, [1])
    ordered(bench, release, [1])

    assert bench.correct(QUESTION, "1234", source="alice").status == "quarantined"
    assert row(bench, 1)["state"] == "fresh"


def test_two_that_contradict_each_other_are_not_both_released(bench: Bench) -> None:
    before = disputed(bench), tables(bench.store)
    with pytest.raises(Conflict, match="contradict each other"):
        ordered(bench, release, [1, 2])
    assert tables(bench.store) == before[1]


def test_releasing_the_newer_word_overrules_the_trained_one(bench: Bench) -> None:
    taught(bench)
    bench.promote(bench.begin_update())
    trained = next(number for number, state in bench.states().items() if state == "trained")
    newer = bench.correct(f"question {trained - 1} by alice", "moved to Graz", source="bob").example_id
    assert newer is not None

    assert ordered(bench, release, [newer])["superseded"] == [trained]
    assert (row(bench, newer)["state"], row(bench, trained)["state"]) == ("fresh", "quarantined")


def test_what_only_a_quarantined_source_contradicted_is_free_again(bench: Bench) -> None:
    disputed(bench)
    bench.correct("Who owns it?", "Ann", source="alice")
    bench.correct("Who owns it?", "Mallory", source="mallory")
    bench.correct("Who owns it?", "Eve", source="eve")
    done = ordered(bench, quarantine_source, "mallory")

    assert done["quarantined"] == 2
    assert done["freed"] == [1]  # eve still contradicts the other one
    assert (row(bench, 1)["state"], row(bench, 1)["vouched"], row(bench, 3)["reason"]) == ("fresh", 0, "contradiction")


# After an update


def left_out(bench: Bench, update: int) -> list[dict[str, Any]]:
    """One of each kind, as a worker reports them."""
    roles = bench.store.read("SELECT example_id, role FROM update_examples WHERE update_id = ?", (update,))
    first = {row["role"]: row["example_id"] for row in reversed(roles)}
    odd = {"reason": "outlier", "unit": "byte", "loss": 5.5, "median": 1.4, "deviation": 0.5, "score": 8.2}
    return [
        {"id": first["train"], "role": "train", "reason": "too_long", "tokens": 2000},
        {"id": first["holdout"], "role": "holdout", **odd},
    ]


@pytest.mark.parametrize("outcome", ["promoted", "refused", "inconclusive"])
def test_what_was_left_out_goes_to_quarantine_however_the_update_ends(bench: Bench, outcome: Any) -> None:
    taught(bench)
    update = bench.begin_update()
    report = {"left_out": left_out(bench, update)}
    given: dict[str, Any] = {"update_id": update, "report": report, "verdict": {"outcome": "promote"}, "now": bench.now}
    sha: dict[str, Any] = {"manifest_sha256": "0" * 64, "adapter_sha256": "1" * 64}
    if outcome == "promoted":
        bench.store.write(lambda connection: register(connection, **given, **sha, actor="gate"))
    else:
        bench.store.write(lambda connection: close_update(connection, **given, state=outcome, reason="so"))

    long, odd = (row(bench, entry["id"]) for entry in report["left_out"])
    assert (long["state"], long["reason"]) == ("quarantined", "too_long")
    assert "2000 tokens" in long["detail"]
    assert (odd["state"], odd["reason"], odd["refusals"]) == ("quarantined", "outlier", 0)
    assert "5.50 nats per byte" in odd["detail"]
    roles = {item["role"] for number in (long["id"], odd["id"]) for item in _updates(bench, number)}
    assert roles == {"left_out"}
    assert ordered(bench, release, [long["id"], odd["id"]])["released"] == [
        {"id": number, "state": "fresh"} for number in sorted((long["id"], odd["id"]))
    ]


def _updates(bench: Bench, example_id: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = show_example(bench.store, LEARNER, example_id)["updates"]
    return found


def test_vouched_ones_are_not_put_there_again(bench: Bench) -> None:
    taught(bench)
    update = bench.begin_update()
    entries = left_out(bench, update)
    ordered(bench, quarantine_examples, [entries[0]["id"]])
    ordered(bench, release, [entries[0]["id"]])
    bench.store.write(
        lambda connection: close_update(
            connection, update, state="inconclusive", report={"left_out": entries}, verdict={}, reason="so"
        )
    )

    assert [row(bench, entry["id"])["state"] for entry in entries] == ["fresh", "quarantined"]


# Looking


def test_examples_are_listed_by_what_they_are_page_by_page(bench: Bench) -> None:
    taught(bench, 5, "alice")
    taught(bench, 2, "bob")
    ordered(bench, quarantine_examples, [2])

    def ids(**wanted: Any) -> list[int]:
        return [item["id"] for item in list_examples(bench.store, LEARNER, **wanted)]

    assert ids() == [7, 6, 5, 4, 3, 2, 1]
    assert ids(source="bob") == [7, 6]
    assert ids(state="quarantined") == ids(reason="operator") == [2]
    assert ids(kind="rating") == []
    assert ids(contains="QUESTION 3 BY") == [4]
    assert ids(contains="answer 1", source="bob") == [7]
    assert ids(contains="%") == []  # a sign, not a pattern
    pages = [ids(limit=3), ids(limit=3, before=5), ids(limit=3, before=2)]
    assert pages == [[7, 6, 5], [4, 3, 2], [1]]


def test_an_example_is_shown_with_all_that_is_known_of_it(bench: Bench) -> None:
    disputed(bench)
    shown = show_example(bench.store, LEARNER, 2)

    assert shown["messages"] == [{"role": "user", "content": QUESTION}]
    assert (shown["target"], shown["source"], shown["vouched"]) == ("9999", "mallory", False)
    assert shown["feedback"]["kind"] == "correction"
    assert shown["contradicts"] == [{"id": 1, "source": "alice", "state": "quarantined", "reason": "contradiction"}]
    assert [item["id"] for item in shown["likes"]] == [1]
    assert (shown["updates"], shown["learned_from"]) == ([], [])
    with pytest.raises(NotFound):
        show_example(bench.store, LEARNER, 99)
    with pytest.raises(NotFound):
        show_example(bench.store, "another", 1)


def test_interactions_are_listed_and_shown_with_what_came_of_them(bench: Bench) -> None:
    names = [bench.interaction(f"question {number}", "x" * 500, source="alice") for number in range(4)]
    bench.feedback(names[1], "correction", text=WORDS)

    found = list_interactions(bench.store, LEARNER, limit=3)
    assert [item["id"] for item in found] == names[:0:-1]
    assert [item["id"] for item in list_interactions(bench.store, LEARNER, before=found[-1]["id"])] == names[:1]
    assert (found[2]["question"], found[2]["feedback"], found[2]["examples"]) == ("question 1", 1, 1)
    assert len(found[2]["answer"]) == 200
    assert [item["id"] for item in list_interactions(bench.store, LEARNER, contains="Question 2")] == [names[2]]
    assert list_interactions(bench.store, LEARNER, state="failed") == []
    assert len(list_interactions(bench.store, LEARNER, source="alice")) == 4
    with pytest.raises(NotFound):
        list_interactions(bench.store, LEARNER, before="chatcmpl-0")

    shown = show_interaction(bench.store, LEARNER, names[1])
    assert shown["answer"] == "x" * 500
    assert [item["text"] for item in shown["feedback"]] == [WORDS]
    assert [item["state"] for item in shown["examples"]] == ["fresh"]
    assert shown["learned_from"] == []


def test_sources_are_told_with_their_disputes(bench: Bench) -> None:
    disputed(bench)
    taught(bench, 3, "alice")

    assert sources(bench.store, LEARNER) == [
        {
            "source": "alice",
            "examples": {"fresh": 3, "quarantined": 1},
            "quarantine": {"contradiction": 1},
            "contradictions": 1,
            "feedback": 4,
        },
        {
            "source": "mallory",
            "examples": {"quarantined": 1},
            "quarantine": {"contradiction": 1},
            "contradictions": 1,
            "feedback": 1,
        },
    ]
    assert sources(bench.store, "another") == []
