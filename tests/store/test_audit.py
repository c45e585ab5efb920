"""The audit log is a chain: whatever is changed in it shows, and processes that write at once do not fork it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlite_utils import Database

from selflearn.errors import StateError
from selflearn.store import Store, database_path
from selflearn.store.audit import START, Chain, list_audit, newest_digest, verify_audit, write_audit
from selflearn.store.migrations import migrations

ROWS = 5
TRIGGERS = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit'"
WRITE = """
import sys
from pathlib import Path
from selflearn.store import Store
from selflearn.store.audit import write_audit
with Store.open(Path(sys.argv[1]), busy_timeout=60.0) as store:
    for number in range(40):
        store.write(lambda c: write_audit(c, actor=sys.argv[2], action="test", detail={"number": number}, at=1.5))
"""


def write(store: Store, number: int) -> None:
    store.write(
        lambda c: write_audit(c, actor="me", action="test", detail={"number": number, "why": "ü"}, at=number / 3)
    )


def tamper(store: Store, *statements: str) -> None:
    """Does what somebody can do who may write the file: the triggers keep nobody from it."""
    with contextlib.closing(sqlite3.connect(store.path)) as connection:
        for (name,) in connection.execute(TRIGGERS).fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(database_path(tmp_path / "state")) as opened:
        for number in range(ROWS):
            write(opened, number)
        yield opened


def test_an_untouched_log_holds(store: Store) -> None:
    found = verify_audit(store.connection())
    assert found == Chain(ROWS, newest_digest(store.connection()), None, None)
    assert found.holds
    listed = list_audit(store.connection(), 2)
    assert [(row["id"], row["detail"]["number"]) for row in listed] == [(5, 4), (4, 3)]
    assert listed[0]["digest"] == found.digest


def test_an_empty_log_holds(tmp_path: Path) -> None:
    with Store.open(database_path(tmp_path / "state")) as store:
        assert verify_audit(store.connection(), START) == Chain(0, START, None, True)


@pytest.mark.parametrize(
    ("statement", "broken_at"),
    [
        ("UPDATE audit SET actor = 'somebody else' WHERE id = 3", 3),
        ("UPDATE audit SET at = at + 0.001 WHERE id = 1", 1),
        ("UPDATE audit SET action = 'rollout.promote' WHERE id = 5", 5),
        ("UPDATE audit SET detail = json_set(detail, '$.number', 7) WHERE id = 2", 2),
        ("UPDATE audit SET digest = (SELECT digest FROM audit WHERE id = 1) WHERE id = 4", 4),
        ("DELETE FROM audit WHERE id = 2", 3),
        ("DELETE FROM audit WHERE id = 1", 2),
        ("INSERT INTO audit VALUES (9, 9.0, 'me', 'test', '{}', 'a digest')", 9),
    ],
)
def test_whatever_is_changed_shows_where(store: Store, statement: str, broken_at: int) -> None:
    tamper(store, statement)
    found = verify_audit(store.connection())
    assert found.broken_at == broken_at
    assert not found.holds


def test_a_cut_off_end_shows_by_a_digest_that_was_kept_elsewhere(store: Store) -> None:
    kept = newest_digest(store.connection())
    write(store, 5)
    assert verify_audit(store.connection(), kept).holds  # it went on since
    tamper(store, "DELETE FROM audit WHERE id >= 5")
    assert verify_audit(store.connection()).holds
    found = verify_audit(store.connection(), kept)
    assert (found.rows, found.broken_at, found.contains_expected, found.holds) == (4, None, False, False)


def test_processes_that_write_at_once_do_not_fork_it(store: Store) -> None:
    words = [sys.executable, "-c", WRITE, str(store.path)]
    processes = [subprocess.Popen([*words, name]) for name in ("one", "two")]
    for number in range(40):
        write(store, number)
    assert [process.wait(120) for process in processes] == [0, 0]
    found = verify_audit(store.connection())
    assert (found.rows, found.broken_at) == (ROWS + 3 * 40, None)


def test_a_row_outside_a_transaction_is_refused(store: Store) -> None:
    from selflearn.store.connections import connect

    with contextlib.closing(connect(store.path)) as connection, pytest.raises(StateError, match="transaction"):
        write_audit(connection, actor="me", action="test", detail={}, at=1.0)
    assert verify_audit(store.connection()).rows == ROWS


def test_the_log_of_an_earlier_release_becomes_a_chain(tmp_path: Path) -> None:
    path = database_path(tmp_path / "state")
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrations().apply(Database(connection), stop_before="m005_judging")
        rows = [(number + 0.1, "me", "test", json.dumps({"number": number})) for number in range(ROWS)]
        connection.executemany("INSERT INTO audit (at, actor, action, detail) VALUES (?, ?, ?, ?)", rows)
    with Store.open(path) as store:
        write(store, ROWS)
        found = verify_audit(store.connection())
        assert (found.rows, found.broken_at) == (ROWS + 1, None)
        assert [row["detail"]["number"] for row in list_audit(store.connection())] == list(range(ROWS, -1, -1))
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            store.write(lambda c: c.execute("UPDATE audit SET actor = 'somebody else' WHERE id = 1"))
