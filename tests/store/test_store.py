"""The store: durable before acknowledged, one failing work fails alone, and clear errors for a file it cannot use."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from sqlite_utils import Database

from selflearn.errors import SchemaTooNew, StateError, StoreUnavailable
from selflearn.store import Store, connections, database_path, migrations
from selflearn.store.cleaning import empty_log, rewrite

SET = "INSERT OR REPLACE INTO settings_kv (key, value) VALUES (?, ?)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return database_path(tmp_path / "state")


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


def put(key: str, value: str = "1") -> Callable[[sqlite3.Connection], int]:
    return lambda connection: connection.execute(SET, (key, value)).rowcount


def keys(store: Store) -> list[str]:
    return [row["key"] for row in store.read("SELECT key FROM settings_kv ORDER BY key")]


def test_the_pragmas_hold(store: Store) -> None:
    def pragmas(connection: sqlite3.Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "recursive_triggers")
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    assert store.write(pragmas) == ["wal", 2, 1, 1]
    assert pragmas(store.connection()) == ["wal", 2, 1, 1]


def test_what_was_written_is_there_after_reopening(path: Path) -> None:
    with Store.open(path) as first:
        assert first.write(put("learning.paused")) == 1
    with Store.open(path) as second:
        assert keys(second) == ["learning.paused"]


def test_the_database_is_the_owners_alone(store: Store) -> None:
    assert store.path.stat().st_mode & 0o077 == 0


WRITER = """
import sys
from pathlib import Path
from selflearn.store import Store
store = Store.open(Path(sys.argv[1]))
for number in range(10_000):
    store.write(lambda c: c.execute("INSERT INTO settings_kv VALUES (?, '')", (f"{number:06d}",)))
    sys.stdout.write(f"{number:06d}\\n")
    sys.stdout.flush()
"""


def test_acknowledged_rows_survive_kill_9(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(25)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
    assert process.returncode == -signal.SIGKILL
    with Store.open(path) as store:
        assert set(acknowledged) <= set(keys(store))
        assert store.read("PRAGMA integrity_check") == [{"integrity_check": "ok"}]


def test_works_queued_meanwhile_share_one_commit(store: Store, path: Path) -> None:
    started, proceed = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        started.set()
        assert proceed.wait(10)

    store.submit(slow)
    assert started.wait(10)
    before = path.with_name(path.name + "-wal").stat().st_size
    futures = [store.submit(put(f"{number:03d}")) for number in range(100)]
    proceed.set()
    wait(futures, timeout=10)
    grown = path.with_name(path.name + "-wal").stat().st_size - before
    assert len(keys(store)) == 100
    # A commit of its own would cost each work at least one 4 KiB page in the log.
    assert grown < 100 * 4096 / 2


def test_one_failing_work_fails_alone(store: Store) -> None:
    started, proceed = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        started.set()
        assert proceed.wait(10)

    def failing(connection: sqlite3.Connection) -> None:
        connection.execute(SET, ("half", "done"))
        raise KeyError("the work's own trouble")

    store.submit(slow)
    assert started.wait(10)
    first, broken, last = store.submit(put("first")), store.submit(failing), store.submit(put("last"))
    wrong = store.submit(lambda connection: connection.execute("INSERT INTO no_such_table VALUES (1)"))
    proceed.set()
    assert (first.result(10), last.result(10)) == (1, 1)
    with pytest.raises(KeyError):
        broken.result(10)
    with pytest.raises(sqlite3.OperationalError, match="no_such_table"):
        wrong.result(10)
    assert keys(store) == ["first", "last"]
    assert store.write_errors == 0


def test_a_cancelled_wait_does_not_cancel_the_work(store: Store) -> None:
    future = store.submit(put("kept"))
    assert not future.cancel()
    assert future.result(10) == 1


def test_a_work_that_commits_is_refused_and_the_writer_goes_on(store: Store) -> None:
    with pytest.raises(StoreUnavailable, match="must not commit"):
        store.write(lambda connection: connection.execute("COMMIT"))
    assert store.write(put("after")) == 1


def test_a_work_may_not_wait_for_another(store: Store) -> None:
    with pytest.raises(StateError, match="use the connection"):
        store.write(lambda connection: store.write(put("nested")))


def test_what_needs_no_transaction_runs_between_commits(store: Store) -> None:
    wal = store.path.with_name(store.path.name + "-wal")
    started, proceed = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        started.set()
        assert proceed.wait(10)

    def empty_log(connection: sqlite3.Connection) -> tuple[int, bool]:
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        return busy, wal.stat().st_size == 0

    store.submit(slow)
    assert started.wait(10)
    before = store.submit(put("before"))
    with ThreadPoolExecutor(1) as pool:
        emptied = pool.submit(store.maintain, empty_log)
        proceed.set()
        assert emptied.result(10) == (0, True)
    assert before.result(10) == 1
    with pytest.raises(sqlite3.OperationalError, match="no_such_table"):
        store.maintain(lambda connection: connection.execute("DELETE FROM no_such_table"))
    assert store.write(put("after")) == 1
    assert keys(store) == ["after", "before"]


def test_the_file_is_written_anew_while_others_write(store: Store) -> None:
    for number in range(50):
        store.write(put(f"old {number:03d}", "x" * 20_000))
    store.write(lambda connection: connection.execute("DELETE FROM settings_kv"))
    assert empty_log(store)
    with ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(store.write, put(f"new {number:03d}")) for number in range(100)]
        before, after = pool.submit(rewrite, store).result(30)
        assert [each.result(10) for each in writing] == [1] * 100
    assert before > 1_000_000 > after == store.path.stat().st_size
    assert len(keys(store)) == 100
    assert store.read("PRAGMA integrity_check") == [{"integrity_check": "ok"}]


def rows_without_the_log(path: Path) -> int:
    """The rows in the database file alone; 0 while its pages are being written."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as alone:
        try:
            return int(alone.execute("SELECT count(*) FROM settings_kv").fetchone()[0])
        except sqlite3.DatabaseError:
            return 0


