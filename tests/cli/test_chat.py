"""``selflearn chat``: piped, and at a terminal with an editor and a history."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Protocol

import pytest

from selflearn.cli.editor import edited
from selflearn.errors import SelflearnError
from tests.api.server import Running
from tests.cli.conftest import Command, Outcome
from tests.cli.terminals import Typed
from tests.shapes import conforms

SHORT = ("--max-tokens", 4, "--temperature", 0)


class Say(Protocol):
    def __call__(self, text: str, *options: object) -> Outcome: ...


@pytest.fixture
def say(command: Command, running: Running, monkeypatch: pytest.MonkeyPatch) -> Say:
    def said(text: str, *options: object) -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        return command("--url", running.url, "chat", *SHORT, *options)

    return said


def asked(running: Running) -> list[list[dict[str, str]]]:
    """The messages of all requests so far, oldest first."""
    rows = running.store.read("SELECT messages FROM interactions ORDER BY rowid")
    return [json.loads(row["messages"]) for row in rows]


def test_piped_every_line_is_a_question(say: Say, running: Running) -> None:
    outcome = say("what is the port?\n\nand the host?\n", "--json")
    assert outcome.code == 0
    answers = [conforms("chat", json.loads(line)) for line in outcome.out.splitlines()]
    assert [answer["question"] for answer in answers] == ["what is the port?", "and the host?"]
    assert {answer["model"] for answer in answers} == {"selflearn@0"}
    assert all(answer["answer"] and answer["finish_reason"] == "length" for answer in answers)
    first, second = asked(running)[-2:]
    assert [message["content"] for message in second] == [first[0]["content"], answers[0]["answer"], "and the host?"]


def test_a_question_that_fails_is_told_by_the_exit_code(say: Say) -> None:
    outcome = say("what?\n/version 99\nwhat?\n")
    assert outcome.code == 1
    assert "selflearn@99" in outcome.err
    assert len(outcome.out.splitlines()) == 2  # the version before goes on answering
    assert say("what?\n", "--version", 99).code == 1
    assert say("/nothing\n").err.startswith("There is no /nothing.\n/good")


def test_system_prompt_version_and_a_new_conversation(say: Say, running: Running) -> None:
    said = "/version\none?\n/system be short\ntwo?\n/version 0\nthree?\n/reset\nfour?\n/version\n/version x\n/good\n"
    outcome = say(said, "--system", "be kind")
    assert outcome.code == 0
    one, two, three, four = asked(running)[-4:]
    assert [message["content"] for message in one] == ["be kind", "one?"]
    assert [message["content"] for message in two] == ["be short", "two?"]
    assert [message["content"] for message in three][::2] == ["be short", three[2]["content"]]
    assert [message["content"] for message in four] == ["be short", "four?"]
    told_ones = (
        "There is no answer yet",
        "From now on selflearn@0",
        "\nselflearn@0\n",
        "'x' is no version",
        "Thank you",
    )
    for told in told_ones:
        assert told in outcome.err, told


def test_at_a_terminal_with_editor_and_history(running: Running, tmp_path: Path) -> None:
    editor = tmp_path / "editor.sh"
    editor.write_text("#!/bin/sh\nprintf 'port 8443\\n' > \"$1\"\n")
    editor.chmod(0o755)
    environment = {"EDITOR": str(editor), "VISUAL": "", "XDG_STATE_HOME": str(tmp_path / "kept")}
    with Typed(("--url", running.url, "chat", *SHORT), environment) as terminal:
        terminal.until("> ")
        terminal.type("which port is it?\n")
        terminal.until("(selflearn@0)")
        terminal.until("> ")
        terminal.type("/fix\n")
        terminal.until("Thank you")
        terminal.until("> ")
        terminal.type("\x04")  # Ctrl-D
        assert terminal.ended()[0] == 0
    (row, *_) = running.store.read("SELECT text FROM feedback WHERE kind = 'correction' ORDER BY created_at DESC")
    assert row["text"] == "port 8443"
    history = tmp_path / "kept" / "selflearn" / "chat_history"
    assert "which port is it?" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_an_editor_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    for editor, told in (("false", "exit code 1"), ("/no/such/editor", "cannot be run"), ('"', "cannot be run")):
        monkeypatch.setenv("EDITOR", editor)
        with pytest.raises(SelflearnError, match=told):
            edited("so")
    monkeypatch.setenv("EDITOR", "true")
    assert edited(" as it was ") == "as it was"
