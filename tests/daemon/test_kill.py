"""The power fails at the worst moments of an update: nothing acknowledged is lost, and learning goes on.

What must always hold: an id given to a client names a row that survives; what is served passed the gate or is the base.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.daemons import ENDLESS, Daemon, Lab, chat, directories, rows, until, update_states, workers

ORPHAN_SECONDS = 10.0


@dataclass(slots=True)
class Promised:
    """What clients and operators were told, over all lives of the daemon."""

    interactions: set[str] = field(default_factory=set)
    feedback: dict[str, str] = field(default_factory=dict)  # by interaction
    updates: dict[int, str] = field(default_factory=dict)
    versions: list[int] = field(default_factory=list)

    @property
    def served(self) -> int:
        return self.versions[-1] if self.versions else 0

    def teach(self, daemon: Daemon, topic: str) -> None:
        learned = daemon.teach(topic)
        self.feedback |= learned
        self.interactions |= set(learned)

    def assert_kept(self, daemon: Daemon) -> None:
        """Looks at a daemon that has just started after a cut."""
        state = daemon.state
        recorded = rows(state, "SELECT id, state FROM interactions")
        assert {row["id"] for row in recorded} == self.interactions
        assert "running" not in {row["state"] for row in recorded}
        found = rows(state, "SELECT id, interaction_id, status FROM feedback")
        assert {row["interaction_id"]: row["id"] for row in found} == self.feedback
        assert update_states(state) == self.updates
        assert directories(state, "work") == []
        assert directories(state, "versions") == [f"v{number:06d}" for number in self.versions]
        assert daemon.version() == self.served
        answer = daemon.ask("who are you?")
        assert answer.version == answer.fingerprint_version == self.served
        self.interactions.add(answer.id)


def nothing_made(state: Path, number: int) -> None:
    assert directories(state, "work") == []
    assert update_states(state)[number] == "running"


def only_a_candidate(state: Path, number: int) -> None:
    assert (state / "work" / f"{number:06d}" / "candidate" / "manifest.json").is_file()
    assert f"v{number:06d}" not in directories(state, "versions")


def a_directory_that_is_no_version(state: Path, number: int) -> None:
    assert f"v{number:06d}" in directories(state, "versions")
    assert not rows(state, "SELECT id FROM versions WHERE id = ?", number)


def a_version_that_never_answered(state: Path, number: int) -> None:
    assert rows(state, "SELECT version FROM rollouts ORDER BY id DESC LIMIT 1") == [{"version": number}]


@pytest.mark.timeout(900)
def test_power_fails_at_every_point_of_an_update(lab: Lab) -> None:
    """One state directory, cut after cut: each life begins with what the one before it left."""
    state, promised = lab.state("kill"), Promised()
    lives: tuple[tuple[str, str, Callable[[Path, int], None]], ...] = (
        ("after-snapshot", "interrupted", nothing_made),
        ("before-rename", "interrupted", only_a_candidate),
        ("after-rename", "interrupted", a_directory_that_is_no_version),
        ("before-swap", "promoted", a_version_that_never_answered),
    )
    for number, (point, outcome, left_behind) in enumerate(lives, start=1):
        with lab.daemon(state, failpoint=point) as daemon:
            promised.assert_kept(daemon)
            promised.teach(daemon, point)
            with contextlib.suppress(httpx.TransportError):  # it may die before it answers
                assert daemon.learn() == number
            assert daemon.await_end() == -signal.SIGKILL
        left_behind(state, number)
        promised.updates[number] = outcome
        promised.versions += [number] if outcome == "promoted" else []
    with lab.daemon(state) as daemon:
        promised.assert_kept(daemon)
        promised.teach(daemon, "finally")
        number = daemon.learn()
        assert number == len(lives) + 1
        update = daemon.await_update(number)
        assert (update["state"], update["parent"]) == ("promoted", promised.served)
        assert daemon.ask("who are you?").version == number


@pytest.mark.timeout(600)
def test_killed_while_training(lab: Lab) -> None:
    """First the worker alone, then the daemon, whose worker must not go on as an orphan."""
    state, promised = lab.state("training"), Promised()
    with lab.daemon(state, failpoint="mid-training") as daemon:
        promised.teach(daemon, "tides")
        update = daemon.await_update(daemon.learn())
        assert update["state"] == "failed"
        assert "code -9" in update["reason"]
        promised.updates[1] = "failed"
        promised.assert_kept(daemon)
    with lab.daemon(state, **ENDLESS) as daemon:
        promised.assert_kept(daemon)
        assert daemon.learn() == 2
        daemon.await_training()
        promised.interactions.add(killed_while_it_answers(daemon))
        until(lambda: not workers(state), ORPHAN_SECONDS)
        promised.updates[2] = "interrupted"
    with lab.daemon(state) as daemon:
        promised.assert_kept(daemon)
        assert len(rows(state, "SELECT id FROM interactions WHERE state = 'interrupted'")) == 1
        assert daemon.learn() == 3


def killed_while_it_answers(daemon: Daemon) -> str:
    """Kills the daemon in the middle of a stream; returns the id that the client was given."""
    body = {**chat("tell me everything", 400), "stream": True}
    with daemon.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        given = str(json.loads(next(lines).removeprefix("data: "))["id"])
        daemon.signal(signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            list(lines)
    assert daemon.await_end() == -signal.SIGKILL
    return given
