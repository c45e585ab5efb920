"""``selflearn doctor``, as a whole; what each check finds is in ``tests/doctor``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.api.server import Running
from tests.cli.conftest import Command
from tests.shapes import conforms
from tests.stores import Bench


@pytest.fixture(autouse=True)
def _tiny(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFLEARN_SERVING__MODEL", str(tiny_model))


def test_all_is_well(command: Command, bench: Bench) -> None:
    del bench
    found = conforms("doctor", json.loads(command("doctor", "--json").out))
    names = ["settings", "libraries", "directory", "disk", "fsync", "clock", "database", "versions", "model", "gpu"]
    assert [each["check"] for each in found["checks"]] == [*names, "memory", "keys", "address", "port"]
    assert "fail" not in [each["level"] for each in found["checks"]]
    shown = command("doctor")
    assert shown.code == 0
    assert shown.out.splitlines()[0].split() == ["check", "state", "found"]


def test_what_is_wrong_is_told_with_what_to_do(
    command: Command, bench: Bench, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.store.path.chmod(0o644)
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    (broken / "model.safetensors").unlink()
    monkeypatch.setenv("SELFLEARN_SERVING__MODEL", str(broken))
    monkeypatch.setenv("SELFLEARN_SERVING__HOST", "0.0.0.0")
    outcome = command("doctor")
    assert outcome.code == 1
    for told in ("directory: chmod 600", "model: Convert its weights", "address: Make keys"):
        assert told in outcome.out
    levels = {each["check"]: each["level"] for each in json.loads(command("doctor", "--json").out)["checks"]}
    assert (levels["directory"], levels["model"], levels["address"]) == ("warn", "fail", "fail")


def test_wrong_settings_are_a_finding(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFLEARN_SERVING__DTYPE", "float8")
    outcome = command("doctor", "--json")
    assert outcome.code == 1
    (check,) = json.loads(outcome.out)["checks"]
    assert (check["check"], check["level"]) == ("settings", "fail")
    assert "serving.dtype" in check["found"]


def test_a_daemon_at_the_port(command: Command, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFLEARN_SERVING__PORT", running.url.rpartition(":")[2])
    ours = json.loads(command("--state", running.services.state, "doctor", "--quick", "--json").out)
    assert ours["checks"][-1]["found"].startswith("our daemon answers")
    other = command("doctor", "--quick")
    assert other.code == 1
    assert "runs on another state directory" in other.out
