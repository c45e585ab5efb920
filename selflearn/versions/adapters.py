"""The adapter store: a candidate becomes an immutable version directory by one rename."""

from __future__ import annotations

import os
from pathlib import Path

from selflearn.errors import VersionError
from selflearn.versions.files import sync
from selflearn.versions.manifest import verify


def seal(work_candidate: Path, target: Path) -> None:
    """Moves a candidate that has its manifest to ``target``: durable, read-only, all or nothing.

    Raises :class:`VersionError` if the target exists (a version is never replaced) and
    :class:`~selflearn.errors.VersionDamaged` if the candidate differs from its manifest.
    """
    if os.path.lexists(target):
        raise VersionError(
            f"{target} exists already, and a version is never replaced. Expected no such directory: restart the "
            "daemon, which removes what an interrupted update left."
        )
    verify(work_candidate, None)
    for path in sorted(work_candidate.iterdir()):
        path.chmod(0o444)
        sync(path)
    sync(work_candidate)
    target.parent.mkdir(parents=True, exist_ok=True)
    # A directory that is read-only itself could not be moved to another parent, so that comes after the rename.
    work_candidate.rename(target)
    target.chmod(0o555)
    sync(target)
    sync(target.parent)
    sync(work_candidate.parent)
