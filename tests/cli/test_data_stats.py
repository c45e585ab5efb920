"""``selflearn data stats``, with a daemon and without one."""

from __future__ import annotations

import json

from tests.api.server import Running
from tests.cli.conftest import Command
from tests.stores import Bench


def test_the_state_directory_alone_tells(command: Command, bench: Bench) -> None:
    bench.correct("What is the port?", "8000")
    bench.correct("What do you say?", "no " * 400)
    outcome = command("data", "stats")
    assert outcome.code == 0
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert "received 2 – –" in lines
    assert "– – repetitive 1 in quarantine: they repeat themselves" in lines
    assert "– – fresh 1 wait for an update" in lines
    assert "feedback correction 2" in lines
    assert lines[-1].startswith("not learning now no daemon runs; start one with 'selflearn serve'; 1 new examples, ")
    assert lines[-1].endswith("1 in quarantine (repetitive 1)")
    found = json.loads(command("data", "stats", "--json").out)
    assert found["examples"] == {"fresh": 1, "quarantined": 1}
    assert found["why_not"] in " ".join(outcome.out.split())


def test_a_daemon_tells_the_same(command: Command, running: Running) -> None:
    found = json.loads(command("--url", running.url, "data", "stats", "--json").out)
    assert found == running.http.get("/admin/data/stats").json()
    assert "not learning now" in command("--url", running.url, "data", "stats").out
