"""The runbook, walked through: every command that it says to look with is run against a daemon that runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from selflearn.cli.main import app
from tests.monitoring.conftest import Seen
from tests.monitoring.expressions import DEPLOY

OPERATIONS = DEPLOY.parent / "docs" / "operations.md"


def sections() -> dict[str, list[str]]:
    """The command lines of each alert's section."""
    text = OPERATIONS.read_text(encoding="utf-8")
    parts = re.split(r"^### (Selflearn\w+)$", text, flags=re.MULTILINE)
    bodies = dict(zip(parts[1::2], parts[2::2], strict=True))
    return {
        alert: [
            line
            for block in re.findall(r"^```sh\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)
            for line in block.split("\n")
            if line
        ]
        for alert, body in bodies.items()
    }


COMMANDS = sorted({line for lines in sections().values() for line in lines})


def test_each_section_says_what_it_means_where_to_look_and_what_to_do() -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    for alert, lines in sections().items():
        body = text.partition(f"### {alert}\n")[2].partition("\n### ")[0]
        assert lines, f"{alert} has no command"
        assert [word for word in ("**Means:**", "**Look:**", "**Do:**") if word not in body] == [], alert


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_runbook_runs(line: str, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFLEARN_URL", seen.daemon.url)
    monkeypatch.setenv("SELFLEARN_STATE", str(seen.daemon.state))
    words = shlex.split(line)
    if words[0] == "selflearn":
        ended = CliRunner().invoke(app, words[1:])
        assert ended.exit_code == 0, ended.output
        assert ended.output.strip()  # 'no alarms' is a message
    elif words[0] == "curl" and shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    else:
        assert _shell(line, seen.daemon.state).strip()


def _shell(line: str, directory: Path) -> str:
    words = ["bash", "-euo", "pipefail", "-c", line]
    ended = subprocess.run(
        words, cwd=directory, env=dict(os.environ), capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
