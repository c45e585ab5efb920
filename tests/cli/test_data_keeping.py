"""Forgetting, retention, backups and restores from the command line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from selflearn.store import Store, database_path
from selflearn.store.directory import hold_state
from selflearn.versions import version_directory, work_directory
from tests.api.server import Running
from tests.cli.conftest import Command, Terminal
from tests.stores import Bench, open_bench
from tests.versions.candidates import promote_new

SECRET = "Kaperfahrt-1701"


def users(bench: Bench) -> list[str | None]:
    return [row["user"] for row in bench.store.read("SELECT user FROM interactions ORDER BY rowid")]


def test_forget_asks_first_and_tells_what_it_did(
    command: Command, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for user in ("alice", "bob"):
        bench.feedback(bench.interaction(f"{user} asks", user=user), "correction", text=f"{user} knows", user=user)
    dry = command("data", "forget", "--user", "alice", "--dry-run", "--json")
    assert json.loads(dry.out)["interactions"] == 1
    assert "would be forgotten" in dry.err
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    alone = command("data", "forget", "--user", "alice")
    assert (alone.code, "no terminal to ask at" in alone.err, "--yes" in alone.err) == (2, True, True)
    for answer in ("", "n\n"):  # somebody leaves, or says no
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        assert command("data", "forget", "--user", "alice").code == 1
    assert users(bench) == ["alice", "bob"]
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    asked = command("data", "forget", "--user", "alice", "--reason", "a letter")
    assert asked.code == 0
    assert "1 interactions, 1 feedback, 1 examples, 0 imports are forgotten" in asked.err
    assert users(bench) == ["bob"]
    done = json.loads(command("data", "forget", "--match", "BOB  knows", "--yes", "--json").out)
    assert (done["interactions"], done["feedback"], done["examples"]) == (0, 1, 1)
    (entry, *_) = bench.store.read("SELECT actor FROM audit WHERE action = 'data.forget'")
    assert entry["actor"].startswith("operator:")


def test_forget_tells_the_versions_and_the_copies(command: Command, bench: Bench, state: Path) -> None:
    bench.correct(f"what is {SECRET}?", f"{SECRET} is a journey")
    version = promote_new(bench, state, 0)
    promote_new(bench, state, 100)
    assert command("backup").code == 0
    outcome = command("data", "forget", "--match", SECRET, "--yes")
    assert f"Versions {version}" in outcome.err
    assert "version 0 serves" in outcome.err
    assert "are made again without it, by a daemon" in outcome.err
    assert "backups/" in outcome.err
    assert bench.served() == 0
    status = json.loads(command("learn", "status", "--json").out)
    assert (status["rebuild"]["left"], status["rebuild"]["certificate"]) == ([version, version + 1], 1)
    assert "left: [1, 2]" in command("learn", "status").out
    (listed,) = json.loads(command("data", "certificates", "--json").out)["certificates"]
    assert (listed["certificate"], listed["state"], listed["versions"]) == (1, "rebuilding", 2)
    assert "rebuilding" in command("data", "certificates").out
    shown = command("data", "certificate", "1")
    assert listed["sha256"] in shown.out
    assert "backups/" in shown.out
    assert command("data", "certificate", "1", "--verify").code == 0
    version_directory(state, version).mkdir()
    broken = command("data", "certificate", "1", "--verify", "--json")
    assert (broken.code, json.loads(broken.out)["holds"]) == (1, False)
    assert "although version 1 went" in broken.err
    assert command("data", "certificate", "7").code == 1


def test_forget_needs_exactly_one_and_the_state_alone(command: Command, bench: Bench, state: Path) -> None:
    assert command("data", "forget").code == 2
    assert command("data", "forget", "--user", "a", "--match", "bcd").code == 2
    assert command("data", "forget", "--match", "x", "--yes").code == 1
    bench.interaction("question", user="alice")
    with hold_state(state):  # as a daemon does that listens elsewhere
        outcome = command("data", "forget", "--user", "alice", "--yes")
    assert outcome.code == 1
    assert "Another daemon" in outcome.err
    assert users(bench) == ["alice"]


def test_forget_removes_what_a_killed_update_left(command: Command, bench: Bench, state: Path) -> None:
    for number in range(12):
        bench.correct(f"{SECRET} {number}", f"answer {number}")
    work = work_directory(state, bench.begin_update())
    work.mkdir(parents=True)
    (work / "examples.jsonl").write_text(SECRET)
    assert command("data", "forget", "--match", SECRET, "--yes").code == 0
    left = [path.name for path in state.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert left == []


def test_retain_follows_the_settings(command: Command, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.interaction("from 1970")
    assert json.loads(command("data", "retain", "--json").out)["interactions"] == 0
    monkeypatch.setenv("SELFLEARN_EXPERIENCE__KEEP_DAYS", "30")
    assert json.loads(command("data", "retain", "--dry-run", "--json").out)["interactions"] == 1
    assert users(bench) == [None]
    assert "interactions" in command("data", "retain").out
    assert users(bench) == []


def test_vacuum_gives_space_back(command: Command, bench: Bench, state: Path) -> None:
    for number in range(20):
        bench.interaction(f"question {number} " * 4000, user="alice")
    assert command("data", "forget", "--user", "alice", "--yes").code == 0
    size = database_path(state).stat().st_size
    with hold_state(state):  # as a daemon does that listens elsewhere
        outcome = command("data", "vacuum")
    assert outcome.code == 1
    assert "Another daemon" in outcome.err
    assert database_path(state).stat().st_size == size
    done = json.loads(command("data", "vacuum", "--json").out)
    assert done["bytes_after"] < done["bytes_before"] / 2
    assert database_path(state).stat().st_size == done["bytes_after"]


def test_backup_and_restore(
    command: Command, bench: Bench, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = promote_new(bench, state, 0)
    made = json.loads(command("backup", "--json").out)
    assert Path(made["directory"]).parent == state / "backups"
    assert command("backup", tmp_path / "kept").code == 0
    assert command("backup", tmp_path / "kept").code == 1
    shown = command("--state", tmp_path / "new", "restore", tmp_path / "kept")
    assert shown.code == 0
    assert f"default: {version}" in shown.out
    assert json.loads(command("--state", tmp_path / "new", "status", "--json").out)["served"]["version"] == version
    assert command("--state", tmp_path / "new", "versions", "verify").code == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert command("--state", tmp_path / "new", "restore", tmp_path / "kept").code == 2  # nobody is there to say yes
    replaced = json.loads(command("--state", tmp_path / "new", "restore", tmp_path / "kept", "--yes", "--json").out)
    assert Path(replaced["kept_aside"]).is_dir()
    assert command("restore", tmp_path / "nothing", "--yes").code == 1
    assert command("--state", tmp_path / "empty", "backup").code == 4


def test_what_was_forgotten_since_stays_forgotten(
    command: Command, bench: Bench, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.correct(f"what is {SECRET}?", f"{SECRET} is a journey")
    kept = bench.correct("what stays?", "this does")
    assert command("backup", tmp_path / "kept").code == 0
    assert command("data", "forget", "--match", SECRET, "--yes").code == 0
    monkeypatch.setenv("SELFLEARN_EXPERIENCE__KEEP_DAYS", "30")
    assert command("data", "retain").code == 0  # what that deletes may come back, until it is deleted again
    assert users(bench) == []
    bench.store.close()
    outcome = command("restore", tmp_path / "kept", "--yes", "--json")
    assert json.loads(outcome.out)["forgotten_again"] == 3
    assert "forgotten again" in outcome.err
    assert not any(SECRET.encode() in file.read_bytes() for file in state.glob("selflearn.db*"))
    with Store.open(database_path(state)) as store:
        assert [row["id"] for row in store.read("SELECT id FROM examples")] == [kept.example_id]
        assert store.read("SELECT count(*) AS n FROM interactions")[0]["n"] == 1
        assert store.read("SELECT count(*) AS n FROM tombstones")[0]["n"] == 3


def test_a_backup_brings_no_version_back_that_saw_what_was_forgotten_since(
    command: Command, bench: Bench, state: Path, tmp_path: Path
) -> None:
    bench.correct(f"what is {SECRET}?", f"{SECRET} is a journey")
    version = promote_new(bench, state, 0)
    assert command("backup", tmp_path / "kept").code == 0
    assert command("data", "forget", "--match", SECRET, "--yes", "--no-rebuild").code == 0
    assert json.loads(command("learn", "status", "--json").out)["rebuild"] is None
    bench.store.close()
    restored = json.loads(command("restore", tmp_path / "kept", "--yes", "--json").out)
    assert restored["served"] == {"default": 0}
    assert not version_directory(state, version).exists()
    assert json.loads(command("learn", "status", "--json").out)["rebuild"]["left"] == [version]
    assert command("rollback", str(version)).code == 1


def test_examples_of_another_history_are_not_forgotten_by_their_number(
    command: Command, bench: Bench, tmp_path: Path
) -> None:
    ours = bench.correct("ours", "our answer")
    assert command("backup", tmp_path / "kept").code == 0
    stranger = open_bench(tmp_path / "other")
    theirs = stranger.correct("theirs", "their answer")
    stranger.store.close()
    assert theirs.example_id == ours.example_id
    assert command("--state", tmp_path / "other", "data", "forget", "--match", "their answer", "--yes").code == 0
    done = json.loads(command("--state", tmp_path / "other", "restore", tmp_path / "kept", "--yes", "--json").out)
    assert done["forgotten_again"] == 0


def test_a_daemon_elsewhere_makes_its_own_backup(command: Command, running: Running, tmp_path: Path) -> None:
    made = json.loads(command("--url", running.url, "backup", "--json").out)
    assert Path(made["directory"]).parent == running.services.state / "backups"
    assert command("--url", running.url, "backup", tmp_path / "kept").code == 2
    assert json.loads(command("--url", running.url, "data", "retain", "--json").out)["fits"] is True
    outcome = command("--url", running.url, "data", "forget", "--user", "nobody", "--yes", "--json")
    assert json.loads(outcome.out)["interactions"] == 0
