"""Canaries by command while no daemon runs: rows in the log, and clear words for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selflearn.versions import running_canary
from tests.cli.conftest import Command
from tests.stores import LEARNER, Bench, tables
from tests.versions.candidates import promote_new


@pytest.fixture
def bench(bench: Bench, state: Path) -> Bench:
    """Versions 1 and 2; 2 is served."""
    for start in (0, 100):
        promote_new(bench, state, start)
    return bench


def test_a_canary_from_start_to_promotion(command: Command, bench: Bench) -> None:
    before = tables(bench.store)
    rehearsed = command("rollout", "canary", 1, "--share", "0.1", "--dry-run")
    assert "would answer 0.1 of the conversations, version 2 the others" in rehearsed.err
    assert tables(bench.store) == before
    assert command("rollout", "canary", 1, "--share", "0.1", "--for", "30m", "--reason", "let us see").code == 0
    found = running_canary(bench.store.connection(), LEARNER, 0.0)
    assert found is not None
    assert found.until is not None
    assert (found.version, found.share, round(found.until - found.since)) == (1, 0.1, 1800)
    assert found.actor.startswith("operator:")
    assert "version 1 (v000001), 0.1 of the conversations" in command("rollout", "status").out
    assert "version 1 (v000001), 0.1 of the conversations" in command("status").out
    shown = json.loads(command("rollout", "status", "--json").out)
    assert (shown["canary"]["version"], shown["canary"]["reason"], shown["served"]["version"]) == (1, "let us see", 2)
    assert json.loads(command("rollout", "promote", "--dry-run", "--json").out) == {
        "from_version": 2,
        "to_version": 1,
        "dry_run": True,
    }
    assert bench.served() == 2
    assert command("rollout", "promote").code == 0
    assert bench.served() == 1
    assert json.loads(command("rollout", "status", "--json").out)["canary"] is None
    rows = json.loads(command("rollout", "history", "--json").out)["rollouts"]
    assert [(row["action"], row["version"], row["share"]) for row in rows[:2]] == [
        ("promote", 1, None),
        ("canary", 1, 0.1),
    ]


def test_abort_and_promotion_of_a_version_by_number(command: Command, bench: Bench) -> None:
    assert command("rollout", "canary", 1, "--share", "0.5").code == 0
    assert "until it is promoted or aborted" in command("rollout", "status").out
    assert json.loads(command("rollout", "abort", "--json").out) == {"version": 1, "served": 2, "dry_run": False}
    assert command("rollout", "promote", 1, "--reason", "after all").code == 0
    assert bench.served() == 1
    assert "after all" in command("rollout", "history").out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("canary", 1), 2, "--share"),
        (("canary", 1, "--share", "1"), 2, "between 0 and 1"),
        (("canary", 1, "--share", "10%"), 2, "between 0 and 1"),
        (("canary", 1, "--share", "nan"), 2, "between 0 and 1"),
        (("canary", 1, "--share", "0.1", "--for", "soon"), 2, "30m"),
        (("canary", 1, "--share", "0.1", "--for", "0s"), 2, "30m"),
        (("canary", 0, "--share", "0.1"), 2, "N"),
        (("canary", 1, "--share", "0.1", "--for", "9999d"), 1, "a year"),
        (("canary", 2, "--share", "0.1"), 1, "served already"),
        (("canary", 9, "--share", "0.1"), 1, "no version 9"),
        (("promote", 9), 1, "no version 9"),
        (("promote", 2), 1, "served already"),
        (("promote",), 1, "No canary runs"),
        (("abort",), 1, "No canary runs"),
    ],
)
def test_what_cannot_be_is_told_and_changes_nothing(
    command: Command, bench: Bench, words: tuple[object, ...], code: int, message: str
) -> None:
    before = tables(bench.store)
    outcome = command("rollout", *words)
    assert outcome.code == code
    assert message in " ".join(outcome.err.replace("│", " ").split())
    assert tables(bench.store) == before
