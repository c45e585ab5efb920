"""Restoring a backup into a state directory: checked in full first, then put in place so that no half of it remains.

What is restored is made ready beside the old state, under the name ``restore.part``. One rename, to
``restore.ready``, decides: before it nothing has changed, after it the rest is moving things, which whoever holds the
state directory next brings to its end (:func:`finish_restore`).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

from selflearn.backup import DATABASE, REPLACED, check_database, copy_version, moment_name, read_backup
from selflearn.errors import Conflict, StateError
from selflearn.experience.keeping.forgetting import forget_again
from selflearn.failpoints import reach
from selflearn.store import Store, database_path, rows
from selflearn.store.audit import write_audit
from selflearn.store.cleaning import empty_log
from selflearn.store.connections import connect
from selflearn.store.directory import hold_state
from selflearn.versions import served, version_directory
from selflearn.versions.files import remove_tree, sha256_file, sync, write_durably
from selflearn.versions.forgetting import retire_again
from selflearn.versions.names import versions_directory

_PART: Final = "restore.part"
_READY: Final = "restore.ready"
_ASIDE: Final = "aside.json"
#: In this order the old state goes and the new one comes: the database, which makes a state one, is the last.
_MOVED: Final = ("versions", DATABASE)
#: What SQLite keeps beside a database: it belongs to the old one and goes with it.
_COMPANIONS: Final = (f"{DATABASE}-wal", f"{DATABASE}-shm")


def occupied(state: Path) -> list[str]:
    """What a restore would replace, by name; empty if nothing."""
    versions = versions_directory(state)
    found = [DATABASE] if (state / DATABASE).exists() else []
    return found + ([versions.name] if versions.is_dir() and any(versions.iterdir()) else [])


def restore(
    source: Path, state: Path, *, actor: str, replace: bool = False, now: Callable[[], float] = time.time
) -> dict[str, Any]:
    """Puts a backup into a state directory that no daemon uses; returns what was restored.

    With ``replace`` a state that is there already is kept aside in ``replaced-TIME`` of the state directory. Raises
    :class:`~selflearn.errors.StateInUse`, :class:`Conflict` (there is a state already),
    :class:`~selflearn.errors.NotFound` (no backup) or :class:`StateError` (it is damaged); then nothing has changed.
    """
    contents = read_backup(source)
    with hold_state(state) as held:
        finish_restore(held)
        if (found := occupied(held)) and not replace:
            raise Conflict(
                f"{state} has a state already ({', '.join(found)}). With --yes it is kept aside, and the backup takes "
                "its place; or name another directory with --state.",
                code="state_not_empty",
            )
        at = now()
        try:
            part = held / _PART
            try:
                _copy_into(part, source, contents)
                restored = _prepare(part / DATABASE, source, held, contents, actor, at)
                aside = _commit(part, held, at)
            except BaseException:
                remove_tree(part)
                raise
            finish_restore(held)
        except (OSError, sqlite3.Error) as error:
            raise StateError(
                f"The backup {source} could not be restored: {error}. Look at free disk space and permissions, then "
                "restore again."
            ) from error
    kept = str(held / aside) if found else None
    return {
        "state": str(held),
        "backup": str(source),
        "made_at": contents["created_at"],
        "kept_aside": kept,
        **restored,
    }


def finish_restore(state: Path) -> bool:
    """Moves in what a restore has made ready, the old state aside; whether there was anything to do.

    Only for the process that holds the state directory. However often it is killed on the way, calling it again ends
    in the same state.
    """
    ready = state / _READY
    if not ready.is_dir():
        return False
    aside = state / json.loads((ready / _ASIDE).read_bytes())["aside"]
    aside.mkdir(mode=0o700, exist_ok=True)
    for name in _MOVED:
        if (ready / name).exists():  # else both moves were made before
            for old in (name, *(_COMPANIONS if name == DATABASE else ())):
                if (state / old).exists():
                    (state / old).rename(aside / old)
            reach("mid-restore")
            (ready / name).rename(state / name)
    for directory in (aside, ready, state):
        sync(directory)
    if not any(aside.iterdir()):
        aside.rmdir()
    remove_tree(ready)
    sync(state)
    return True


def _copy_into(part: Path, source: Path, contents: dict[str, Any]) -> None:
    """Copies a backup's database beside the old state and checks the copy: what is put in place is what was checked."""
    remove_tree(part)  # a restore that was killed before it decided left it
    part.mkdir(mode=0o700)
    database = part / DATABASE
    shutil.copyfile(source / DATABASE, database)
    database.chmod(0o600)
    if sha256_file(database) != contents["files"][DATABASE]["sha256"]:
        raise StateError(f"{source / DATABASE} changed while it was read. Nothing was changed; restore again.")
    check_database(database)


def _prepare(
    database: Path, source: Path, state: Path, contents: dict[str, Any], actor: str, at: float
) -> dict[str, Any]:
    """Brings the copied database up to this program's schema, fetches its versions, and notes the restore in it.

    What the old state has forgotten since the backup was made is forgotten in the copy as well.
    """
    with Store.open(database) as store:
        registered = store.read("SELECT id, manifest_sha256 FROM versions ORDER BY id")
        here = [row for row in registered if version_directory(source, row["id"]).is_dir()]  # the others were left out
        for row in here:
            target = version_directory(database.parent, row["id"])
            copy_version(version_directory(source, row["id"]), target, row["manifest_sha256"])
        again = forget_again(store, _tombstones(state), actor, at, functools.partial(_retire, store, at))
        detail = {"made_at": contents["created_at"], "counts": contents["counts"], "forgotten_again": again}
        store.write(lambda it: write_audit(it, actor=actor, action="state.restored", detail=detail, at=at))
        learners = [str(row["name"]) for row in store.read("SELECT name FROM learners ORDER BY name")]
        present = {name: served(store.connection(), name) for name in learners}
        if again:
            empty_log(store)
    told = {name: contents[name] for name in ("counts", "left_out")}
    return {
        **told,
        "versions": [row["id"] for row in here if version_directory(database.parent, row["id"]).is_dir()],
        "served": present,
        "forgotten_again": again,
    }


def _retire(store: Store, at: float, learner: str, examples: Collection[int]) -> None:
    """Versions that saw what was forgotten since are not restored; a daemon makes them again without it."""
    retire_again(store, store.path.parent, learner, examples, at)


def _tombstones(state: Path) -> list[dict[str, Any]]:
    """What the state that is replaced has forgotten: a backup must not bring it back."""
    if not database_path(state).is_file():
        return []
    try:
        with contextlib.closing(connect(database_path(state))) as connection:
            return rows(connection, "SELECT learner, subject, subject_id, actor FROM tombstones")
    except sqlite3.DatabaseError:  # too damaged to be read, or older than tombstones: the backup is better
        return []


def _commit(part: Path, state: Path, at: float) -> str:
    """Decides for the new state; returns the name under which :func:`finish_restore` keeps the old one."""
    aside = name = f"{REPLACED}{moment_name(at)}"
    for number in itertools.count(2):
        if not (state / aside).exists():
            break
        aside = f"{name}-{number}"
    versions_directory(part).mkdir(exist_ok=True)
    write_durably(part / _ASIDE, json.dumps({"aside": aside}).encode())
    for path in (versions_directory(part), part / DATABASE, part):
        sync(path)
    part.rename(state / _READY)
    sync(state)
    return aside
