"""The whole daemon on vLLM: it learns, goes back, and outlives a vLLM that dies; nothing outlives the daemon."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import Daemon, Lab, rows, until
from tests.processes import children, group_members
from tests.vllm.server import START_SECONDS, VENV

QUESTIONS = ("harbour question 1", "what is the port of the daemon?", "water boils at")
SETTINGS = {
    "SERVING__ENGINE": "vllm",
    "SERVING__VLLM_COMMAND": str(VENV / "bin" / "vllm"),
    "SERVING__CACHE_TOKENS": "4096",
    "SERVING__MAX_CONCURRENT_REQUESTS": "4",
}


@pytest.fixture(scope="module")
def daemon(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    lab = Lab(tiny_model, tmp_path_factory.mktemp("lab"))
    with lab.daemon(lab.state("vllm"), **SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
def answers(daemon: Daemon) -> list[list[str]]:
    """What the base answered, and what version 1 answers, which serves now."""
    before = ask(daemon)
    daemon.teach("harbour")
    update = daemon.await_update(daemon.learn())
    assert update["state"] == "promoted", update["reason"]
    return [before, ask(daemon)]


def ask(daemon: Daemon) -> list[str]:
    return [daemon.ask(question, 40).text for question in QUESTIONS]


def keeper_of(daemon: Daemon) -> int:
    (keeper,) = children(daemon.process.pid)
    return keeper


def test_it_learns_and_goes_back(daemon: Daemon, answers: list[list[str]]) -> None:
    before, after = answers
    assert before != after
    assert daemon.version() == 1
    assert daemon.post("/admin/rollback", to=0).status_code == 200
    assert ask(daemon) == before
    assert daemon.post("/admin/rollback", to=1).status_code == 200
    assert ask(daemon) == after


def test_a_vllm_that_dies_changes_nothing_but_the_time(daemon: Daemon, answers: list[list[str]]) -> None:
    keeper = keeper_of(daemon)
    os.killpg(keeper, signal.SIGKILL)
    until(lambda: not group_members(keeper))
    refused = daemon.post("/v1/chat/completions", model="selflearn", messages=[{"role": "user", "content": "hello"}])
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
    assert "retry-after" in refused.headers
    for version in (0, 1):  # it still takes orders
        assert daemon.post("/admin/rollback", to=version).status_code == 200
    until(lambda: _answers(daemon), START_SECONDS)
    assert ask(daemon) == answers[1]
    assert not rows(daemon.state, "SELECT id FROM rollouts WHERE action NOT IN ('promote', 'rollback')")


def test_nothing_of_it_outlives_the_daemon(daemon: Daemon, answers: list[list[str]]) -> None:
    del answers
    keeper = keeper_of(daemon)
    assert len(group_members(keeper)) > 2
    daemon.process.kill()
    daemon.process.wait()
    until(lambda: not group_members(keeper))


def _answers(daemon: Daemon) -> bool:
    asked = {"model": "selflearn", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    return daemon.post("/v1/chat/completions", **asked).status_code == 200
