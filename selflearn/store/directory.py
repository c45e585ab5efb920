"""The state directory: at most one process holds it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from selflearn.errors import StateError, StateInUse


@contextlib.contextmanager
def hold_state(state: Path) -> Iterator[Path]:
    """Creates the directory if need be and holds it for this process alone; gives its absolute path.

    Raises :class:`StateInUse` if another process holds it, :class:`StateError` if it cannot be used.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = (state / "daemon.lock").open("a+", encoding="ascii")
    except OSError as error:
        raise StateError(
            f"The state directory {state} cannot be used: {error}. Give a writable one to --state."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise StateInUse(
                f"Another daemon (process {holder}) uses the state directory {state}. Stop it first, or give another "
                "directory to --state."
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield state.resolve()
