"""The lessons of a job by role: what of its examples can be learned, and what is left out before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from selflearn.errors import SelflearnError
from selflearn.experience.signals import CURATED
from selflearn.judging.measures import losses
from selflearn.learning.job import ROLES, Job, JobExample, Role, write_synthetic
from selflearn.learning.lessons import Lesson, measured_losses
from selflearn.learning.outliers import Surprise, find_outliers
from selflearn.learning.preparation import lessons_of
from selflearn.learning.replay import self_replayed
from selflearn.learning.self_edits import self_edits
from selflearn.models.base import LoadedBase

SELF_EDITS_FILE = "self_edits.jsonl"
SELF_REPLAY_FILE = "self_replay.jsonl"


@dataclass(frozen=True, slots=True)
class Taught:
    """An example with its lesson."""

    example: JobExample
    lesson: Lesson


@dataclass(frozen=True, slots=True)
class JobLessons:
    """The job's examples as lessons, by role.

    ``extra`` are lessons that train besides, by the id of their example and its role. ``left_out`` says which examples
    neither train nor judge, and why; ``notes`` what else was made of them.
    """

    by_role: Mapping[Role, Sequence[Taught]]
    extra: Sequence[tuple[int, Role, Lesson]]
    left_out: Sequence[Mapping[str, Any]]
    notes: Mapping[str, Any]

    def lessons(self, role: Role) -> list[Lesson]:
        """All that trains or judges in a role, in the order of the examples; what is extra comes last."""
        present = self.ids(role)
        extra = [lesson for id_, of, lesson in self.extra if of == role and (id_ in present or id_ == 0)]
        return [taught.lesson for taught in self.by_role[role]] + extra

    def ids(self, role: Role) -> set[int]:
        return {taught.example.id for taught in self.by_role[role]}


def prepared(job: Job, base: LoadedBase, candidate: Path) -> JobLessons:
    """All lessons of the job, the parent's own and the base's restatements among them."""
    given = [example for role in ROLES for example in job.having(role)]
    edits = self_edits(base, given, job.learning, job.seed)
    write_synthetic(edits.examples, candidate / SELF_EDITS_FILE)
    asked = job.learning.self_replay if job.parent else 0  # what the base would say is what KL keeps already
    replayed = self_replayed(base, job.having("replay"), asked, job.seed)
    write_synthetic(replayed, candidate / SELF_REPLAY_FILE)
    found = lessons_of(base, [*given, *edits.examples, *replayed], job.learning)
    by_role = {
        role: [Taught(one, found.main[one.id]) for one in job.having(role) if one.id in found.main] for role in ROLES
    }
    if not by_role["train"] or not by_role["holdout"]:
        raise SelflearnError(_nothing_left(by_role, [asdict(one) for one in found.left_out]))
    return JobLessons(
        by_role,
        [(extra.id, extra.role, extra.lesson) for extra in found.extra],
        [asdict(one) for one in found.left_out],
        {
            "self_edits": {"drawn": edits.drawn, "kept": len(edits.examples)},
            "self_replayed": len(replayed),
            "without_extra": [asdict(one) for one in found.without_extra],
        },
    )


def _nothing_left(by_role: Mapping[Role, Sequence[Taught]], left_out: Sequence[Mapping[str, Any]]) -> str:
    side = "trains" if not by_role["train"] else "judges"
    reasons = sorted({str(row["detail"]) for row in left_out})
    told = f": {reasons[0]}" if reasons else ""
    return f"No example is left that {side}{told} ({len(left_out)} were left out). Mend them or raise the limit."


def without_outliers(job: Job, base: LoadedBase, lessons: JobLessons) -> JobLessons:
    """Leaves out the new examples that surprise the parent far more than their likes.

    Those that would judge as well: what cannot be learned must not block an update, nor carry it through the gate.
    This is decided on the parent's loss alone, before the first step, so it cannot favour the candidate. One example
    stays to train and ``judging.min_holdout`` to judge, whatever they look like. Only targets that somebody gave as
    right can be odd: what was rated down may well be garbage.
    """
    spare = {"train": len(lessons.by_role["train"]) - 1}
    spare["holdout"] = len(lessons.by_role["holdout"]) - job.judging.min_holdout
    new = {taught.example.id: taught for role in ("train", "holdout") for taught in lessons.by_role[role]}
    likely = [taught for taught in new.values() if taught.example.objective in CURATED]
    found: list[dict[str, Any]] = []
    for outlier in find_outliers(_surprises(base, likely), job.learning.outlier_limit):
        role = new[outlier.id].example.role
        if spare[role] > 0:
            spare[role] -= 1
            found.append({"role": role, "reason": "outlier", **asdict(outlier)})
    gone = {row["id"] for row in found}
    kept = {role: [e for e in rows if e.example.id not in gone] for role, rows in lessons.by_role.items()}
    return replace(lessons, by_role=kept, left_out=[*lessons.left_out, *found])


def _surprises(base: LoadedBase, examples: Sequence[Taught]) -> list[Surprise]:
    rows = [taught.lesson.sequence for taught in examples]
    return [
        Surprise(
            id=taught.example.id,
            source=taught.example.source,
            nats=loss * row.response_length,
            tokens=row.response_length,
            bytes=len(taught.example.target.encode("utf-8")) + 1,  # the end of the answer counts, as its token does
            exempt=taught.example.vouched,
        )
        for taught, row, loss in zip(examples, rows, losses(base.model, rows, base.device), strict=True)
    ]


def role_losses(job: Job, base: LoadedBase, lessons: JobLessons, role: Role) -> list[float]:
    return measured_losses(base.model, lessons.lessons(role), job.learning, base.device)
