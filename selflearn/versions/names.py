"""Names of versions and the places where they lie."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"v([0-9]{6,18})")


def version_name(version: int) -> str:
    """``v000007`` for 7; 0 is the base model."""
    return f"v{version:06d}"


def version_number(name: str) -> int | None:
    """7 for ``v000007``; None for anything that :func:`version_name` does not produce."""
    match = _NAME.fullmatch(name)
    return int(match.group(1)) if match and version_name(int(match.group(1))) == name else None


def versions_directory(state: Path) -> Path:
    """Where all versions of a state directory lie."""
    return state / "versions"


def version_directory(state: Path, version: int) -> Path:
    """Where a version's files lie, once it is sealed."""
    return versions_directory(state) / version_name(version)


def work_directory(state: Path, update_id: int) -> Path:
    """Where an update makes its candidate; nothing is ever served from here."""
    return state / "work" / f"{update_id:06d}"


def refused_directory(state: Path, update_id: int) -> Path:
    """Where the candidate of an update is kept that the gate did not promote, so that an operator may."""
    return state / "refused" / version_name(update_id)
