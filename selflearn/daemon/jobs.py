"""What goes into an update and what its version says of it: the job and the manifest, made from the same facts."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.errors import UpdateError
from selflearn.experience import LEFT_OUT, Example, Snapshot, load_examples
from selflearn.judging import Verdict
from selflearn.judging.canary_prompts import CanaryPrompt
from selflearn.learning.cache import cache_directory
from selflearn.learning.job import ROLES, Job, JobExample, Role
from selflearn.store import Store
from selflearn.versions import Manifest, version_directory
from selflearn.versions.outcomes import Past
from selflearn.versions.registry import unknown_update

LIBRARIES = ("selflearn", "torch", "transformers", "tokenizers", "peft", "safetensors")


@dataclass(frozen=True, slots=True)
class Base:
    """The base model as the worker needs it."""

    name: str
    directory: Path
    sha256: str
    device: str
    dtype: str


def configuration(
    base: Base, learning: LearningSettings, judging: JudgingSettings, rate_factor: float = 1.0
) -> dict[str, Any]:
    """The settings that decide how an update turns out, as they are recorded with it."""
    return {
        "learning": learning.model_dump(),
        "judging": judging.model_dump(),
        "device": base.device,
        "dtype": base.dtype,
        "rate_factor": rate_factor,
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
    rate_factor: float,
    past: Past | None = None,
    canaries: Sequence[CanaryPrompt] = (),
) -> Job:
    """The worker's job for one update; ``parent`` 0 is the base model. ``past`` is what judging it needs of others."""
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
        rate_factor=rate_factor,
        earlier_looks=0 if past is None else past.looks,
        ancestors={} if past is None else past.ancestors,
        canaries=tuple(canaries),
        examples=tuple(_job_example(found, role) for role in ROLES for found in roles[role]),
    )


def _job_example(example: Example, role: Role) -> JobExample:
    return JobExample(
        example.id,
        role,
        example.digest,
        [dict(message) for message in example.messages],
        example.target,
        source=example.source,
        vouched=example.vouched,
        objective=example.objective,
        rejected=example.rejected,
        value=_value(example),
    )


def _value(example: Example) -> float:
    """What an example's objective weighs it by: its reward, -1 for an answer that was rated down, else 1."""
    if example.objective == "unpaired_preference":
        return -1.0
    return 1.0 if example.reward is None else example.reward


def make_manifest(
    job: Job, base: Base, snapshot: Snapshot, verdict: Verdict, *, made_with: Mapping[str, Any], created_at: float
) -> Manifest:
    """The manifest of the version that ``job`` became; ``made_with`` is in the worker's report."""
    return Manifest(
        version=job.update,
        parent=job.parent,
        learner=job.learner,
        base_model=base.name,
        base_sha256=base.sha256,
        created_at=created_at,
        seed=job.seed,
        config=configuration(base, job.learning, job.judging, job.rate_factor),
        examples={role: [[e.id, e.digest] for e in found] for role, found in snapshot.roles().items()},
        verdict=verdict.as_dict(),
        libraries=libraries(),
        made_with=made_with,
    )


def libraries() -> dict[str, str]:
    """The installed versions of what decides about an adapter's bytes."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def job_of_update(store: Store, state: Path, number: int, model_directory: Path, base_sha256: str) -> Job:
    """The job of an update of the past, from its row, the roles of its examples, and their texts as they are today.

    Its threads are those that the worker had, and its scale is that which was kept then. Which examples contradicted
    earlier ones is not part of the record: it decides about the verdict alone. Raises ``NotFound`` for an unknown
    number, and :class:`UpdateError` that names the examples which were forgotten since, or the settings which this
    selflearn does not know.
    """
    found = store.read("SELECT learner, parent, seed, config, report FROM updates WHERE id = ?", (number,))
    if not found:
        raise unknown_update(number)
    row, config = found[0], json.loads(found[0]["config"])
    report = json.loads(row["report"] or "{}")
    learning, judging = recorded_settings(number, config)
    return Job(
        update=number,
        learner=str(row["learner"]),
        model_directory=str(model_directory),
        cache_directory=str(cache_directory(state, base_sha256)),
        parent=int(row["parent"]),
        parent_directory=str(version_directory(state, row["parent"])) if row["parent"] else None,
        seed=int(row["seed"]),
        device=config["device"],
        dtype=config["dtype"],
        learning=learning.model_copy(update={"threads": int(report.get("threads", learning.threads))}),
        judging=judging,
        rate_factor=float(config.get("rate_factor", 1.0)),
        scale=float(report.get("measurements", {}).get("scale", 1.0)),
        examples=_examples_of(store, number, {row["id"]: row["role"] for row in report.get("left_out", ())}),
    )


def recorded_settings(number: int, config: Mapping[str, Any]) -> tuple[LearningSettings, JudgingSettings]:
    """The settings that update ``number`` was recorded with; :class:`UpdateError` names those not known here."""
    try:
        return LearningSettings(**config["learning"]), JudgingSettings(**config["judging"])
    except ValidationError as error:
        names = ", ".join(".".join(str(part) for part in problem["loc"]) for problem in error.errors())
        raise UpdateError(
            f"Update {number} was made with settings that this selflearn does not take ({names}). Use the version of "
            "selflearn that its manifest names."
        ) from error


def _examples_of(store: Store, number: int, left_out: Mapping[int, Role]) -> tuple[JobExample, ...]:
    """The examples of an update in the roles that they had when it began; the report says which were ``left_out``."""
    used = "SELECT example_id, role, digest FROM update_examples WHERE update_id = ?"
    named = {row["example_id"]: row for row in store.read(used, (number,))}
    ids = json.dumps(sorted(named))
    examples = load_examples(store.connection(), "id IN (SELECT value FROM json_each(?)) ORDER BY id", (ids,))
    kept = {example.id for example in examples if example.state != "forgotten"}
    changed = {example.id for example in examples if example.digest != named[example.id]["digest"]}
    if gone := sorted((set(named) - kept) | changed):
        raise UpdateError(
            f"Update {number} cannot be made again: of its {len(named)} examples, these were forgotten, or say "
            f"something else since: {', '.join(map(str, gone))}."
        )
    roles = {example.id: named[example.id]["role"] for example in examples}
    return tuple(
        _job_example(example, left_out[example.id] if roles[example.id] == LEFT_OUT else roles[example.id])
        for example in examples
    )
