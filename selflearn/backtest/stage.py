"""A stage: a state directory of its own in which one configuration is replayed, made from a copy of the real one.

The copy's database has everything but what the replayed updates left in it. Versions that were made before the first
of them are linked to where they lie, and only read.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from selflearn.backtest.history import History, read_history
from selflearn.backtest.timeline import Timeline, hide_all, read_timeline
from selflearn.backup import copy_database
from selflearn.errors import ModelError, NotFound
from selflearn.learning.cache import cache_directory
from selflearn.models.library import fingerprint, locate
from selflearn.store import Store, database_path, rows
from selflearn.store.cleaning import empty_log
from selflearn.versions import served, version_directory
from selflearn.versions.files import remove_tree
from selflearn.versions.rollouts import lineage, verify_registered


@dataclass(frozen=True, slots=True)
class Start:
    """What all configurations start from. ``directory`` has ``selflearn.db``, ``versions`` and ``cache``."""

    directory: Path
    history: History
    timeline: Timeline
    version: int
    columns: tuple[tuple[int, ...], ...]


def copy_record(state: Path, directory: Path) -> Path:
    """Copies the database of a state directory while others may use it; returns the copy. Raises ``NotFound``."""
    if not database_path(state).is_file():
        raise NotFound(f"{state} is no state directory of selflearn: it has no database. Name it with --state.")
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    copy_database(database_path(state), database_path(directory))
    return database_path(directory)


def prepare_start(state: Path, directory: Path, learner: str, *, updates: str | None, last: int | None) -> Start:
    """Makes the common start in ``directory``. Raises as :func:`~selflearn.backtest.history.read_history`, and
    :class:`~selflearn.errors.VersionDamaged` if the version that the first update continues is damaged."""
    with Store.open(copy_record(state, directory)) as store:
        connection = store.connection()
        history = read_history(connection, learner, updates=updates, last=last)
        timeline = read_timeline(connection, history)
        columns = tuple(_taught(connection, update.number) for update in history.updates)
        store.write(lambda writing: _undo(writing, history))
        version = served(connection, learner)
        verify_registered(connection, state, version)
        for number in lineage(connection, version):
            _link(version_directory(state, number), version_directory(directory, number))
        empty_log(store)
    kept = cache_directory(state, history.base_sha256)
    if kept.is_dir():
        shutil.copytree(kept, cache_directory(directory, history.base_sha256), ignore=shutil.ignore_patterns("*.part"))
    return Start(directory, history, timeline, version, columns)


@contextlib.contextmanager
def staged(start: Start, directory: Path) -> Iterator[Store]:
    """A stage in ``directory`` at the start; it is removed in the end. What is computed about the base is shared."""
    directory.mkdir()
    try:
        shutil.copyfile(database_path(start.directory), database_path(directory))
        cache = start.directory / "cache"
        cache.mkdir(exist_ok=True)
        (directory / "cache").symlink_to(cache)
        if (start.directory / "versions").is_dir():
            shutil.copytree(start.directory / "versions", directory / "versions", symlinks=True)
        with Store.open(database_path(directory)) as store:
            yield store
    finally:
        remove_tree(directory)


def number_next(connection: sqlite3.Connection, number: int) -> None:
    """Lets the next update have this number: its seed, and so its bytes, follow from it."""
    connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'updates'", (number - 1,))


def model_of(history: History, model: str, state: Path) -> Path:
    """Where the base model of the history lies. Raises :class:`ModelError` if it is not there, or is another one."""
    directory = locate(model, state).resolve()
    found = fingerprint(directory)
    if found != history.base_sha256:
        raise ModelError(
            f"The model in {directory} is {found[:12]}…, but the recorded updates adapt {history.base_model} "
            f"({history.base_sha256[:12]}…). Name the model that they were made for: serving.model in the settings."
        )
    return directory


def _link(version: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    target.symlink_to(version.resolve())


def _taught(connection: sqlite3.Connection, update: int) -> tuple[int, ...]:
    """The examples that an update taught and whose words are still there, to measure what is known of them later."""
    found = rows(
        connection,
        "SELECT id FROM update_examples JOIN examples ON examples.id = example_id"
        " WHERE update_id = ? AND role = 'train' AND objective = 'supervised' AND state != 'forgotten' ORDER BY id",
        (update,),
    )
    return tuple(int(row["id"]) for row in found)


def _undo(connection: sqlite3.Connection, history: History) -> None:
    """Takes away what the replayed updates and all later ones left, for every learner: their numbers are one row."""
    first, began = history.updates[0].number, history.updates[0].started_at
    connection.execute("DROP TRIGGER rollouts_no_delete")
    connection.execute("DELETE FROM rollouts WHERE created_at > ? OR version >= ?", (began, first))
    for table, column in (("versions", "id"), ("update_examples", "update_id"), ("updates", "id")):
        connection.execute(f"DELETE FROM {table} WHERE {column} >= ?", (first,))
    hide_all(connection, history.learner)
