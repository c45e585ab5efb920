"""What the doctor finds of a state directory."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from selflearn.doctor import state as checks
from selflearn.doctor.finding import Finding
from selflearn.store import database_path
from selflearn.store.migrations import step_names
from selflearn.versions import version_directory
from tests.stores import LEARNER, Bench, registered
from tests.versions.candidates import promote_new


@pytest.fixture
def bench(bench: Bench) -> Bench:
    return registered(bench)


def seen(finding: Finding) -> tuple[str, bool]:
    """The level, and whether it is said what to do."""
    return finding.level, finding.advice is not None


def test_a_directory_that_is_ours(bench: Bench, state: Path) -> None:
    del bench
    assert seen(checks.check_directory(state)) == ("ok", False)
    assert "can be made" in checks.check_directory(state / "later" / "still").found
    database_path(state).chmod(0o644)
    told = checks.check_directory(state)
    assert (told.level, told.advice) == ("warn", f"chmod 600 {database_path(state)}*")
    state.chmod(0o777)
    assert seen(checks.check_directory(state)) == ("fail", True)
    (state / "file").write_text("")
    assert seen(checks.check_directory(state / "file")) == ("fail", True)


def test_room_on_the_disk(state: Path) -> None:
    free = checks.check_disk(state, 0)
    assert free.level in ("ok", "warn")  # in a container it may be in memory
    assert "free" in free.found
    assert seen(checks.check_disk(state, 10**18)) == ("fail", True)
    assert checks.check_disk(Path("/dev/shm"), 0).level == "warn"  # lost when the machine stops


def test_fsync_is_done_and_timed(state: Path) -> None:
    found = checks.check_fsync(state)
    assert " ms for 4 KB" in found.found

    def of(seconds: float) -> Finding:
        times = iter(seconds * number for number in range(1000))
        return checks.check_fsync(state, timer=lambda: next(times))

    assert seen(of(0.001)) == ("ok", False)
    assert "eatmydata" in str(of(1e-6).advice)
    assert seen(of(0.2)) == ("warn", True)
    assert checks.check_fsync(Path("/proc")).level == "fail"


def test_the_clock_against_the_newest_row(bench: Bench, state: Path) -> None:
    assert checks.check_clock(state / "none", LEARNER, time.time()).level == "ok"
    bench.interaction()
    written = bench.now()
    assert checks.check_clock(state, LEARNER, written + 3600).level == "ok"
    behind = checks.check_clock(state, LEARNER, written - 7200)
    assert seen(behind) == ("fail", True)
    assert "newest row" in behind.found


def test_the_database(bench: Bench, state: Path, tmp_path: Path) -> None:
    path = database_path(state)
    assert "there is no database yet" in checks.check_database(tmp_path / "none").found
    whole = checks.check_database(state)
    assert seen(whole) == ("ok", False)
    assert f"SQLite {sqlite3.sqlite_version}" in whole.found
    assert "journal mode wal" in whole.found
    record = "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('selflearn', ?, 'now')"
    bench.store.write(lambda connection: connection.execute(record, ("m999_later",)).rowcount)
    assert "m999_later" in checks.check_database(state).found
    assert checks.check_database(state).level == "fail"
    bench.store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM _sqlite_migrations WHERE name IN ('m999_later', ?)", (step_names()[-1],))
        connection.commit()
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    before = path.read_bytes()
    assert seen(checks.check_database(state)) == ("warn", True)
    assert checks.check_versions(state, LEARNER).level == "ok"
    assert path.read_bytes() == before  # nothing was migrated
    path.write_bytes(before[:4096] + b"\xff" * 8192 + before[12288:])
    assert seen(checks.check_database(state)) == ("fail", True)
    path.write_bytes(b"no database, but long enough to be looked at" * 100)
    assert seen(checks.check_database(state)) == ("fail", True)


def test_another_programs_database(state: Path) -> None:
    state.mkdir(exist_ok=True)
    with sqlite3.connect(database_path(state)) as connection:
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    assert "another program" in checks.check_database(state).found


def test_the_served_version(bench: Bench, state: Path) -> None:
    assert checks.check_versions(state, LEARNER).found == "the base model serves"
    version = promote_new(bench, state, 0)
    assert f"version {version} serves" in checks.check_versions(state, LEARNER).found
    file = version_directory(state, version) / "adapter_model.safetensors"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    damaged = checks.check_versions(state, LEARNER)
    assert seen(damaged) == ("fail", True)
    assert "adapter_model.safetensors" in damaged.found
