"""What is measured of a candidate: everything that the gate looks at, for the adapter as it is in the model now."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Final

from selflearn.judging.measurements import Measurements
from selflearn.judging.measures import adapter_drift, losses, nonfinite_tensors
from selflearn.learning.anchors import Anchors, measure_anchors
from selflearn.learning.evidence import Evidence, EvidencePrompts, gather
from selflearn.learning.job import Job, Role
from selflearn.learning.job_lessons import JobLessons, role_losses
from selflearn.learning.lessons import Lesson
from selflearn.models.adapter import adapter_state
from selflearn.models.base import LoadedBase
from selflearn.models.forward import TokenSequence

#: So many answers are read after the questions of others, of a larger holdout as many as it has.
SWAPPED: Final = 64
NEW: Final[tuple[Role, ...]] = ("train", "holdout")


@dataclass(frozen=True, slots=True)
class Measuring:
    """What a candidate is compared with: the lessons that judge, the anchors, the parent's losses by role and answers.

    ``answered`` keeps what each size of the candidate answered.
    """

    job: Job
    base: LoadedBase
    lessons: JobLessons
    anchors: Anchors
    holdout_parent: Sequence[float]
    retained_parent: Sequence[float]
    prompts: EvidencePrompts
    parent_evidence: Evidence
    answered: dict[float, Evidence] = field(default_factory=dict)

    @classmethod
    def of_parent(cls, job: Job, base: LoadedBase, lessons: JobLessons, anchors: Anchors) -> Measuring:
        """Measures the parent, whose adapter is in the model now."""
        parent = [role_losses(job, base, lessons, role) for role in ("holdout", "retained")]
        prompts = EvidencePrompts.of(job, [taught.example for taught in lessons.by_role["holdout"]])
        return cls(job, base, lessons, anchors, parent[0], parent[1], prompts, gather(base, prompts))

    def candidate(self, stopped: str, *, size: float = 1.0, tried_scales: int = 1) -> Measurements:
        """Measures the candidate in the model, all but its answers: those take longest, see :meth:`with_answers`.

        ``stopped`` is how training ended, ``size`` the candidate's part of the step, and ``tried_scales`` says how many
        sizes of this step the same holdout judges.
        """
        job, base, lessons = self.job, self.base, self.lessons
        broken = nonfinite_tensors(adapter_state(base.model))
        if stopped == "not finite" and not broken:  # an infinite norm clips the step to nothing
            broken = ["a loss or gradient in training"]
        anchor_losses, divergences = measure_anchors(base, self.anchors.judge)
        holdout = role_losses(job, base, lessons, "holdout")
        new = lessons.ids("train") | lessons.ids("holdout")
        return Measurements(
            holdout_parent=self.holdout_parent,
            holdout_candidate=holdout,
            retained_parent=self.retained_parent,
            retained_candidate=role_losses(job, base, lessons, "retained"),
            anchor_base=[anchor.loss for anchor in self.anchors.judge],
            anchor_candidate=anchor_losses,
            anchor_divergence=divergences,
            weight_drift=adapter_drift(base.model),
            nonfinite=broken,
            learned_before=job.parent != 0,
            new_examples=len(new),
            contradicting_examples=len(new.intersection(job.contradicting)),
            seed=job.seed,
            mismatch=_mismatch(base, lessons.lessons("holdout"), holdout, job.seed),
            holdout_objectives=[lesson.objective for lesson in lessons.lessons("holdout")],
            retained_objectives=[lesson.objective for lesson in lessons.lessons("retained")],
            retained_ids=[taught.example.id for taught in lessons.by_role["retained"]],
            evidence={"parent": self.parent_evidence.numbers, "candidate": None},
            source_shares=source_shares(job),
            source_limit=source_limit(job),
            ancestors=job.ancestors,
            scale=size,
            tried_scales=tried_scales,
            earlier_looks=job.earlier_looks,
        )

    def with_answers(self, measured: Measurements) -> Measurements:
        """The same with what the candidate in the model answers, in numbers; one that is broken is not asked."""
        if measured.nonfinite:
            return measured
        found = self.answered[measured.scale] = gather(self.base, self.prompts)
        return replace(measured, evidence={**measured.evidence, "candidate": found.numbers})


def _mismatch(base: LoadedBase, lessons: Sequence[Lesson], matched: Sequence[float], seed: int) -> list[float]:
    """For each supervised lesson: the mean loss of its answer after questions of others, less the one that it
    ``matched`` with.

    Few lessons are asked with several others each, which makes up for some of what their number lacks.
    """
    pairs = zip(lessons, matched, strict=True)
    own = [(lesson.sequence, loss) for lesson, loss in pairs if lesson.objective == "supervised"]
    order = random.Random(seed).sample(own, len(own))
    rounds = range(1, min(len(own) - 1, max(1, SWAPPED // max(1, len(own)))) + 1)
    longest = max((len(sequence.ids) for sequence, _ in own), default=0)
    swapped = [
        _after(order[place - away][0], answer, longest) for place, (answer, _) in enumerate(order) for away in rounds
    ]
    if not swapped:
        return []
    mixed = losses(base.model, swapped, base.device)
    means = [fmean(mixed[at : at + len(rounds)]) for at in range(0, len(mixed), len(rounds))]
    return [mean - loss for mean, (_, loss) in zip(means, order, strict=True)]


def _after(question: TokenSequence, answer: TokenSequence, longest: int) -> TokenSequence:
    """The response of ``answer`` after the prompt of ``question``, of which the end is kept if both are too long."""
    response = answer.ids[answer.prompt_length :]
    prompt = question.ids[: question.prompt_length][len(response) - longest :]
    return TokenSequence(prompt + response, len(prompt))


def source_shares(job: Job) -> dict[str, float]:
    """The share of each source of the new examples that the job was given, what was left out later included."""
    counts = Counter(example.source for role in NEW for example in job.having(role))
    return {source: count / counts.total() for source, count in sorted(counts.items())}


def source_limit(job: Job) -> float:
    """The largest share that one source may have: ``learning.min_source_examples`` are allowed in any case."""
    given = sum(len(job.having(role)) for role in NEW)
    return min(1.0, max(job.learning.max_source_share, job.learning.min_source_examples / given))
