"""Backups: one directory with the database as it was at one moment, and the files of every version registered in it.

``backup.json`` names every file with its SHA-256. A backup is made under another name beside its place and renamed in
the end, so that whatever has the final name is complete. Base models are not in it: they are prepared again, and the
daemon compares their hash at its start. Neither are settings and keys, which do not lie in the state directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from selflearn.errors import Conflict, NotFound, StateError, VersionDamaged
from selflearn.failpoints import reach
from selflearn.store import database_path, rows
from selflearn.store.audit import newest_digest
from selflearn.store.connections import connect
from selflearn.store.migrations import APPLICATION_ID
from selflearn.versions import served, verify, version_directory, version_name
from selflearn.versions.files import remove_tree, sha256_file, sync, write_durably

FORMAT: Final = 1
CONTENTS: Final = "backup.json"
#: How the directory is called that keeps a state in whose place a backup was restored; its time follows.
REPLACED: Final = "replaced-"
DATABASE: Final = "selflearn.db"
COUNTED: Final = ("interactions", "feedback", "examples", "updates", "versions", "tombstones")
#: Pages that are copied at once (16 MB with SQLite's pages of 4 KiB): after each, Ctrl-C is heard.
_PAGES: Final = 4096
_INCOMPLETE: Final = ".incomplete"
#: The files that a backup may name. Nothing else is copied into a state directory, whatever ``backup.json`` says.
_FILE: Final = re.compile(r"selflearn\.db|versions/v[0-9]{6,18}/[A-Za-z0-9_][A-Za-z0-9_.-]*")


def backups_directory(state: Path) -> Path:
    """Where the backups lie that were given no other place."""
    return state / "backups"


def list_backups(state: Path) -> list[str]:
    """The names of the complete backups in the state directory, oldest first."""
    directory = backups_directory(state)
    return sorted(path.parent.name for path in directory.glob(f"*/{CONTENTS}") if not path.parent.name.startswith("."))


def list_copies(state: Path) -> list[str]:
    """Everything in the state directory that has older copies of its rows: backups, and states that were replaced.

    So has a backtest that runs, or was killed: those that ended leave numbers alone.
    """
    replaced = sorted(path.name for path in state.glob(f"{REPLACED}*") if path.is_dir())
    replayed = sorted(str(path.relative_to(state)) for path in state.glob("backtests/*/work"))
    return [f"{backups_directory(state).name}/{name}" for name in list_backups(state)] + replaced + replayed


def moment_name(at: float) -> str:
    """A unix time as a name that sorts by time: ``20260131T235959Z``."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")


def back_up(
    state: Path,
    destination: Path | None = None,
    now: Callable[[], float] = time.time,
    tell: Callable[[str, float], None] = lambda step, share: None,
) -> dict[str, Any]:
    """Makes a backup, while a daemon runs or not; returns what ``backup.json`` says, its ``directory`` and ``sha256``.

    ``destination`` must not exist; without one it is named by the time, in ``backups`` of the state directory. A
    version whose files are damaged is left out and named in ``left_out``. ``tell`` is told each step, and how much is
    done, from 0 to 1. Raises :class:`Conflict` (the destination exists), :class:`NotFound` (no database) or
    :class:`StateError` (it cannot be read or written).
    """
    at = now()
    target = destination if destination is not None else backups_directory(state) / moment_name(at)
    if not database_path(state).is_file():
        raise NotFound(
            f"There is nothing to back up: {state} has no {DATABASE}. Name the state directory with --state.",
            code="no_database",
        )
    if os.path.lexists(target):
        raise Conflict(f"{target} exists already; a backup never replaces anything. Name another place.", code="exists")
    try:
        with _incomplete(target) as place:
            contents = _fill(state, place, at, tell)
            _complete(place, target)
    except (OSError, sqlite3.Error) as error:
        raise StateError(
            f"The backup {target} could not be made: {error}. Look at free disk space and permissions; nothing of it "
            "was left."
        ) from error
    return {"directory": str(target.absolute()), "sha256": sha256_file(target / CONTENTS), **contents}


@contextlib.contextmanager
def _incomplete(target: Path) -> Iterator[Path]:
    """A directory beside the target, removed unless it was renamed; those that were left by a kill are removed, too."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in target.parent.glob(f".*{_INCOMPLETE}"):
        _sweep(path)
    place = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=_INCOMPLETE, dir=target.parent))
    with _locked(place):
        try:
            yield place
        finally:
            remove_tree(place)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[bool]:
    """Tries to lock a directory for this process; the kernel lets go of it when the process dies."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def _sweep(path: Path) -> None:
    with _locked(path) as abandoned:
        if abandoned:
            remove_tree(path)


def _fill(state: Path, place: Path, at: float, tell: Callable[[str, float], None]) -> dict[str, Any]:
    """Copies the database, then the versions that the copy knows; writes down what there is."""
    database = place / DATABASE
    copy_database(database_path(state), database, lambda share: tell("copying the database", share / 2))
    reach("mid-backup")
    check_database(database)
    with read_only(database) as copy:
        found = rows(copy, "SELECT * FROM versions ORDER BY id")  # of an older release, too: before it is upgraded
        registered = {row["id"]: row["manifest_sha256"] for row in found if row.get("removed_at") is None}
        facts = _facts(copy)
    left_out: dict[str, str] = {}
    for done, (number, expected) in enumerate(registered.items()):
        tell(f"copying version {number}", (1 + done / len(registered)) / 2)
        try:
            copy_version(version_directory(state, number), version_directory(place, number), expected)
        except VersionDamaged as error:
            remove_tree(version_directory(place, number))
            left_out[version_name(number)] = str(error)
    files = {str(path.relative_to(place)): path for path in sorted(place.rglob("*")) if path.is_file()}
    described = {name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for name, path in files.items()}
    contents = {"format": FORMAT, "created_at": at, "selflearn": _own_version(), **facts}
    contents |= {"files": described, "left_out": left_out}
    write_durably(place / CONTENTS, json.dumps(contents, indent=1).encode())
    return contents


