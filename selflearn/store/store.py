"""The store: many readers, one writer, group commit."""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from selflearn.errors import StateError, StoreUnavailable
from selflearn.store.connections import BUSY_TIMEOUT_SECONDS, Connection, connect, is_unavailable, prepare, unavailable
from selflearn.store.connections import rows as rows_of

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: Most works that share one commit: bounds how long the first of them waits for the last.
_MAX_GROUP: Final = 256
#: When nothing was written for so long after so many works, the writer moves the log into the database: later, some
#: request would have to wait for that.
_IDLE_SECONDS: Final = 0.1
_IDLE_WORKS: Final = 64


def database_path(state: Path) -> Path:
    """Where the database of a state directory is."""
    return state / "selflearn.db"


@dataclass(frozen=True, slots=True)
class _Work(Generic[T]):
    function: Callable[[sqlite3.Connection], T]
    future: Future[T]
    alone: bool = False  # in no transaction


class Store:
    """An open database. Safe to use from any thread; several processes may have the same file open.

    A *work* is a function of a connection. Works run one after another in one thread, each in a savepoint; those that
    were queued meanwhile share one commit. A work must not begin, commit or roll back itself.
    """

    def __init__(
        self,
        path: Path,
        connection: Connection,
        *,
        now: Callable[[], float],
        busy_timeout: float,
        on_write_error: Callable[[], None] | None,
    ) -> None:
        self.path = path
        self.now = now
        self.on_write_error = on_write_error
        self.write_errors = 0
        #: Whether the last commit that had something to write went through.
        self.writable = True
        self._busy_timeout = busy_timeout
        self._writer = connection
        self._queue: queue.SimpleQueue[_Work[Any] | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._readers: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._local = threading.local()
        self._since_checkpoint = 0  # works
        # A daemon thread: a process that ends without close() must not hang; unacknowledged works may be lost then.
        self._thread = threading.Thread(target=self._run, name="selflearn-store", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        path: Path,
        now: Callable[[], float] = time.time,
        *,
        busy_timeout: float = BUSY_TIMEOUT_SECONDS,
        on_write_error: Callable[[], None] | None = None,
    ) -> Store:
        """Opens the database file, creating and migrating it as needed; ``busy_timeout`` in seconds.

        Raises :class:`~selflearn.errors.SchemaTooNew`, :class:`~selflearn.errors.StateError` (not our database) or
        :class:`~selflearn.errors.StoreUnavailable` (locked, read-only, disk full).
        """
        connection = prepare(path, busy_timeout=busy_timeout)
        return cls(path, connection, now=now, busy_timeout=busy_timeout, on_write_error=on_write_error)

    # Writing

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Queues a work; the future resolves after the commit that holds it (for ``asyncio.wrap_future``).

        It fails with the work's own exception, or with ``StoreUnavailable`` if the database could not be written.
        A submitted work is always tried: cancelling the future has no effect.
        """
        return self._queued(work, alone=False)

    def _queued(self, work: Callable[[sqlite3.Connection], T], *, alone: bool) -> Future[T]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if not self._closed:
                self._queue.put(_Work(work, future, alone))
                return future
        future.set_exception(StoreUnavailable(f"The database {self.path} is closed: the daemon is stopping."))
        return future

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs a work and returns its result once it is durable; raises as :meth:`submit` says."""
        return self._result(work, alone=False)

    def maintain(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs what cannot run in a transaction (``wal_checkpoint``, ``VACUUM``); every other work waits for it.

        It must be this connection that does it: SQLite before 3.51.3 may damage a database of which two connections
        write and checkpoint at the same time (its "WAL-reset bug").
        """
        return self._result(work, alone=True)

    def _result(self, work: Callable[[sqlite3.Connection], T], *, alone: bool) -> T:
        if threading.current_thread() is self._thread:
            raise StateError("A work called Store.write: use the connection that the work was given instead.")
        return self._queued(work, alone=alone).result()

    # Reading

    def connection(self) -> sqlite3.Connection:
        """This thread's connection for reading (``query_only``); rows are ``sqlite3.Row``."""
        if self._closed:
            raise StoreUnavailable(f"The database {self.path} is closed: the daemon is stopping.")
        existing: Connection | None = getattr(self._local, "connection", None)
        if existing is not None:
            return existing
        try:
            reader = connect(self.path, busy_timeout=self._busy_timeout)
            reader.execute("PRAGMA query_only = ON")
        except (sqlite3.Error, OSError) as error:
            raise unavailable(self.path, error) from error
        self._local.connection = reader
        with self._lock:
            self._readers.add(reader)
        return reader

    def read(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[dict[str, Any]]:
        """The result of a query as dictionaries; ``StoreUnavailable`` if the database cannot be read."""
        connection = self.connection()
        try:
            return rows_of(connection, sql, parameters)
        except sqlite3.Error as error:
            if is_unavailable(error):
                raise unavailable(self.path, error) from error
            raise

    # End

    def close(self) -> None:
        """Finishes all queued works, then closes every connection. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        with self._lock:
            readers = list(self._readers)
        for reader in readers:
            reader.close()
        self._writer.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # The writer thread

    def _run(self) -> None:
        open_ = True
        while open_:
            group: list[_Work[Any]] = []
            item = self._next()
            while item is not None and not item.alone:
                group.append(item)
                if len(group) == _MAX_GROUP or self._queue.empty():
                    break
                item = self._queue.get()
            open_ = item is not None
            if group:
                self._commit(group)
            if item is not None and item.alone:
                self._run_alone(item)

    def _next(self) -> _Work[Any] | None:
        """Waits for what is queued next; in a pause the log is moved into the database. None: there is no more."""
        if self._since_checkpoint >= _IDLE_WORKS:
            with contextlib.suppress(queue.Empty):
                return self._queue.get(timeout=_IDLE_SECONDS)
            self._since_checkpoint = 0
            with contextlib.suppress(sqlite3.Error):  # nothing is lost: what is committed stays in the log
                self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return self._queue.get()

    def _run_alone(self, work: _Work[Any]) -> None:
        try:
            result = work.function(self._writer)
        except BaseException as error:  # any exception belongs to its caller, not to this thread
            if is_unavailable(error):
                self._count_error()
                error = unavailable(self.path, error)
            work.future.set_exception(error)
        else:
            work.future.set_result(result)

    def _commit(self, group: list[_Work[Any]]) -> None:
        """Runs a group of works in one transaction and resolves their futures, never before its end."""
        before = self._writer.total_changes
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            outcomes = [(work, *self._attempt(work)) for work in group]
            self._writer.execute("COMMIT")
        except (sqlite3.Error, OSError, StateError) as error:
            self._fail_all(group, error)
            return
        self._since_checkpoint += len(group)
        failures = [failure for _, _, failure in outcomes]
        if None in failures and self._writer.total_changes > before:  # a commit of nothing proves nothing
            self.writable = not any(isinstance(failure, StoreUnavailable) for failure in failures)
        for work, result, failure in outcomes:
            if failure is None:
                work.future.set_result(result)
            else:
                work.future.set_exception(failure)

    def _attempt(self, work: _Work[Any]) -> tuple[Any, BaseException | None]:
        """Runs one work in a savepoint: its result, or its failure with its changes undone."""
        self._writer.execute("SAVEPOINT work")
        try:
            result = work.function(self._writer)
            if not self._writer.in_transaction:
                raise StateError("A work ended the store's transaction; works must not commit or roll back.")
        except BaseException as error:  # any exception belongs to its caller, not to this thread
            if not self._writer.in_transaction:
                # SQLite rolled the whole transaction back (disk full, I/O error): nothing of the group is written.
                raise error if isinstance(error, sqlite3.Error | StateError) else StateError(str(error)) from error
            self._writer.execute("ROLLBACK TO work")
            self._writer.execute("RELEASE work")
            if is_unavailable(error):
                self._count_error()
                return None, unavailable(self.path, error)
            return None, error
        self._writer.execute("RELEASE work")
        return result, None

    def _fail_all(self, group: list[_Work[Any]], error: BaseException) -> None:
        if self._writer.in_transaction:
            # If even this fails, the transaction is gone already; what counts is that nothing was acknowledged.
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")
        self._count_error()
        self._since_checkpoint = _IDLE_WORKS  # with the log moved into the database, its space can be used again
        failure = unavailable(self.path, error)
        failure.__cause__ = error
        for work in group:
            work.future.set_exception(failure)

    def _count_error(self) -> None:
        self.writable = False
        self.write_errors += 1
        if self.on_write_error is None:
            return
        try:
            self.on_write_error()
        except Exception:  # a hook's own trouble must not end the only thread that writes
            logger.exception("the hook for write errors failed")
