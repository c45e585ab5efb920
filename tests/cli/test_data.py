"""Looking at recorded data and deciding about it, with and without a daemon."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.api.server import Running
from tests.cli.conftest import Command, Terminal
from tests.stores import Bench

QUESTION = "What is the port of the daemon?"


@pytest.fixture
def bench(bench: Bench) -> Bench:
    """The state directory of the command, where alice and mallory contradict each other."""
    bench.correct(QUESTION, "8000", source="alice")
    bench.correct(QUESTION, "9999", source="mallory")
    return bench


def states(bench: Bench) -> dict[int, str]:
    found = bench.store.read("SELECT id, state, reason FROM examples ORDER BY id")
    return {row["id"]: row["reason"] or row["state"] for row in found}


def read(command: Command, *arguments: Any) -> Any:
    outcome = command("data", *arguments, "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def test_what_is_in_quarantine_is_told_with_its_reason(command: Command, bench: Bench) -> None:
    outcome = command("data", "quarantine")
    assert outcome.code == 0
    assert "contradiction" in outcome.out
    assert "example 1 of alice contradicts it" in outcome.out
    assert [row["id"] for row in read(command, "quarantine")["examples"]] == [2, 1]
    told = {row["source"]: row["contradictions"] for row in read(command, "sources")["sources"]}
    assert told == {"alice": 1, "mallory": 1}
    assert "1 contradiction" in command("data", "sources").out
    assert states(bench) == {1: "contradiction", 2: "contradiction"}


def test_a_dispute_is_decided(command: Command, bench: Bench) -> None:
    outcome = command("data", "release", 1, "--reason", "asked the team")
    assert outcome.code == 0
    assert outcome.out.splitlines()[1].split() == ["1", "fresh"]
    assert "Overruled by them: 2." in outcome.err
    assert states(bench) == {1: "fresh", 2: "superseded"}
    again = command("data", "release", 1)
    assert "Neither in quarantine nor suspect: 1." in again.err
    (row,) = bench.store.read("SELECT actor, detail FROM audit WHERE action = 'data.release' LIMIT 1")
    assert row["actor"].startswith("operator")
    assert json.loads(row["detail"])["reason"] == "asked the team"


def test_a_source_is_quarantined_after_asking(command: Command, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    asked = command("data", "quarantine", "--source", "mallory")
    assert asked.code == 1
    assert "Put 1 examples of mallory into quarantine?" in asked.err
    assert command("data", "quarantine", "--source", "mallory", "--dry-run").code == 0
    assert states(bench) == {1: "contradiction", 2: "contradiction"}
    outcome = command("data", "quarantine", "--source", "mallory", "--yes", "--reason", "hostile")
    assert outcome.code == 0
    assert "may train: 1." in outcome.err
    assert states(bench) == {1: "fresh", 2: "operator"}
    assert command("data", "quarantine", "--source", "nobody", "--yes").code == 1


def test_the_way_back_from_what_was_learned_is_told(command: Command, bench: Bench) -> None:
    for number in range(12):
        bench.correct(f"question {number}", f"the answer {number}", source="carol")
    version = bench.begin_update()
    bench.promote(version)
    trained = next(number for number, state in bench.states().items() if state == "trained")
    outcome = command("data", "quarantine", trained)
    assert f"{version} (from 1)" in outcome.err
    assert "selflearn rollback 0" in outcome.err


def test_lists_and_single_things(command: Command, bench: Bench) -> None:
    assert [row["id"] for row in read(command, "list", "--source", "alice")["examples"]] == [1]
    assert [row["id"] for row in read(command, "list", "--contains", "PORT", "--limit", 1)["examples"]] == [2]
    assert [row["id"] for row in read(command, "list", "--before", 2)["examples"]] == [1]
    assert command("data", "list", "--state", "fresh").out == ""
    assert "no such examples" in command("data", "list", "--state", "fresh").err
    (newest, oldest) = read(command, "interactions")["interactions"]
    assert (newest["question"], newest["feedback"], newest["examples"]) == (QUESTION, 1, 1)
    assert read(command, "interactions", "--before", newest["id"])["interactions"] == [oldest]
    assert read(command, "show", 1)["contradicts"][0]["source"] == "mallory"
    assert read(command, "show", oldest["id"])["examples"][0]["id"] == 1
    assert "mallory" in command("data", "show", 1).out
    assert command("data", "interactions").code == 0


def test_wrong_usage(command: Command, bench: Bench) -> None:
    assert command("data", "show", "seven").code == 2
    assert command("data", "release").code == 2
    assert command("data", "quarantine", 1, "--source", "alice").code == 2
    unknown = command("data", "show", 99)
    assert unknown.code == 1
    assert "no example 99" in unknown.err
    assert command("data", "release", 99).code == 1
    assert states(bench) == {1: "contradiction", 2: "contradiction"}


def test_a_running_daemon_does_the_same(command: Command, running: Running) -> None:
    asked = running.http.post(
        "/v1/chat/completions",
        json={"model": "selflearn", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 2},
    ).json()["id"]
    given = {"interaction_id": asked, "kind": "correction", "text": "8000"}
    number = running.http.post("/v1/feedback", json=given).json()["example_id"]

    def call(*arguments: Any) -> Any:
        outcome = command("--url", running.url, "data", *arguments, "--json")
        assert outcome.code == 0, outcome.err
        return json.loads(outcome.out)

    assert call("list", "--contains", "port of the", "--state", "fresh")["examples"][0]["id"] == number
    assert call("quarantine", number)["quarantined"] == 1
    assert call("quarantine")["examples"][0]["detail"] == "asked by the operator"
    assert call("quarantine", "--source", "local", "--dry-run")["dry_run"] is True
    assert call("release", number)["released"] == [{"id": number, "state": "fresh"}]
    assert call("show", number)["vouched"] is True
    assert call("show", asked)["examples"][0]["id"] == number
    assert call("interactions", "--state", "completed")["interactions"] != []
    assert call("sources")["sources"][0]["source"] == "local"
