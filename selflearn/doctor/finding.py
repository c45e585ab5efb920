"""What a check found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Level = Literal["ok", "warn", "fail"]
LEVELS: Final[tuple[Level, ...]] = ("ok", "warn", "fail")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, and what to do about it (None if nothing is to be done).

    ``warn`` is what a daemon runs with, but not as it should; with ``fail`` it does not start, or does not keep what it
    promises.
    """

    check: str
    level: Level
    found: str
    advice: str | None = None


def worst(findings: Iterable[Finding]) -> Level:
    """The worst level of some findings; ok of none."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def in_units(size: float) -> str:
    """A number of bytes as people read it: ``269 MB``, ``1.5 GB``."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
