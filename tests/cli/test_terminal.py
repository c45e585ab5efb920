"""What a person at a terminal sees: tables, colours, questions, completed words."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.terminals import Typed
from tests.stores import Bench
from tests.versions.candidates import promote_new

COLOURED = re.compile(r"\x1b\[[0-9;]*3[0-9]")
NOWHERE = ("--url", "http://127.0.0.1:1")


@pytest.fixture
def versions(bench: Bench, state: Path) -> Path:
    """A state directory with two versions."""
    promote_new(bench, state, 0)
    promote_new(bench, state, 100)
    return state


def test_tables_are_drawn_and_coloured_unless_no_colour_is_wanted(versions: Path) -> None:
    for environment, coloured in ((None, True), ({"NO_COLOR": "1"}, False)):
        with Typed(("--state", versions, *NOWHERE, "versions", "verify"), environment) as terminal:
            code, shown = terminal.ended()
        assert code == 0
        assert "─" in shown
        assert "intact" in shown
        assert bool(COLOURED.search(shown)) is coloured


def test_piped_the_same_is_plain_text(versions: Path) -> None:
    command = [sys.executable, "-m", "selflearn.cli.main", "--state", str(versions), *NOWHERE, "versions", "verify"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout + done.stderr
    lines = [line.split()[:2] for line in done.stdout.splitlines()]
    assert lines == [["version", "state"], ["2", "intact"], ["1", "intact"], ["0", "intact"]]


def test_questions_are_asked_and_no_is_no(versions: Path, bench: Bench) -> None:
    known = "SELECT count(*) AS n FROM examples WHERE state != 'forgotten'"
    for answer, code, left in (("n\n", 1, True), ("y\n", 0, False)):
        with Typed(("--state", versions, *NOWHERE, "data", "forget", "--source", "local")) as terminal:
            terminal.until("Delete it for good? [y/N]: ")
            terminal.type(answer)
            assert terminal.ended()[0] == code
        assert (bench.store.read(known)[0]["n"] > 0) is left


def test_versions_are_completed(versions: Path) -> None:
    def completed(line: str) -> list[str]:
        words = line.split(" ")
        environment = {"_SELFLEARN_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        program = "from selflearn.cli.main import main; main()"
        command = [sys.executable, "-c", program]
        settings = {**os.environ, "SELFLEARN_STATE": str(versions), **environment}
        done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
        return done.stdout.split("\n")

    assert "rollback" in completed("selflearn roll")
    assert [word for word in completed("selflearn rollback ") if word] == ["2", "1", "0"]
    assert "--dry-run" in completed("selflearn rollback --d")
