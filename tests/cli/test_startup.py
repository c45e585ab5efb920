"""What an operator waits for at night brings nothing in that it does not need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import selflearn.experience
import selflearn.versions
from selflearn.cli.commands import PLACES, load
from tests.api.server import Running
from tests.stores import Bench
from tests.versions.candidates import promote_new

#: Each takes a twentieth of a second to import, or far more.
HEAVY = {"torch", "transformers", "peft", "pandas", "pyarrow", "numpy", "scipy", "datasketch", "sqlite_utils", "jinja2"}
HEAVY |= {"phonenumbers", "httpx", "starlette", "uvicorn", "matplotlib", "sklearn", "apscheduler", "prometheus_client"}
PROGRAM = """
import json, sys
from selflearn.cli.main import main
try:
    main()
except SystemExit as ended:
    code = ended.code or 0
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


def imported(*arguments: object) -> set[str]:
    """The modules that a command has imported by its end; it must succeed."""
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr[:2000]
    return set(modules)


def test_help_needs_no_more_than_the_library_that_prints_it() -> None:
    assert not imported("--help") & (HEAVY | {"sqlite3", "pydantic"})


def test_what_is_asked_of_a_state_directory_needs_no_heavy_library(bench: Bench, state: Path) -> None:
    first = promote_new(bench, state, 0)
    promote_new(bench, state, 100)
    given = ("--state", state, "--url", "http://127.0.0.1:1")
    for words in (["status"], ["rollback", "--dry-run"], ["rollback"], ["rollout", "history"]):
        assert not imported(*given, *words) & (HEAVY | {"rich"}), words
    assert bench.served() == first


def test_what_is_asked_of_a_daemon_needs_not_even_the_database(running: Running) -> None:
    for words in (["status"], ["learn", "status"]):
        assert not imported("--url", running.url, *words) & (HEAVY | {"rich"}), words


@pytest.mark.parametrize("name", PLACES)
def test_every_command_is_where_it_is_looked_for(name: str) -> None:
    command = load(name)
    assert command.name == name
    assert command.help


@pytest.mark.parametrize("room", [selflearn.experience, selflearn.versions])
def test_every_public_name_of_a_lazy_room_is_there(room: object) -> None:
    names = room.__all__  # type: ignore[attr-defined]
    assert len(names) > 30
    for name in names:
        assert not isinstance(getattr(room, name), type(sys)), f"{name} is a module"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        room.nothing  # type: ignore[attr-defined]  # noqa: B018
