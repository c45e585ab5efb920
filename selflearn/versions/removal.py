"""Versions whose files were removed on purpose: by retention, or because they had learned what is to be forgotten.

Their rows stay, and with them all that ``why`` tells; only they cannot be served any more. The row says so before the
files go, so that a kill between the two leaves nothing that looks like damage: :func:`discard_removed` finishes it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from selflearn.errors import NotFound, VersionRemoved
from selflearn.experience.roles.lines import line_of
from selflearn.failpoints import reach
from selflearn.store import rows
from selflearn.store.audit import write_audit
from selflearn.versions.files import remove_tree, sync
from selflearn.versions.names import version_directory, version_name

Because = Literal["retention", "forgotten"]

_TOLD: Final[dict[Because, str]] = {
    "retention": "by retention",
    "forgotten": "because it had learned what was to be forgotten",
}


@dataclass(frozen=True, slots=True)
class Removal:
    """When (unix seconds) and why a version's files were removed."""

    at: float
    because: Because

    def __str__(self) -> str:
        return f"removed on {datetime.fromtimestamp(self.at, UTC):%Y-%m-%d} {_TOLD[self.because]}"


def removal_of(connection: sqlite3.Connection, version: int) -> Removal | None:
    """When and why a version's files were removed; None if they are kept, and for numbers that name no version."""
    found = rows(connection, "SELECT removed_at, removed_because FROM versions WHERE id = ?", (version,))
    if not found or found[0]["removed_at"] is None:
        return None
    return Removal(found[0]["removed_at"], found[0]["removed_because"])


def nearest_kept(connection: sqlite3.Connection, version: int) -> int:
    """The version, or the nearest of its ancestors whose files are kept; 0 for the base."""
    line = line_of(connection, version)
    return next((each for each in line if removal_of(connection, each) is None), 0)


def require_kept(connection: sqlite3.Connection, version: int) -> None:
    """Raises :class:`VersionRemoved`, which names the nearest kept ancestor, if a version's files were removed."""
    removal = removal_of(connection, version)
    if removal is None:
        return
    kept = nearest_kept(connection, version)
    raise VersionRemoved(
        f"Version {version} was {removal}, so it cannot be served. The nearest one before it that is kept: "
        f"{named(kept)}."
    )


def named(version: int) -> str:
    """How a message proposes a version to go back to."""
    return "the base (selflearn rollback 0)" if version == 0 else f"version {version} (selflearn rollback {version})"


def unknown_version(version: int) -> NotFound:
    """The error for a number that names no promoted version."""
    return NotFound(
        f"There is no version {version}: no update with this number was promoted. See: selflearn versions list.",
        param="version",
        code="version_not_found",
    )


def mark_removed(
    connection: sqlite3.Connection, versions: Sequence[int], *, because: Because, actor: str, at: float
) -> None:
    """Writes down, with an audit row, that versions are removed; afterwards :func:`discard_directory` each of them.

    Whether they may go is the caller's to know: nothing is checked. A version that was removed before keeps its date.
    """
    for version in versions:
        done = connection.execute(
            "UPDATE versions SET removed_at = ?, removed_because = ? WHERE id = ? AND removed_at IS NULL",
            (at, because, version),
        )
        if done.rowcount:
            detail = {"version": version, "because": because}
            write_audit(connection, actor=actor, action="version.remove", detail=detail, at=at)


def discard_directory(state: Path, version: int) -> int:
    """Deletes a version's files and returns how many bytes that were: whole by one rename first, then one by one."""
    place = version_directory(state, version)
    if not os.path.lexists(place):
        return 0
    size = directory_bytes(place)
    trash = state / "work" / f"removed-{version_name(version)}"  # what lies in work/ goes at the next start
    trash.parent.mkdir(parents=True, exist_ok=True)
    remove_tree(trash)
    reach("mid-removal")
    if place.is_dir() and not place.is_symlink():
        place.chmod(0o755)  # a directory that is read-only itself could not be moved to another parent
    place.rename(trash)
    sync(place.parent)
    remove_tree(trash)
    return size


def discard_removed(connection: sqlite3.Connection, state: Path) -> list[int]:
    """Deletes what is left of versions that are marked as removed; returns their numbers."""
    marked = [int(row["id"]) for row in rows(connection, "SELECT id FROM versions WHERE removed_at IS NOT NULL")]
    left = [version for version in marked if os.path.lexists(version_directory(state, version))]
    for version in left:
        discard_directory(state, version)
    return left


def directory_bytes(directory: Path) -> int:
    """How many bytes the files of a version have; 0 if there are none."""
    if not directory.is_dir():
        return 0
    return sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