def test_in_a_pause_the_log_is_moved_into_the_database(store: Store) -> None:
    for number in range(200):
        store.write(put(f"{number:03d}", "x" * 500))
    deadline = time.monotonic() + 10
    while rows_without_the_log(store.path) != 200:
        assert time.monotonic() < deadline, "the log was not moved"
        time.sleep(0.02)
    assert store.write(put("after")) == 1


def test_a_full_log_is_moved_while_writing_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LOG_PAGES", 20)
    with Store.open(path) as store:
        for number in range(200):
            store.write(put(f"{number:03d}", "x" * 500))
        assert path.with_name(path.name + "-wal").stat().st_size < 100 * 4096


def test_readers_cannot_write(store: Store) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store.connection().execute(SET, ("a", "b"))


def test_many_threads_read_and_write(store: Store) -> None:
    def use(thread: int) -> None:
        for number in range(20):
            store.write(put(f"{thread}-{number}"))
            assert f"{thread}-{number}" in keys(store)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(keys(store)) == 120


@pytest.mark.parametrize("table", ["rollouts", "audit"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {table} SET actor = 'nobody'",
        "DELETE FROM {table}",
        "INSERT OR REPLACE INTO {table} SELECT * FROM {table}",
    ],
)
def test_the_logs_are_append_only(store: Store, table: str, statement: str) -> None:
    values = {
        "rollouts": "(learner, version, action, actor, reason, created_at) VALUES ('a', 0, 'rollback', 'me', '', 1)",
        "audit": "(at, actor, action, detail) VALUES (1, 'me', 'rollout.rollback', '{}')",
    }
    store.write(lambda connection: connection.execute(f"INSERT INTO {table} {values[table]}"))
    before = store.read(f"SELECT * FROM {table}")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        store.write(lambda connection: connection.execute(statement.format(table=table)))
    assert store.read(f"SELECT * FROM {table}") == before