def copy_database(source: Path, target: Path, tell: Callable[[float], None] = lambda share: None) -> None:
    """SQLite's online backup of one moment: writers go on meanwhile, and what they write is not in it.

    ``tell`` is told the share that is copied.
    """
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with contextlib.closing(connect(source)) as reading, contextlib.closing(sqlite3.connect(target)) as writing:
        # With the snapshot held, what others write does not make SQLite begin again, as it otherwise would.
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM sqlite_master").fetchone()
        reading.backup(writing, pages=_PAGES, progress=lambda _, left, pages: tell(1 - left / max(1, pages)))
        reading.execute("ROLLBACK")
    sync(target)


def copy_version(source: Path, target: Path, manifest_sha256: str) -> None:
    """Copies a sealed version as durably and as immutably as it was, and checks the copy.

    Raises :class:`VersionDamaged` if it is not, byte for byte, what was registered.
    """
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()) if source.is_dir() else ():
        if path.is_file() and not path.is_symlink():
            shutil.copyfile(path, target / path.name)
            (target / path.name).chmod(0o444)
            sync(target / path.name)
    target.chmod(0o555)
    sync(target)
    verify(target, manifest_sha256)


def _complete(place: Path, target: Path) -> None:
    versions = place / "versions"
    for directory in (versions, place):
        if directory.is_dir():
            sync(directory)
    place.rename(target)
    sync(target.parent)


def _facts(connection: sqlite3.Connection) -> dict[str, Any]:
    """What a reader of the backup wants to know without opening the database."""
    learners = rows(connection, "SELECT name, base_model, base_sha256 FROM learners ORDER BY name")
    counts = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in COUNTED}
    chained = any(row["name"] == "digest" for row in rows(connection, "PRAGMA table_info(audit)"))
    return {
        "learners": [{**row, "served": served(connection, row["name"])} for row in learners],
        "counts": counts,
        "audit_digest": newest_digest(connection) if chained else None,
    }


def _own_version() -> str:
    try:
        return version("selflearn")
    except PackageNotFoundError:  # it runs from its source
        return "0"


@contextlib.contextmanager
def read_only(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a database that nobody changes: SQLite makes no file beside it."""
    with contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?immutable=1", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


def check_database(database: Path) -> None:
    """Raises :class:`StateError` unless the file is a database of ours in which everything fits together."""
    try:
        with read_only(database) as connection:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            problems = [] if application == APPLICATION_ID else [f"it is of another program ({application})"]
            problems += [row[0] for row in connection.execute("PRAGMA integrity_check(3)") if row[0] != "ok"]
            problems += [f"row {row[1]} of {row[0]} refers to nothing" for row in connection.execute(_REFERENCES)]
    except sqlite3.DatabaseError as error:
        problems = [str(error)]
    if problems:
        raise StateError(f"The database {database} is damaged: {'; '.join(problems[:3])}. Use another backup.")


_REFERENCES: Final = "PRAGMA foreign_key_check"


def read_backup(directory: Path) -> dict[str, Any]:
    """What ``backup.json`` says, once every byte of every file was compared with it.

    Raises :class:`NotFound` if there is no backup, :class:`StateError` if a file is missing, changed or not one that a
    backup may have.
    """
    path = directory / CONTENTS
    if not path.is_file():
        raise NotFound(f"{directory} is no backup: it has no {CONTENTS}. Name one that 'selflearn backup' made.")
    contents = _parsed(path)
    for name, expected in contents["files"].items():
        _check_file(directory, name, expected)
    return contents


def _parsed(path: Path) -> dict[str, Any]:
    try:
        contents: dict[str, Any] = json.loads(path.read_bytes())
        found = contents["format"]
        if not isinstance(contents["files"], dict) or DATABASE not in contents["files"]:
            raise ValueError(f"it does not name {DATABASE}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StateError(f"{path} cannot be read ({error}). Nothing was changed; use another backup.") from error
    if found != FORMAT:
        raise StateError(f"{path} has format {found!r}, expected {FORMAT}: a newer selflearn made it. Use that one.")
    return contents


def _check_file(directory: Path, name: str, expected: Mapping[str, Any]) -> None:
    path = directory / name
    if not _FILE.fullmatch(name) or any(part.is_symlink() for part in (path, path.parent)):
        raise StateError(f"{directory / CONTENTS} names {name!r}, which is no file of a backup. Nothing was changed.")
    try:
        found = sha256_file(path)
    except OSError as error:
        raise StateError(f"{path} cannot be read ({error}). Nothing was changed; use another backup.") from error
    if found != expected.get("sha256"):
        raise StateError(
            f"{path} was changed: its SHA-256 is {found}, expected {expected.get('sha256')}. Nothing was changed; use "
            "another backup."
        )
