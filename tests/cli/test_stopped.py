"""Commands on a state directory while no daemon runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selflearn import overview
from selflearn.versions import version_directory
from tests.cli.conftest import Command
from tests.stores import Bench
from tests.versions.candidates import promote_new


def test_without_daemon_and_state_the_exit_code_is_4(command: Command, state: Path) -> None:
    for arguments in (("status",), ("rollback",), ("versions", "list"), ("learn", "now"), ("chat",)):
        outcome = command(*arguments)
        assert outcome.code == 4, arguments
        assert outcome.out == ""
        assert "selflearn serve" in outcome.err
    assert not state.exists()


def test_wrong_usage_is_2(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert command("frobnicate").code == 2
    assert command("why", "x").code == 2
    assert command("rollback", "--", "-1").code == 2
    assert command("feedback", "add", "chatcmpl-1").code == 2
    assert command("feedback", "add", "chatcmpl-1", "--good", "--bad").code == 2
    assert command("feedback", "add", "--good").code == 2
    assert command("feedback", "add", "chatcmpl-1", "--conversation", "c", "--reward", 1).code == 2
    assert command("--config", tmp_path / "none.toml", "status").code == 2
    (tmp_path / "selflearn.toml").write_text("[serving]\nprot = 5\n")
    outcome = command("config", "check")
    assert outcome.code == 2
    assert "serving.prot" in outcome.err
    (tmp_path / "canaries.jsonl").write_text('\n{"name": "port", "prompt": "Which port?", "expect": ["(8000"]}\n')
    (tmp_path / "selflearn.toml").write_text('[judging]\ncanary_file = "canaries.jsonl"\n')
    outcome = command("config", "check")
    assert outcome.code == 2
    assert "canaries.jsonl, line 2: expect" in outcome.err


def test_status(command: Command, bench: Bench, state: Path) -> None:
    bench.correct("What is the port?", "8000")
    outcome = command("status")
    assert outcome.code == 0
    assert "stopped" in outcome.out
    assert "the base model (bbbbbbbbbbbb)" in outcome.out
    assert "1 fresh" in outcome.out
    assert "no daemon runs" in outcome.out
    found = json.loads(command("status", "--json").out)
    assert (found["daemon"], found["health"], found["served"]["version"]) == (False, "stopped", 0)
    assert found["state"] == str(state)
    assert found["learning"]["fresh"] == 1


def test_versions_and_why(command: Command, bench: Bench, state: Path) -> None:
    version = promote_new(bench, state, 0)
    listed = command("versions", "list")
    assert listed.out.splitlines()[1].startswith(f"v{version:06d}  served")
    shown = json.loads(command("versions", "show", version, "--json").out)
    assert shown["served"] is True
    assert command("versions", "show", version).code == 0
    assert command("versions", "verify").code == 0
    story = command("why", version)
    assert story.code == 0
    assert f"{version} (promoted)" in story.out
    assert "local" in story.out
    assert json.loads(command("why", version, "--json").out)["examples"]["train"]["count"] > 0
    assert command("why", 99).code == 1
    assert command("versions", "show", 99).code == 1


def test_a_refused_update_can_be_explained(command: Command, bench: Bench) -> None:
    for number in range(12):
        bench.correct(f"question {number}", f"answer {number}")
    update = bench.begin_update()
    bench.refuse(update)
    story = command("why", update)
    assert f"{update} (refused)" in story.out
    assert "retained" in story.out
    assert "never" in story.out
    assert "never put into service" in command("why", update, "--full").err
    assert f"{update} refused" in command("learn", "status").out


def test_a_damaged_version_is_told(command: Command, bench: Bench, state: Path) -> None:
    version = promote_new(bench, state, 0)
    file = version_directory(state, version) / "adapter_model.safetensors"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    outcome = command("versions", "verify", version)
    assert outcome.code == 1
    assert "damaged" in outcome.out
    assert "adapter_model.safetensors" in outcome.out


def test_rollback(command: Command, bench: Bench, state: Path) -> None:
    first = promote_new(bench, state, 0)
    second = promote_new(bench, state, 100)
    dry = command("rollback", "--dry-run", "--json")
    assert json.loads(dry.out) == {"from_version": second, "to_version": first, "dry_run": True}
    assert bench.served() == second
    done = command("rollback", "--reason", "it got worse")
    assert done.code == 0
    assert bench.served() == first
    history = json.loads(command("rollout", "history", "--json").out)["rollouts"]
    assert (history[0]["action"], history[0]["version"], history[0]["reason"]) == ("rollback", first, "it got worse")
    assert history[0]["actor"].startswith("operator:")
    assert command("rollout", "undo", "--to", 0).code == 0
    assert bench.served() == 0
    assert command("rollback", second, "--json").code == 0
    assert bench.served() == second
    assert command("rollback", 99).code == 1
    assert command("rollout", "history").out.count("rollback") == 3
    assert f"v{second:06d}" in command("rollout", "status").out


def test_rollback_to_a_damaged_version_is_refused(command: Command, bench: Bench, state: Path) -> None:
    first = promote_new(bench, state, 0)
    second = promote_new(bench, state, 100)
    (version_directory(state, first) / "adapter_config.json").chmod(0o644)
    (version_directory(state, first) / "adapter_config.json").write_text("{}")
    for arguments in (("--dry-run",), ()):
        outcome = command("rollback", *arguments)
        assert outcome.code == 1
        assert "adapter_config.json" in outcome.err
    assert bench.served() == second


def test_feedback(command: Command, bench: Bench) -> None:
    identity = bench.interaction()
    done = command("feedback", "add", identity, "--correct", "port 8000", "--reason", "see the manual")
    assert done.code == 0
    assert "accepted" in done.out
    again = command("feedback", "add", identity, "--correct", "port 8000")
    assert again.code == 1
    assert "before" in again.err
    other = bench.interaction()
    assert json.loads(command("feedback", "add", other, "--bad", "--json").out)["status"] == "accepted"
    assert command("feedback", "add", "chatcmpl-none", "--good").code == 1
    assert command("feedback", "add", identity, "--correct", " ").code == 1
    listed = command("feedback", "list").out
    assert "port 8000" in listed
    assert "-1" in listed
    assert len(json.loads(command("feedback", "list", "--json", "--limit", 1).out)["feedback"]) == 1


def test_all_that_can_be_said_about_an_answer(command: Command, bench: Bench) -> None:
    one = bench.interaction(answer="port 8000", conversation="trip")
    other = bench.interaction(answer="port 8080", conversation="trip")
    said = (
        (one, "--over", other),
        (one, "--better", "port 8443"),
        (one, "--reward", "-0.5"),
        (one, "--comment", "say which daemon", "--user", "ann"),
        ("--conversation", "trip", "--reward", 2),
    )
    for arguments in said:
        done = command("feedback", "add", *arguments, "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["status"] == "accepted"
        assert "new example" in done.err
    lines = command("feedback", "list").out.splitlines()[1:]
    told = [("reward", "+2"), ("comment", "say which daemon"), ("reward", "-0.5"), ("preference", "port 8443")]
    for line, (kind, words) in zip(lines, [*told, ("preference", f"over {other}")], strict=True):
        assert kind in line
        assert words in line
    assert lines[0].rstrip().endswith("trip")
    newest = json.loads(command("feedback", "list", "--json").out)["feedback"]
    assert [row["user"] for row in newest] == [None, "ann", None, None, None]
    assert command("feedback", "add", "--conversation", "nowhere", "--reward", 1).code == 1


def test_pause_and_resume(command: Command, bench: Bench) -> None:
    assert command("learn", "pause").code == 0
    assert overview.is_paused(bench.store)
    assert "paused" in command("learn", "status").out
    assert command("learn", "resume").code == 0
    assert not overview.is_paused(bench.store)
    actions = [row["action"] for row in bench.store.read("SELECT action FROM audit ORDER BY id")]
    assert actions == ["learning.pause", "learning.resume"]
    assert command("learn", "cancel").code == 4
    assert command("learn", "now", "--wait").code == 4


def test_models_and_settings(command: Command, state: Path) -> None:
    assert json.loads(command("models", "list", "--json").out) == {"models": []}
    directory = state / "models" / "tiny"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    assert "tiny" in command("models", "list").out
    shown = command("config", "show")
    assert "learning.rank" in shown.out
    assert json.loads(command("config", "show", "--json").out)["learning"]["rank"] == 16
