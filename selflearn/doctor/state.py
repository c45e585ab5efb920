"""The state directory: whose it is, what it lies on, and whether what is in it is whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from selflearn.doctor.finding import Finding, in_units
from selflearn.errors import SelflearnError
from selflearn.store import Store, database_path
from selflearn.store.migrations import APPLICATION_ID, step_names, steps_taken
from selflearn.versions import served
from selflearn.versions.registry import verify_version

#: With less than the first, writing will fail soon; with less than the second, an update or two from now.
LEAST_BYTES: Final = 200_000_000
ENOUGH_BYTES: Final = 1_000_000_000
#: Nothing that keeps what it is given can do so in less; more than the other makes people wait.
TOO_FAST_SECONDS: Final = 20e-6
SLOW_SECONDS: Final = 0.05
_WRITES: Final = 16
_BLOCK: Final = os.urandom(4096)
#: Newer rows than the clock by more than that were written by another clock.
TOLERANCE_SECONDS: Final = 60.0
#: The database is looked through to its last page up to here, in bytes: a second for each of them.
CHECKED_BYTES: Final = 500_000_000
_IN_MEMORY: Final = ("tmpfs", "ramfs")
_NETWORK: Final = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "glusterfs", "ceph")
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def check_directory(state: Path) -> Finding:
    """Whether the state directory is this user's, and whether others can look into what people wrote."""
    if not state.exists():
        parent = next(path for path in state.absolute().parents if path.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return Finding("directory", "ok", f"{state} is not there yet; it can be made")
        found = f"{state} is not there, and {parent} cannot be written"
        return Finding("directory", "fail", found, f"Make it yours: install -d -m 700 -o $(id -un) {state}")
    if not state.is_dir() or not os.access(state, os.R_OK | os.W_OK | os.X_OK):
        found = f"{state} cannot be written by {_user(os.geteuid())}; it belongs to {_user(state.stat().st_uid)}"
        return Finding("directory", "fail", found, "Run selflearn as its owner, or name another directory: --state.")
    database = database_path(state)
    if state.stat().st_mode & _OTHERS_WRITE:
        found = f"others than its owner may write {state}, and so replace versions"
        return Finding("directory", "fail", found, f"chmod go-w {state}")
    if database.is_file() and database.stat().st_mode & _OTHERS:
        found = f"others than its owner can read what people wrote, in {database}"
        return Finding("directory", "warn", found, f"chmod 600 {database}*")
    return Finding("directory", "ok", f"{state.absolute()}, of {_user(state.stat().st_uid)}")


def check_disk(state: Path, model_bytes: int) -> Finding:
    """Whether there is room for the model, if it still has to come, and for updates; and on what it all lies."""
    place = _nearest(state)
    usage, kind = shutil.disk_usage(place), _file_system(place)
    found = f"{in_units(usage.free)} of {in_units(usage.total)} free" + (f" on {kind}" if kind else "")
    if usage.free < LEAST_BYTES + model_bytes:
        advice = f"Free some, or move the state directory: at least {in_units(LEAST_BYTES + model_bytes)} are needed."
        return Finding("disk", "fail", found, advice)
    if kind in _IN_MEMORY:
        return Finding("disk", "warn", found, "All is lost when the machine stops. Put the state directory on a disk.")
    if kind in _NETWORK:
        advice = "SQLite is not safe on network file systems. Put the state directory on a local disk."
        return Finding("disk", "fail", found, advice)
    if usage.free < ENOUGH_BYTES + model_bytes:
        return Finding("disk", "warn", found, "Free some soon; see experience.keep_days and versions.keep_days.")
    return Finding("disk", "ok", found)


def check_fsync(state: Path, timer: Callable[[], float] = time.perf_counter) -> Finding:
    """Whether the disk says when data is safe, and how long that takes: each answer begins and ends with it."""
    place = _nearest(state)
    try:
        seconds = statistics.median(_synced(place, timer))
    except OSError as error:
        advice = "Feedback and answers cannot be kept there. Look at the disk (dmesg), or name another directory."
        return Finding("fsync", "fail", f"a file in {place} cannot be written and synced: {error}", advice)
    found = f"{seconds * 1e3:.3g} ms for 4 KB, the median of {_WRITES}"
    if seconds < TOO_FAST_SECONDS:
        advice = (
            "No disk is that fast: what is written may be lost in a power cut. Look for eatmydata, a file system in "
            "memory, or mount options as nobarrier."
        )
        return Finding("fsync", "warn", found, advice)
    if seconds > SLOW_SECONDS:
        return Finding("fsync", "warn", found, "Every first word waits for it. Put the state on a faster disk.")
    return Finding("fsync", "ok", found)


def check_database(state: Path) -> Finding:
    """Whether the database is ours, of a schema that this selflearn knows, in the journal mode it needs, and whole."""
    path = database_path(state)
    library = f"SQLite {sqlite3.sqlite_version}"
    if not path.is_file():
        return Finding("database", "ok", f"{library}; there is no database yet")
    restore = "Restore it from a backup: selflearn restore SRC."
    try:
        with contextlib.closing(_opened(path)) as connection:
            problem = _problem(path, connection)
            mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
            steps = steps_taken(connection)
    except sqlite3.Error as error:
        return Finding("database", "fail", f"{path} cannot be read: {error}", restore)
    found = f"{library}, {path.stat().st_size / 1e6:.1f} MB, journal mode {mode}"
    if problem is not None:
        return Finding("database", "fail", f"{found}; {problem}", restore)
    if unknown := [step for step in steps if step not in step_names()]:
        found += f"; it was written by a newer selflearn (steps {', '.join(unknown)})"
        return Finding("database", "fail", found, "Install that selflearn again, or restore a backup made by this one.")
    if mode != "wal":
        return Finding("database", "warn", f"{found}, expected wal", "The next start of the daemon sets it; start it.")
    if waiting := len(step_names()) - len(steps):
        return Finding("database", "ok", f"{found}; {waiting} steps of its schema are taken at the next start")
    return Finding("database", "ok", found)


def check_clock(state: Path, learner: str, now: float) -> Finding:
    """Whether the clock is behind what was already written: then rows would come before what they follow."""
    path, newest = database_path(state), None
    if path.is_file():
        with contextlib.suppress(sqlite3.Error), contextlib.closing(_opened(path)) as connection:
            newest = max((at for at in _newest(connection, learner) if at is not None), default=None)
    shown = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now))
    if newest is None:
        return Finding("clock", "ok", shown)
    if newest > now + TOLERANCE_SECONDS:
        found = f"{shown}, but the newest row was written {newest - now:.0f} s after that"
        return Finding("clock", "fail", found, "Set the clock (timedatectl set-ntp true) before the daemon starts.")
    return Finding("clock", "ok", f"{shown}, the newest row is {(now - newest) / 3600:.1f} h old")


