"""Commands that talk to a running interface."""

from __future__ import annotations

import io
import json
import sys

import pytest

from tests.api.server import Running
from tests.cli.conftest import Command
from tests.cli.imports import HEAVY, imported
from tests.stores import open_bench


def test_status(command: Command, running: Running) -> None:
    outcome = command("--url", running.url, "status")
    assert outcome.code == 0
    assert "ready" in outcome.out
    assert str(running.services.state) in outcome.out
    assert json.loads(command("--url", running.url, "status", "--json").out)["daemon"] is True


def test_every_read_has_json(command: Command, running: Running) -> None:
    for arguments in (
        "status",
        "learn status",
        "versions list",
        "versions verify",
        "rollout history",
        "rollout status",
    ):
        outcome = command("--url", running.url, *arguments.split(), "--json")
        assert outcome.code == 0, arguments
        assert isinstance(json.loads(outcome.out), dict)


def test_refusals_of_the_daemon_are_told(command: Command, running: Running) -> None:
    outcome = command("--url", running.url, "learn", "now", "--wait")
    assert outcome.code == 1
    assert "at least 9 are needed" in outcome.err
    assert command("--url", running.url, "why", 99).code == 1
    assert command("--url", running.url, "rollback").code == 1
    assert "nothing to cancel" in command("--url", running.url, "learn", "cancel").err


def test_pause(command: Command, running: Running) -> None:
    assert command("--url", running.url, "learn", "pause").code == 0
    assert running.services.learning.status()["paused"] is True
    assert command("--url", running.url, "learn", "resume").code == 0
    assert running.services.learning.status()["paused"] is False


def test_chat_and_feedback_in_one_place(command: Command, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "/good\nwhat is the port?\n/version\n/fix port 8000\n/fix\n"
    said += "/comment say it shorter\n/comment\n/new\nwhat jumps?\n/bad\n/help\n/quit\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(said))
    outcome = command("--url", running.url, "chat", "--max-tokens", 6, "--temperature", 0)
    assert outcome.code == 0
    assert len(outcome.out.splitlines()) >= 2
    assert "no answer yet" in outcome.err
    assert "selflearn@0" in outcome.err
    assert "new example" in outcome.err
    assert "Say it" in outcome.err
    listed = command("--url", running.url, "feedback", "list").out
    assert "port 8000" in listed
    assert "say it shorter" in listed


def test_a_daemon_of_another_state_is_not_taken_for_ours(
    command: Command, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFLEARN_SERVING__PORT", running.url.rpartition(":")[2])
    # no state directory of our own: the daemon at the default address is meant
    assert json.loads(command("status", "--json").out)["daemon"] is True
    same = command("--state", running.services.state, "status", "--json")
    assert json.loads(same.out)["daemon"] is True
    from pathlib import Path

    open_bench(Path("state")).store.close()
    other = json.loads(command("status", "--json").out)
    assert other["daemon"] is False
    assert other["state"] == str(Path("state").resolve())
    refused = command("learn", "now")
    assert refused.code == 4
    assert "another state directory" in refused.err


def test_something_else_at_the_address(command: Command, running: Running) -> None:
    assert command("--url", "http://127.0.0.1:1", "status").code == 4
    assert command("--url", running.url + "/nothing", "status").code in (1, 4)
    assert command("--url", "no url", "status").code == 4


def test_what_is_asked_of_a_daemon_needs_no_heavy_library(running: Running) -> None:
    for words in (["status"], ["learn", "status"]):
        assert not imported("--url", running.url, *words) & (HEAVY | {"rich"}), words
