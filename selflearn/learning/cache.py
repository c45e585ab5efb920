"""Where a state directory keeps what depends on one base model alone. Needs no torch."""

from __future__ import annotations

from pathlib import Path

ANCHORS = "anchors-{key}.safetensors"
IMPORTANCE = "importance-{key}.safetensors"


def cache_directory(state: Path, base_sha256: str) -> Path:
    """The directory for the base with this fingerprint."""
    return state / "cache" / base_sha256[:16]


def is_kept(state: Path, base_sha256: str) -> bool:
    """Whether anything is kept for this base. What a setting changed since then is made by the update that needs it."""
    directory = cache_directory(state, base_sha256)
    return all(any(directory.glob(name.format(key="*"))) for name in (ANCHORS, IMPORTANCE))
