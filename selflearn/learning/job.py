"""A job: everything that one update needs, as files in one folder.

The worker reads ``job.json`` and ``examples.jsonl``, writes ``progress.jsonl`` while it works, and leaves
``candidate/`` and ``report.json``. It needs nothing else: no database, no network, no daemon.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.judging.canary_prompts import CanaryPrompt

if TYPE_CHECKING:
    from selflearn.experience.signals import Objective

Role = Literal["train", "replay", "holdout", "retained"]
ROLES: tuple[Role, ...] = ("train", "replay", "holdout", "retained")


@dataclass(frozen=True, slots=True)
class JobExample:
    """One example in its role: the prompt as chat messages and the response to learn or to judge on.

    ``source`` says whose norm its loss is compared with; for ``vouched`` ones an operator answers. ``rejected`` is an
    answer that is worse than the target; ``value`` a reward, or -1 for a target that was rated down. What the model
    wrote itself is ``synthetic``.
    """

    id: int
    role: Role
    digest: str
    messages: list[dict[str, Any]]
    target: str
    source: str = ""
    vouched: bool = False
    objective: Objective = "supervised"
    rejected: str | None = None
    value: float = 1.0
    synthetic: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """What to train from, with which settings, and on what device. ``parent`` 0 is the base model.

    ``contradicting`` are the new examples that answer a known question differently than an earlier one.
    ``rate_factor`` scales the learning rate, by what became of the updates before.
    ``earlier_looks`` counts the updates that were judged since the last promotion that stands. ``scale`` is the part of
    its step that a version took, to make it again; None lets the line search decide. ``canaries`` are an operator's
    prompts. ``ancestors`` maps versions before the parent to the losses that they had on retained examples, by id.
    ``cache_directory`` keeps what depends on the base model alone: its answers to the anchors, its importance.
    """

    update: int
    learner: str
    model_directory: str
    cache_directory: str
    parent: int
    parent_directory: str | None
    seed: int
    device: str
    dtype: str
    learning: LearningSettings
    judging: JudgingSettings
    examples: tuple[JobExample, ...]
    contradicting: tuple[int, ...] = ()
    rate_factor: float = 1.0
    earlier_looks: int = 0
    scale: float | None = None
    canaries: tuple[CanaryPrompt, ...] = ()
    ancestors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def having(self, role: Role) -> tuple[JobExample, ...]:
        """The examples of one role, in the order of their ids."""
        return tuple(sorted((e for e in self.examples if e.role == role), key=lambda e: e.id))


def write_job(job: Job, folder: Path) -> None:
    """Writes ``job`` into ``folder``, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    named = [each.name for each in fields(job) if each.name not in ("learning", "judging", "examples")]
    settings = {name: getattr(job, name) for name in named}
    settings["learning"] = job.learning.model_dump()
    settings["judging"] = job.judging.model_dump()
    settings["canaries"] = [canary.model_dump() for canary in job.canaries]
    (folder / "job.json").write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
    lines = [json.dumps(asdict(example), sort_keys=True, ensure_ascii=False) for example in job.examples]
    (folder / "examples.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def write_synthetic(examples: Sequence[JobExample], path: Path) -> None:
    """Writes what the model made up, one line each with the example ``of`` which: whoever looks at the version can read
    it. Without any, nothing is written."""
    rows = ({"of": example.id, "messages": example.messages, "target": example.target} for example in examples)
    if examples:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_job(folder: Path) -> Job:
    """Reads the job back from ``folder``."""
    settings = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    # not splitlines(), to which U+2028 and others that people paste end a line as well
    lines = (folder / "examples.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    settings["learning"] = LearningSettings(**settings["learning"])
    settings["judging"] = JudgingSettings(**settings["judging"])
    settings["contradicting"] = tuple(settings["contradicting"])
    settings["canaries"] = tuple(CanaryPrompt(**canary) for canary in settings["canaries"])
    return Job(**settings, examples=tuple(JobExample(**json.loads(line)) for line in lines))