def test_a_log_of_the_first_release_is_kept_and_stays_append_only(path: Path) -> None:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        migrations.m001_foundation(Database(connection))
        connection.execute("INSERT INTO rollouts VALUES (7, 'default', 3, 'promote', 'gate', 'passed', 1000.0)")
        connection.execute(
            "CREATE TABLE _sqlite_migrations (id INTEGER PRIMARY KEY, migration_set TEXT, name TEXT, applied_at TEXT)"
        )
        connection.execute("INSERT INTO _sqlite_migrations VALUES (1, 'selflearn', 'm001_foundation', '')")
        connection.commit()
    with Store.open(path) as store:
        (row,) = store.read("SELECT * FROM rollouts")
        assert (row["id"], row["version"], row["share"], row["until"]) == (7, 3, None, None)
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            store.write(lambda connection: connection.execute("UPDATE rollouts SET share = 0.5"))
        canary = "INSERT INTO rollouts (learner, version, action, share, actor, reason, created_at)"
        with pytest.raises(sqlite3.IntegrityError, match="share"):
            store.write(lambda connection: connection.execute(f"{canary} VALUES ('a', 4, 'canary', 1.5, '', '', 1)"))


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    Store.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO _sqlite_migrations VALUES (99, 'selflearn', 'm999_future', '')")
    connection.close()
    content = path.read_bytes()
    with pytest.raises(SchemaTooNew, match="m999_future"):
        Store.open(path)
    assert path.read_bytes() == content


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    content = b"These are notes about the weather, not a database. " * 100
    path.write_bytes(content)
    with pytest.raises(StateError, match="not a usable SQLite database") as caught:
        Store.open(path)
    assert not isinstance(caught.value, StoreUnavailable)
    assert path.read_bytes() == content


def test_another_programs_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (text)")
    connection.close()
    with pytest.raises(StateError, match="another program"):
        Store.open(path)


def test_a_state_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(StateError, match="not a directory"):
        Store.open(database_path(tmp_path / "state"))


# Permissions do not bind root, so root becomes somebody else, once all is imported.
READ_ONLY = """
import os
import sys
from pathlib import Path
from selflearn.errors import StoreUnavailable
from selflearn.store import Store
if os.geteuid() == 0:
    os.setuid(65534)
try:
    Store.open(Path(sys.argv[1]))
except StoreUnavailable as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.parametrize("present", [False, True])
def test_a_read_only_directory_is_unavailable(present: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        state = Path(name) / "state"
        path = database_path(state)
        if present:
            Store.open(path).close()
            path.chmod(0o444)
        else:
            state.mkdir()
        Path(name).chmod(0o755)
        state.chmod(0o555)
        command = [sys.executable, "-c", READ_ONLY, str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        state.chmod(0o755)
    assert result.returncode == 7, result.stderr
    assert "cannot be used right now" in result.stdout


def test_a_lock_held_by_another_process_fails_the_write_and_is_counted(path: Path) -> None:
    counted: list[int] = []
    with Store.open(path, busy_timeout=0.1, on_write_error=lambda: counted.append(1)) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailable, match="locked"):
            store.write(put("a"))
        assert (store.write_errors, counted) == (1, [1])
        assert keys(store) == []
        other.execute("ROLLBACK")
        other.close()
        assert store.write(put("a")) == 1


def test_a_lock_held_while_opening_a_new_database_is_unavailable(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable, match="locked"):
        Store.open(path, busy_timeout=0.1)
    other.close()
    Store.open(path).close()


def test_a_full_disk_fails_every_work_of_the_commit_and_nothing_is_half_written(store: Store) -> None:
    pages = store.write(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    store.write(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages + 4}").fetchall())
    with pytest.raises(StoreUnavailable, match="full"):
        store.write(put("large", "x" * 1_000_000))
    assert keys(store) == []
    assert store.write_errors >= 1
    assert not store.writable
    assert store.write(put("small")) == 1
    assert store.writable


def test_a_closed_store_says_so(store: Store) -> None:
    queued = store.submit(put("last"))
    store.close()
    assert queued.result(0) == 1
    with pytest.raises(StoreUnavailable, match="closed"):
        store.write(put("late"))
    with pytest.raises(StoreUnavailable, match="closed"):
        store.read("SELECT 1")


def test_two_processes_that_start_together_migrate_once(path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from selflearn.store import Store; Store.open(Path(sys.argv[1])).close()"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, str(path)]) for _ in range(4)]
    assert [process.wait(30) for process in processes] == [0, 0, 0, 0]
    with Store.open(path) as store:
        found = store.read("SELECT count(*) AS n, count(DISTINCT name) AS steps FROM _sqlite_migrations")[0]
        assert found["n"] == found["steps"] > 1


def test_the_rooms_import_no_torch() -> None:
    script = (
        "import sys, selflearn.store, selflearn.experience, selflearn.versions;"
        "sys.exit(bool({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