def check_versions(state: Path, learner: str) -> Finding:
    """Whether every byte of the served version is as it was sealed."""
    if not _is_current(state):
        return Finding("versions", "ok", "there is no database of the present schema yet that could name one")
    try:
        with Store.open(database_path(state)) as store:
            number = served(store.connection(), learner)
            result = verify_version(store, state, number) if number else None
    except SelflearnError as error:
        return Finding("versions", "fail", str(error), "See: selflearn versions verify.")
    if result is None:
        return Finding("versions", "ok", "the base model serves")
    if not result["intact"]:
        found = f"version {number}, which serves, is not whole: {result['problem']}"
        return Finding("versions", "fail", found, "selflearn rollback, or restore its files from a backup.")
    return Finding("versions", "ok", f"version {number} serves; its {result['files']} files are as they were sealed")


def _is_current(state: Path) -> bool:
    """Whether there is a database that needs no step: opening another one would migrate it."""
    path = database_path(state)
    if not path.is_file():
        return False
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_opened(path)) as connection:
        return set(steps_taken(connection)) == set(step_names())
    return False


def _opened(path: Path) -> sqlite3.Connection:
    """For reading alone: nothing is made or migrated."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _problem(path: Path, connection: sqlite3.Connection) -> str | None:
    """What is wrong with a database that can be read."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        return "it is the database of another program"
    if path.stat().st_size > CHECKED_BYTES:
        return None
    found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    return None if found == "ok" else f"it is damaged: {found}"


def _newest(connection: sqlite3.Connection, learner: str) -> Iterator[float | None]:
    """When the newest row of each table that is written in order of time was written."""
    found = connection.execute("SELECT max(created_at) FROM interactions WHERE learner = ?", (learner,))
    yield found.fetchone()[0]
    for table, column in (("rollouts", "created_at"), ("audit", "at")):
        row = connection.execute(f"SELECT {column} FROM {table} ORDER BY id DESC LIMIT 1").fetchone()
        yield None if row is None else row[0]


def _synced(place: Path, timer: Callable[[], float]) -> Iterator[float]:
    """Seconds that each of some small writes takes until it is safe."""
    with tempfile.TemporaryFile(dir=place, prefix=".doctor-") as file:
        for _ in range(_WRITES):
            before = timer()
            file.write(_BLOCK)
            file.flush()
            os.fsync(file.fileno())
            yield timer() - before


def _nearest(state: Path) -> Path:
    """The directory, or the first above it that is there."""
    return next(path for path in (state.absolute(), *state.absolute().parents) if path.is_dir())


def _file_system(path: Path) -> str | None:
    """The kind of file system that a directory lies on; None where the kernel does not tell."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    best: tuple[int, str | None] = (0, None)
    resolved = path.resolve()
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].encode().decode("unicode_escape"))
        if resolved.is_relative_to(point) and len(point.parts) >= best[0]:
            best = (len(point.parts), after.split()[0])
    return best[1]


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
