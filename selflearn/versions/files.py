"""Files that must be there after a power cut."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from pathlib import Path


def sha256_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Makes a file's bytes, or a directory's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Writes a new file and makes it durable; ``FileExistsError`` if it is there already."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)


def remove_tree(path: Path) -> None:
    """Removes a directory with all it holds, read-only parts too; a symbolic link is removed, never followed."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for directory, _, _ in os.walk(path):
        here = Path(directory)
        here.chmod(stat.S_IMODE(here.stat().st_mode) | stat.S_IRWXU)
    shutil.rmtree(path)
