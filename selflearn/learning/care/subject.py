"""What the care commands work on: a version's adapter, the base below it, and the examples it was made from.

The state directory is only read, but for what is kept there of the base model alone (its answers to the anchors).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selflearn.errors import ModelError, NotFound
from selflearn.experience import Example, load_examples
from selflearn.models.adapter import attach_saved
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.chat import encode_example
from selflearn.models.forward import TokenSequence
from selflearn.models.views import view_of
from selflearn.versions import read_manifest, verify_registered, version_directory, version_name


@dataclass(frozen=True, slots=True)
class Subject:
    """One intact version. ``examples`` maps a role of its update to the (id, digest) of those who had it."""

    number: int
    adapter: Path
    base_model: str
    base_sha256: str
    examples: dict[str, list[tuple[int, str]]]
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        return version_name(self.number)


def find_subject(connection: sqlite3.Connection, state: Path, number: int) -> Subject:
    """The version ``number``, every byte of it checked. Raises ``NotFound`` (also for 0) or ``VersionDamaged``."""
    if number == 0:
        raise NotFound(
            "Version 0 is the base model and has no adapter. Expected the number of a promoted version: "
            "selflearn versions list.",
            param="version",
            code="base_model",
        )
    verify_registered(connection, state, number)
    directory = version_directory(state, number)
    manifest = read_manifest(directory)
    examples = {role: [(int(id_), str(digest)) for id_, digest in rows] for role, rows in manifest.examples.items()}
    return Subject(number, directory, manifest.base_model, manifest.base_sha256, examples, manifest.config)


def load_subject_base(
    subject: Subject, model_directory: Path, *, device: str, dtype: str, weights: bool = True
) -> LoadedBase:
    """The base model below a version, without its adapter; ``model_directory`` is where ``serving.model`` lies.

    Raises :class:`ModelError` if that is another model than the version was made from.
    """
    base = load_base(model_directory, device=device, dtype=dtype, weights=weights)
    require_base(subject, base)
    return base


def require_base(subject: Subject, base: LoadedBase) -> None:
    """Raises :class:`ModelError` if ``base`` is another model than the version was made from."""
    if base.sha256 != subject.base_sha256:
        raise ModelError(
            f"{subject.name} adapts {subject.base_model} ({subject.base_sha256[:12]}…), but serving.model is "
            f"{base.name} ({base.sha256[:12]}…). Set serving.model, or SELFLEARN_SERVING__MODEL, to the former."
        )


def adapted(base: LoadedBase, subject: Subject) -> LoadedBase:
    """The version: its adapter over the weights of ``base``, which stays as it is."""
    model = view_of(base.model)
    attach_saved(model, subject.adapter)
    return replace(base, model=model)


def subject_examples(connection: sqlite3.Connection, subject: Subject, roles: Sequence[str]) -> list[Example]:
    """The examples that had one of ``roles`` in the version's update, as far as they still say what they said then."""
    wanted = dict(pair for role in roles for pair in subject.examples.get(role, ()))
    condition = "id IN (SELECT value FROM json_each(?)) AND state != 'forgotten' ORDER BY id"
    found = load_examples(connection, condition, (json.dumps(sorted(wanted)),))
    return [example for example in found if example.digest == wanted[example.id]]


def encoded(base: LoadedBase, examples: Sequence[Example], max_length: int) -> list[TokenSequence]:
    """Examples as token sequences; those longer than ``max_length`` are left out, as an update leaves them out."""
    pairs = [encode_example(base.tokenizer, list(example.messages), example.target) for example in examples]
    return [TokenSequence(tuple(ids), length) for ids, length in pairs if len(ids) <= max_length]
