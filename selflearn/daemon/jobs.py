"""What goes into an update and what its version says of it: the job and the manifest, made from the same facts."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.experience import Snapshot
from selflearn.judging import Verdict
from selflearn.learning.cache import cache_directory
from selflearn.learning.job import ROLES, Job, JobExample
from selflearn.versions import Manifest, version_directory

LIBRARIES = ("selflearn", "torch", "transformers", "peft", "safetensors")


@dataclass(frozen=True, slots=True)
class Base:
    """The base model as the worker needs it."""

    name: str
    directory: Path
    sha256: str
    device: str
    dtype: str


def configuration(base: Base, learning: LearningSettings, judging: JudgingSettings) -> dict[str, Any]:
    """The settings that decide how an update turns out, as they are recorded with it."""
    return {
        "learning": learning.model_dump(),
        "judging": judging.model_dump(),
        "device": base.device,
        "dtype": base.dtype,
    }


def make_job(
    state: Path,
    *,
    update: int,
    parent: int,
    seed: int,
    snapshot: Snapshot,
    learner: str,
    base: Base,
    learning: LearningSettings,
    judging: JudgingSettings,
) -> Job:
    """The worker's job for one update; ``parent`` 0 is the base model."""
    roles = snapshot.roles()
    return Job(
        update=update,
        learner=learner,
        model_directory=str(base.directory),
        cache_directory=str(cache_directory(state, base.sha256)),
        parent=parent,
        parent_directory=str(version_directory(state, parent)) if parent else None,
        seed=seed,
        device=base.device,
        dtype=base.dtype,
        learning=learning,
        judging=judging,
        contradicting=snapshot.contradicting,
        examples=tuple(
            JobExample(
                found.id,
                role,
                found.digest,
                [dict(message) for message in found.messages],
                found.target,
                source=found.source,
                vouched=found.vouched,
            )
            for role in ROLES
            for found in roles[role]
        ),
    )


def make_manifest(job: Job, base: Base, snapshot: Snapshot, verdict: Verdict, *, created_at: float) -> Manifest:
    """The manifest of the version that ``job`` became."""
    return Manifest(
        version=job.update,
        parent=job.parent,
        learner=job.learner,
        base_model=base.name,
        base_sha256=base.sha256,
        created_at=created_at,
        seed=job.seed,
        config=configuration(base, job.learning, job.judging),
        examples={role: [[e.id, e.digest] for e in found] for role, found in snapshot.roles().items()},
        verdict=verdict.as_dict(),
        libraries={name: importlib.metadata.version(name) for name in LIBRARIES},
    )
