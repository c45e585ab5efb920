"""Nothing that was deleted stays readable: not in the write-ahead log, not in free space of the database file.

Connections of the store overwrite what they delete (``PRAGMA secure_delete``), and the log is emptied by a checkpoint.
What was written before that was so may have left traces in free space; rewriting the file takes them away. Both are
done by the store's own writer (:meth:`Store.maintain` says why).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

from selflearn.store.store import Store

_CHUNK: Final = 1 << 24
_PAUSE_SECONDS: Final = 0.1


def empty_log(store: Store, seconds: float = 10.0, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Moves the write-ahead log into the database and cuts it to nothing; False if readers held it all the time.

    Works of others get in between, and wait for at most a tenth of a second each time.
    """
    deadline = time.monotonic() + seconds
    while not store.maintain(_checkpoint):
        if time.monotonic() >= deadline:
            return False
        sleep(_PAUSE_SECONDS)
    return True


def _checkpoint(connection: sqlite3.Connection) -> bool:
    """Whether the log is empty now."""
    patience = connection.execute("PRAGMA busy_timeout").fetchone()[0]
    connection.execute(f"PRAGMA busy_timeout = {_PAUSE_SECONDS * 1000:.0f}")
    try:
        return bool(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
    except sqlite3.OperationalError:  # a writer in another process was faster
        return False
    finally:
        connection.execute(f"PRAGMA busy_timeout = {patience}")


def rewrite(store: Store) -> tuple[int, int]:
    """Writes the database file anew without free space (``VACUUM``); returns its bytes before and after.

    Nobody else can write meanwhile, and it needs as much free disk space as the file has. Raises
    :class:`~selflearn.errors.StoreUnavailable`; then nothing has changed.
    """
    before = store.path.stat().st_size
    store.maintain(lambda connection: connection.execute("VACUUM"))
    empty_log(store)
    return before, store.path.stat().st_size


def find_bytes(path: Path, wanted: Collection[bytes]) -> set[bytes]:
    """Those of the byte strings that the database's files have, as any program that opens the files would see them."""
    longest = max((len(each) for each in wanted), default=0)
    found: set[bytes] = set()
    for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        if file.is_file():
            for chunk in _chunks(file, longest):
                found |= {each for each in set(wanted) - found if each in chunk}
    return found


def _chunks(file: Path, overlap: int) -> Iterator[bytes]:
    """The file's bytes in pieces, each with the end of the one before, so that nothing hides in between."""
    kept = b""
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            yield kept + chunk
            kept = chunk[-overlap:]
