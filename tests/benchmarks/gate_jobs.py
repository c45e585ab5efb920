"""Plans as jobs: what the daemon would write for a worker, and the versions that the trials start from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final

from transformers import AutoTokenizer

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.experience.trust.contradictions import contradicts
from selflearn.learning.cache import cache_directory
from selflearn.learning.job import Job, JobExample, Role
from selflearn.learning.update import run
from selflearn.models.base import LoadedBase
from tests.benchmarks.forgetting_streams import Pair
from tests.benchmarks.gate_trials import TEACHERS, Plan, Taught
from tests.benchmarks.gate_world import JUDGING, TAUGHT, Fact, pairs

#: So many times as long is a parent taught: it must know what it is said to have forgotten.
PARENT_PASSES: Final = 3
#: A template that no model here was trained with.
WRONG_TEMPLATE: Final = (
    "{% for message in messages %}{{ '### ' + message['role'] + ':\n' + message['content'] + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### answer:\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Ground:
    """What all trials with one model share. ``work`` keeps its parents and what depends on the base alone."""

    model: Path
    work: Path
    dtype: str
    learning: LearningSettings
    judging: JudgingSettings

    def parent(self, number: int) -> Path | None:
        return self.work / f"parent{number}" / "candidate" if number else None

    def __hash__(self) -> int:
        return hash((self.model, self.work, self.dtype))


def parent_of(ground: Ground, base: LoadedBase, number: int, facts: Sequence[Fact]) -> Path:
    """The version that was taught these facts; trained unless it is there."""
    folder = ground.work / f"parent{number}"
    if not (folder / "report.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        train, holdout = _by_teachers(pairs(facts, TAUGHT)), _by_teachers(pairs(facts, JUDGING))
        job = job_of(ground, Plan(train, holdout, ()), 0, (), Random(number), base.sha256)
        thorough = job.learning.model_copy(update={"passes": PARENT_PASSES * job.learning.passes})
        report = run_quietly(replace(job, learning=thorough), folder)
        (folder / "report.json").write_text(json.dumps(report["measurements"]), encoding="utf-8")
    return folder / "candidate"


def run_quietly(job: Job, folder: Path) -> dict[str, Any]:
    return run(job, folder, lambda phase, **numbers: None)


def job_of(ground: Ground, plan: Plan, parent: int, old: Sequence[Fact], random: Random, sha256: str) -> Job:
    """The job of an update whose parent was taught the ``old`` facts: they are replayed, and judge what is retained."""
    examples = _examples(plan, old)
    changes = {name: value for name, value in plan.changes.items() if name != "rate_factor"}
    directory = ground.parent(parent)
    return Job(
        update=parent + 1,
        learner="default",
        model_directory=str(_with_wrong_template(ground) if plan.wrong_template else ground.model),
        cache_directory=str(cache_directory(ground.work, sha256)),
        parent=parent,
        parent_directory=None if directory is None else str(directory),
        seed=random.randrange(1 << 30),
        device="cpu",
        dtype=ground.dtype,
        learning=LearningSettings.model_validate({**ground.learning.model_dump(), **changes}),
        judging=ground.judging,
        examples=examples,
        contradicting=_contradicting(examples),
        rate_factor=float(plan.changes.get("rate_factor", 1.0)),
    )


def _examples(plan: Plan, old: Sequence[Fact]) -> tuple[JobExample, ...]:
    by_role: dict[Role, Sequence[Taught]] = {
        "train": plan.train,
        "replay": _by_teachers(pairs(old, TAUGHT)),
        "holdout": plan.holdout,
        "retained": _by_teachers(pairs(old, JUDGING)),
    }
    rows = [(role, taught) for role, found in by_role.items() for taught in found]
    return tuple(
        JobExample(
            id=number,
            role=role,
            digest=hashlib.sha256(f"{taught.pair.question}\n{taught.pair.answer}".encode()).hexdigest(),
            messages=[{"role": "user", "content": taught.pair.question}],
            target=taught.pair.answer,
            source=taught.source,
        )
        for number, (role, taught) in enumerate(rows, 1)
    )


def _by_teachers(found: Sequence[Pair]) -> list[Taught]:
    return [Taught(pair, TEACHERS[number % len(TEACHERS)]) for number, pair in enumerate(found)]


def _contradicting(examples: Sequence[JobExample]) -> tuple[int, ...]:
    """The new examples that say otherwise of a whole prompt than an old one, as the daemon finds them."""
    known = {e.messages[0]["content"]: e.target for e in examples if e.role in ("replay", "retained")}
    new = [e for e in examples if e.role in ("train", "holdout") and e.messages[0]["content"] in known]
    return tuple(e.id for e in new if contradicts(known[e.messages[0]["content"]], e.target))


def _with_wrong_template(ground: Ground) -> Path:
    """The same weights beside a tokenizer whose template is another one."""
    directory = ground.work / "wrong-template"
    if not (directory / "config.json").is_file():
        half_done = directory.with_suffix(f".{os.getpid()}.part")
        half_done.mkdir(parents=True)
        tokenizer = AutoTokenizer.from_pretrained(str(ground.model), local_files_only=True)
        tokenizer.chat_template = WRONG_TEMPLATE
        tokenizer.save_pretrained(str(half_done))
        for file in [*ground.model.glob("*.safetensors"), *ground.model.glob("*config.json")]:
            if not (half_done / file.name).exists():
                (half_done / file.name).symlink_to(file.resolve())
        half_done.replace(directory)
    return directory
