"""How a connection to the database is set up, and how SQLite's errors become ours."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from selflearn.errors import SchemaTooNew, StateError, StoreUnavailable
from selflearn.store.migrations import APPLICATION_ID, migrations, step_names, steps_taken

#: How long a statement waits for another process's lock before it fails.
BUSY_TIMEOUT_SECONDS: Final = 5.0

#: How many pages the log takes before a commit has to move them into the database, and what it keeps of the disk after
#: a peak, in bytes. With SQLite's default of 1000 pages the slowest hundredth of 32 clients' writes took twice as long.
LOG_PAGES: Final = 10_000
LOG_BYTES: Final = 64 << 20
#: Pages that the writer keeps in memory, in bytes. With SQLite's default of 2 MB, imports into a store of 40,000
#: examples took a tenth longer: each adds some thirty keys all over an index. Four times as much gained no more.
CACHE_BYTES: Final = 16 << 20

#: Primary result codes that speak of the disk, the file or a lock: the store cannot do its work right now. All other
#: codes (a constraint, a misspelt column) belong to the work that caused them.
_UNAVAILABLE: Final = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_NOTADB,
    }
)


class Connection(sqlite3.Connection):
    """A plain connection that can be weakly referenced, so that a thread that ends gives its own back."""


def rows(
    connection: sqlite3.Connection, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> list[dict[str, Any]]:
    """The result of a query as dictionaries; for use with any connection of the store."""
    return [dict(row) for row in connection.execute(sql, parameters)]


def is_unavailable(error: BaseException) -> bool:
    """Whether an error says that the database cannot be used right now, rather than that a statement is wrong."""
    if isinstance(error, OSError):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.Error) and isinstance(code, int) and (code & 0xFF) in _UNAVAILABLE


def unavailable(path: Path, error: BaseException) -> StoreUnavailable:
    """The error that callers see when the database cannot be used right now."""
    return StoreUnavailable(
        f"The database {path} cannot be used right now: {error}. "
        "Look at free disk space, permissions and other processes that hold it; nothing was changed."
    )


def connect(path: Path, *, busy_timeout: float = BUSY_TIMEOUT_SECONDS) -> Connection:
    """Opens a connection with the store's settings; transactions are begun by hand (``isolation_level=None``)."""
    connection = sqlite3.connect(
        path, timeout=busy_timeout, isolation_level=None, check_same_thread=False, factory=Connection
    )
    try:
        connection.row_factory = sqlite3.Row
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StateError(
                f"The file system of {path} does not support SQLite's write-ahead log (journal mode {mode!r}, "
                "expected 'wal'). Put the state directory on a local disk."
            )
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        # What is deleted is overwritten with zeros: it must not stay readable in the file's free pages.
        connection.execute("PRAGMA secure_delete = ON")
        # Without this, INSERT OR REPLACE would delete from an append-only table past its trigger.
        connection.execute("PRAGMA recursive_triggers = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(path: Path, *, busy_timeout: float = BUSY_TIMEOUT_SECONDS) -> Connection:
    """Creates the file if there is none, brings its schema up to date, and returns a connection for writing.

    Raises :class:`SchemaTooNew`, :class:`StateError` (not our database) or :class:`StoreUnavailable`.
    """
    try:
        _create(path)
        connection = connect(path, busy_timeout=busy_timeout)
    except (sqlite3.Error, OSError) as error:
        raise _cannot_open(path, error) from error
    try:
        _migrate(path, connection)
        connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        connection.execute(f"PRAGMA cache_size = {-CACHE_BYTES // 1024}")  # negative: in KiB
    except (sqlite3.Error, OSError) as error:
        connection.close()
        raise _cannot_open(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        # The file holds conversations: it and SQLite's companions (which copy its mode) are the owner's alone.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _migrate(path: Path, connection: Connection) -> None:
    _refuse_foreign(path, connection)
    taken, known = steps_taken(connection), step_names()
    if unknown := [name for name in taken if name not in known]:
        raise SchemaTooNew(
            f"The database {path} was written by a newer selflearn (it has the schema steps {', '.join(unknown)}, "
            "which this one does not know). Install that version again, or use another state directory."
        )
    if set(taken) == set(known):
        return
    from sqlite_utils import Database

    # A step may make a table anew, which takes what refers to it along only while references are not enforced.
    connection.execute("PRAGMA foreign_keys = OFF")
    # The lock is taken first, so that of two processes that start together one migrates and the other finds it done.
    connection.execute("BEGIN IMMEDIATE")
    try:
        migrations().apply(Database(connection))
        if broken := connection.execute("PRAGMA foreign_key_check").fetchmany(3):
            raise StateError(
                f"The database {path} refers to rows that it does not have ({[tuple(row) for row in broken]}). It was "
                "left as it is: restore it from a backup."
            )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("PRAGMA foreign_keys = ON")


def _refuse_foreign(path: Path, connection: Connection) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and application != APPLICATION_ID:
        raise StateError(
            f"{path} is a database of another program (application id {application}, expected {APPLICATION_ID}). "
            "Choose another state directory with --state."
        )


def _cannot_open(path: Path, error: BaseException) -> StateError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return StateError(
            f"{path} is not a usable SQLite database ({error}). It was left as it is: restore it from a backup, "
            "or choose another state directory with --state."
        )
    if isinstance(error, NotADirectoryError | FileExistsError):
        return StateError(
            f"The state directory {path.parent} is not a directory ({error}). Choose another one with --state."
        )
    return unavailable(path, error)
