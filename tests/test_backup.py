"""Backups: complete or not there, and restored whole or not at all."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from selflearn import restore as restoring
from selflearn.backup import CONTENTS, back_up, check_database, list_backups, read_backup
from selflearn.errors import Conflict, NotFound, SelflearnError, StateError, StateInUse
from selflearn.restore import finish_restore, restore
from selflearn.store import Store, database_path
from selflearn.store.directory import hold_state
from selflearn.versions import verify_version, version_directory
from tests.daemons import environment, flip_byte
from tests.stores import LEARNER, Bench, registered, tables
from tests.versions.candidates import promote_new

AT = 1_700_000_000.0
NAME = "20231114T221320Z"


@pytest.fixture
def bench(bench: Bench) -> Bench:
    return registered(bench)


def content(state: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows but those that tell of backups and restores themselves."""
    with Store.open(database_path(state)) as store:
        found = tables(store)
    return {name: rows for name, rows in found.items() if name not in ("audit", "sqlite_sequence")}


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_backup_has_all_rows_and_versions_and_says_so(bench: Bench, state: Path) -> None:
    version = promote_new(bench, state, 0)
    told = back_up(state, now=lambda: AT)
    directory = state / "backups" / NAME
    assert told["directory"] == str(directory)
    assert list_backups(state) == [NAME]
    files = files_of(directory)
    assert set(told["files"]) | {CONTENTS} == set(files)
    assert {name.split("/")[1] for name in files if name.startswith("versions/")} == {f"v{version:06d}"}
    assert told["learners"] == [{"name": LEARNER, "base_model": "tiny", "base_sha256": "b" * 64, "served": version}]
    assert told["counts"]["interactions"] == 12
    assert read_backup(directory)["counts"] == told["counts"]
    assert (directory / "selflearn.db").stat().st_mode & 0o077 == 0


def test_what_is_restored_is_what_was_backed_up(bench: Bench, state: Path, tmp_path: Path) -> None:
    version = promote_new(bench, state, 0)
    told = back_up(state, tmp_path / "kept", now=lambda: AT)
    bench.correct("said after the backup", "it is not in it")
    told_then = content(tmp_path / "kept")
    done = restore(tmp_path / "kept", tmp_path / "new", actor="operator", now=lambda: AT)
    assert done["served"] == {LEARNER: version}
    assert done["counts"] == told["counts"]
    assert done["kept_aside"] is None
    assert content(tmp_path / "new") == told_then
    with Store.open(database_path(tmp_path / "new")) as store:
        assert verify_version(store, tmp_path / "new", version)["intact"]
        assert [row["action"] for row in store.read("SELECT action FROM audit ORDER BY id")][-1] == "state.restored"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["daemon.lock", "selflearn.db", "versions"]


def test_writers_go_on_during_a_backup_and_it_is_of_one_moment(bench: Bench, state: Path, tmp_path: Path) -> None:
    for number in range(30):
        bench.correct(f"question {number}", f"answer {number} " * 500)
    ended = threading.Event()
    written: list[str] = []

    def write_on() -> None:
        while not ended.is_set():
            written.append(bench.correct(f"later {len(written)}", f"later answer {len(written)}").id)

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        for number in range(3):
            told = back_up(state, tmp_path / f"kept-{number}")
            counts = told["counts"]
            assert counts["interactions"] - counts["feedback"] in (0, 1)  # one may be answered and not corrected yet
            assert counts["feedback"] == counts["examples"]
            check_database(tmp_path / f"kept-{number}" / "selflearn.db")
    finally:
        ended.set()
        writer.join()
    assert told["counts"]["feedback"] > 30


