"""The tutorial, command by command, with a tiny model in the place of the embedded one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.daemons import UPDATE_SECONDS, environment, free_port
from tests.docs.blocks import blocks, run_in_order

PORT = "127.0.0.1:8000"


@pytest.mark.timeout(600)
def test_every_command_of_the_tutorial_works(tiny_model: Path, tmp_path: Path) -> None:
    port, place = free_port(), tmp_path / "place"
    scripts = [
        script.replace(PORT, f"127.0.0.1:{port}").replace("/tmp/selflearn-tutorial", str(place))
        for script in blocks("tutorial.md")
    ]
    names = {"SERVING__PORT": str(port), "SERVING__MODEL": str(tiny_model)}
    quick = {**environment(**names), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ran = run_in_order(scripts, tmp_path, quick, UPDATE_SECONDS)
    assert ran.code == 0, ran.outputs[-1]
    assert len(ran.outputs) == len(scripts)
    told = dict(
        zip(
            ("path", "run", "ask", "correct", "teach", "learn", "numbers", "again", "back", "forth", "stop"),
            ran.outputs,
            strict=True,
        )
    )
    assert json.loads(told["run"])["version"] == 0
    assert "selflearn-v000000-" in told["ask"]
    assert "accepted" in told["correct"]
    assert "promoted" in told["learn"]
    assert "selflearn_gate_value" in told["numbers"]
    assert told["again"].count("selflearn-v000001-") == told["again"].count("selflearn-v000000-") == 1
    assert "selflearn-v000000-" in told["back"]
    assert "it had not moved" in told["forth"]
    assert "no daemon answers" in told["stop"]
