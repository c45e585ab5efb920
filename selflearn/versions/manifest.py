"""A version's manifest: what it is, what it was made of, and the SHA-256 of every file that belongs to it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from selflearn.errors import VersionDamaged
from selflearn.versions.files import sha256_file, write_durably
from selflearn.versions.names import version_name, version_number

MANIFEST: Final = "manifest.json"
ADAPTER: Final = "adapter_model.safetensors"
#: Nothing else may lie in a version: in particular no pickle, which runs code when it is read.
SUFFIXES: Final = (".json", ".jsonl", ".safetensors")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a version is and where it comes from. ``files`` is filled in by :func:`write_manifest`.

    ``made_with`` is what its bytes depend on besides all this: the machine, the exact texts, what is kept of the base.
    Versions made before this was noted have none.
    """

    version: int
    parent: int
    learner: str
    base_model: str
    base_sha256: str
    created_at: float
    seed: int
    config: Mapping[str, Any]
    #: role -> [[example id, digest], ...]
    examples: Mapping[str, Sequence[Sequence[Any]]]
    verdict: Mapping[str, Any]
    libraries: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)
    made_with: Mapping[str, Any] = field(default_factory=dict)


def write_manifest(directory: Path, manifest: Manifest) -> str:
    """Hashes all files of a candidate, writes ``manifest.json`` beside them, and returns its SHA-256 (hex).

    Raises :class:`VersionDamaged` if the directory holds anything that must not be in a version.
    """
    files = {path.name: sha256_file(path) for path in _listed(directory) if path.name != MANIFEST}
    complete = dataclasses.replace(manifest, files=files)
    content = json.dumps(dataclasses.asdict(complete), indent=1, sort_keys=True).encode()
    (directory / MANIFEST).unlink(missing_ok=True)
    write_durably(directory / MANIFEST, content)
    return hashlib.sha256(content).hexdigest()


def read_manifest(directory: Path, expected_manifest_sha256: str | None = None) -> Manifest:
    """Reads a manifest and checks it against the registered hash, if given; the other files are not looked at."""
    path = directory / MANIFEST
    try:
        if path.is_symlink():
            raise VersionDamaged(f"{path} is a symbolic link; expected a file. {_ADVICE}")
        content = path.read_bytes()
    except OSError as error:
        raise VersionDamaged(f"The manifest {path} cannot be read ({error}). {_ADVICE}") from error
    found = hashlib.sha256(content).hexdigest()
    if expected_manifest_sha256 is not None and found != expected_manifest_sha256:
        raise VersionDamaged(_differs(path, found, expected_manifest_sha256))
    try:
        return Manifest(**json.loads(content))
    except (ValueError, TypeError) as error:
        raise VersionDamaged(f"The manifest {path} is not one of selflearn's ({error}). {_ADVICE}") from error


def verify(directory: Path, expected_manifest_sha256: str | None) -> Manifest:
    """Checks every byte of a version; ``expected_manifest_sha256`` is the registered hash of its manifest.

    Raises :class:`VersionDamaged`, which names the file, its hash, and the hash that was expected.
    """
    manifest = read_manifest(directory, expected_manifest_sha256)
    if version_number(directory.name) not in (None, manifest.version):
        raise VersionDamaged(
            f"{directory} holds {version_name(manifest.version)}, expected {directory.name}. {_ADVICE}"
        )
    present = {path.name for path in _listed(directory)} - {MANIFEST}
    if extra := sorted(present - set(manifest.files)):
        raise VersionDamaged(f"{directory} holds {', '.join(extra)}, which its manifest does not name. {_ADVICE}")
    for name, expected in sorted(manifest.files.items()):
        if name not in present:
            raise VersionDamaged(f"{directory / name} is missing; expected SHA-256 {expected}. {_ADVICE}")
        try:
            found = sha256_file(directory / name)
        except OSError as error:
            raise VersionDamaged(f"{directory / name} cannot be read ({error}). {_ADVICE}") from error
        if found != expected:
            raise VersionDamaged(_differs(directory / name, found, expected))
    return manifest


_ADVICE: Final = "Serve another version (selflearn rollback N) or restore this one from a backup."


def _differs(path: Path, found: str, expected: str) -> str:
    return f"{path} was changed: its SHA-256 is {found}, expected {expected}. {_ADVICE}"


def _listed(directory: Path) -> list[Path]:
    """All entries of a version; raises unless each is a regular file of an allowed kind."""
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        raise VersionDamaged(f"The version directory {directory} cannot be read ({error}). {_ADVICE}") from error
    for entry in entries:
        if entry.is_symlink() or not entry.is_file() or entry.suffix not in SUFFIXES:
            raise VersionDamaged(
                f"{entry} does not belong into a version: expected plain files that end in {', '.join(SUFFIXES)}. "
                "Remove it; nothing in it was read."
            )
    return entries