def test_a_backup_replaces_nothing_and_needs_something(bench: Bench, state: Path, tmp_path: Path) -> None:
    back_up(state, tmp_path / "kept")
    before = files_of(tmp_path / "kept")
    with pytest.raises(Conflict, match="exists already"):
        back_up(state, tmp_path / "kept")
    assert files_of(tmp_path / "kept") == before
    with pytest.raises(NotFound, match="nothing to back up"):
        back_up(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_damaged_version_is_left_out_and_told(bench: Bench, state: Path, tmp_path: Path) -> None:
    first, second = promote_new(bench, state, 0), promote_new(bench, state, 100)
    flip_byte(version_directory(state, first) / "adapter_model.safetensors")
    told = back_up(state, tmp_path / "kept")
    assert list(told["left_out"]) == [f"v{first:06d}"]
    assert "adapter_model.safetensors" in told["left_out"][f"v{first:06d}"]
    done = restore(tmp_path / "kept", tmp_path / "new", actor="operator")
    assert done["versions"] == [second]


def test_one_changed_byte_is_refused_wherever_it_is(bench: Bench, state: Path, tmp_path: Path) -> None:
    promote_new(bench, state, 0)
    told = back_up(state, tmp_path / "kept")
    for name in told["files"]:
        flip_byte(tmp_path / "kept" / name)
        with pytest.raises(StateError, match="was changed"):
            restore(tmp_path / "kept", tmp_path / "new", actor="operator")
        assert not (tmp_path / "new").exists()
        flip_byte(tmp_path / "kept" / name)
    restore(tmp_path / "kept", tmp_path / "new", actor="operator")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 2}, "newer selflearn"),
        ({"files": {}}, "does not name"),
        ({"files": {"selflearn.db": None, "../../outside": {"sha256": "0"}}}, "no file of a backup"),
        ({"files": {"selflearn.db": None, "versions/v000001/../../x": {"sha256": "0"}}}, "no file of a backup"),
        ({"files": {"selflearn.db": None, "versions/v000001/missing.json": {"sha256": "0"}}}, "cannot be read"),
    ],
)
def test_contents_that_are_not_a_backups_are_refused(
    bench: Bench, state: Path, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    back_up(state, tmp_path / "kept")
    contents = json.loads((tmp_path / "kept" / CONTENTS).read_text())
    database = contents["files"]["selflearn.db"]
    contents |= change
    if "selflearn.db" in contents["files"]:
        contents["files"]["selflearn.db"] = database
    (tmp_path / "kept" / CONTENTS).write_text(json.dumps(contents))
    with pytest.raises(StateError, match=told):
        restore(tmp_path / "kept", tmp_path / "new", actor="operator")
    with pytest.raises(NotFound, match="is no backup"):
        restore(tmp_path, tmp_path / "new", actor="operator")
    assert not (tmp_path / "new").exists()


def test_a_state_is_replaced_only_when_told_and_kept_aside(bench: Bench, state: Path, tmp_path: Path) -> None:
    old = promote_new(bench, state, 0)
    back_up(state, tmp_path / "kept")
    promote_new(bench, state, 100)
    bench.store.close()
    later, copied = content(state), content(tmp_path / "kept")
    with pytest.raises(Conflict, match="has a state already"):
        restore(tmp_path / "kept", state, actor="operator", now=lambda: AT)
    assert content(state) == later
    for _ in range(2):  # twice in one second: neither old state is lost
        done = restore(tmp_path / "kept", state, actor="operator", replace=True, now=lambda: AT)
        assert content(state) == copied
    assert content(state / f"replaced-{NAME}") == later
    assert done["kept_aside"] == str(state / f"replaced-{NAME}-2")
    assert content(Path(done["kept_aside"])) == copied
    assert [path.name for path in (state / "versions").iterdir()] == [f"v{old:06d}"]


def test_a_state_in_use_is_not_touched(bench: Bench, state: Path, tmp_path: Path) -> None:
    back_up(state, tmp_path / "kept")
    with hold_state(state), pytest.raises(StateInUse):
        restore(tmp_path / "kept", state, actor="operator", replace=True)
    assert not list(state.glob("replaced-*"))


@pytest.mark.parametrize("moves", [1, 2])
def test_a_restore_that_dies_on_the_way_is_brought_to_its_end(
    bench: Bench, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    promote_new(bench, state, 0)
    back_up(state, tmp_path / "kept")
    promote_new(bench, state, 100)
    bench.store.close()
    later, left = content(state), [moves]

    def die(name: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise InterruptedError(name)

    with monkeypatch.context() as patched:
        patched.setattr(restoring, "reach", die)
        with pytest.raises(StateError, match="mid-restore"):
            restore(tmp_path / "kept", state, actor="operator", replace=True, now=lambda: AT)
    assert finish_restore(state)
    assert not finish_restore(state)
    assert content(state) == content(tmp_path / "kept")
    assert content(state / f"replaced-{NAME}") == later
    assert len(list((state / f"replaced-{NAME}" / "versions").iterdir())) == 2


def test_a_restore_that_fails_changes_nothing(bench: Bench, state: Path, tmp_path: Path) -> None:
    promote_new(bench, state, 0)
    back_up(state, tmp_path / "kept")
    bench.store.close()
    before = content(state)
    ended = subprocess.run(
        [sys.executable, "-m", "selflearn.cli.main", "--state", str(state), "restore", str(tmp_path / "kept"), "--yes"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),  # less than the database
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "File too large" in ended.stderr
    assert content(state) == before
    assert sorted(path.name for path in state.iterdir()) == ["daemon.lock", "selflearn.db", "versions", "work"]


def killed(state: Path, failpoint: str, *arguments: str) -> None:
    words = [sys.executable, "-m", "selflearn.cli.main", "--state", str(state), *arguments]
    ended = subprocess.run(words, env=environment(failpoint), cwd=state, capture_output=True, check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def test_a_killed_backup_leaves_none_with_the_final_name(bench: Bench, state: Path) -> None:
    bench.correct("question", "answer")
    killed(state, "mid-backup", "backup")
    (left,) = (state / "backups").iterdir()
    assert left.name.endswith(".incomplete")
    assert list_backups(state) == []
    back_up(state, now=lambda: AT)
    assert [path.name for path in (state / "backups").iterdir()] == [NAME]  # what the kill left is gone


def test_a_killed_restore_is_finished_by_the_next_one_that_holds_the_state(
    bench: Bench, state: Path, tmp_path: Path
) -> None:
    promote_new(bench, state, 0)
    back_up(state, tmp_path / "kept")
    bench.store.close()
    killed(state, "mid-restore", "restore", "--yes", str(tmp_path / "kept"))
    assert (state / "restore.ready").is_dir()
    with pytest.raises(SelflearnError, match="has a state already"):  # it was finished first
        restore(tmp_path / "kept", state, actor="operator")
    assert not (state / "restore.ready").exists()
    assert content(state) == content(tmp_path / "kept")
