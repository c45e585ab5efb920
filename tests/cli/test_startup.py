"""What an operator waits for at night brings nothing in that it does not need."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import selflearn.experience
import selflearn.versions
from selflearn.cli.commands import PLACES, load
from tests.cli.imports import HEAVY, imported
from tests.stores import Bench
from tests.versions.candidates import promote_new


def test_help_needs_no_more_than_the_library_that_prints_it() -> None:
    assert not imported("--help") & (HEAVY | {"sqlite3", "pydantic"})


def test_what_is_asked_of_a_state_directory_needs_no_heavy_library(bench: Bench, state: Path) -> None:
    first = promote_new(bench, state, 0)
    promote_new(bench, state, 100)
    given = ("--state", state, "--url", "http://127.0.0.1:1")
    for words in (["status"], ["rollback", "--dry-run"], ["rollback"], ["rollout", "history"]):
        assert not imported(*given, *words) & (HEAVY | {"rich"}), words
    assert bench.served() == first


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
