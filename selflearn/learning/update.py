"""One update: from a job to a candidate folder and everything measured of it.

It loads the base once and does all with it: it turns examples into lessons, leaves out what cannot be learned, measures
the parent, trains, measures the candidate, and weighs what it learned for the next update.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from selflearn.failpoints import reach
from selflearn.judging.gate import Limits, Verdict, decide
from selflearn.judging.measurements import Measurements
from selflearn.learning.anchors import Anchors
from selflearn.learning.care.compaction import Compaction, compact_model, widen_model
from selflearn.learning.evidence import write_answers
from selflearn.learning.growth import grow
from selflearn.learning.importance import (
    Importance,
    accumulated,
    covers,
    estimate,
    load_importance,
    normalised,
    save_importance,
)
from selflearn.learning.job import Job
from selflearn.learning.job_lessons import JobLessons, prepared, without_outliers
from selflearn.learning.measuring import Measuring
from selflearn.learning.penalties import LowRank
from selflearn.learning.reference import fisher_rows, importance_at_start, reference_of
from selflearn.learning.regularisers import frozen_copy, low_rank
from selflearn.learning.replay import with_parents_teachers
from selflearn.learning.scaling import Step, Tried, bisect, largest_promoted, only_too_far
from selflearn.learning.trainer import Hooks, Look, Material, StepRecord, Trained, train
from selflearn.models.adapter import attach_new, attach_saved, probe_logits, save_adapter
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.chat import probe_ids
from selflearn.models.checkpointing import checkpoint_activations
from selflearn.models.quantization import Quantization

IMPORTANCE_FILE = "importance.safetensors"
PROBE_FILE = "probe.safetensors"

Tell = Callable[..., None]
BeforeStep = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class _Start:
    """Where training starts from: the anchors, the parent (empty: the base), the importance of the weights there, how
    many rows stay as they are, and the adapter as training finds it."""

    anchors: Anchors
    reference: dict[str, LowRank]
    importance: Importance
    frozen_rows: int
    adapter: dict[str, LowRank]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """What was measured of the candidate, and what its compaction made of it, if it was compacted."""

    measured: Measurements
    compaction: Compaction | None


def run(job: Job, folder: Path, tell: Tell, before_step: BeforeStep = lambda step: None) -> dict[str, Any]:
    """Carries out ``job`` and returns the report; the candidate is in ``folder / 'candidate'``.

    ``before_step`` is called before each training step with the number of those that were done, and may block.
    """
    started = time.monotonic()
    tell("loading")
    base = _base(job, job.learning.quantization)
    anchors, importance = reference_of(base, Path(job.cache_directory), lambda step, share: tell(step, share=share))
    _attach(job, base)
    candidate = folder / "candidate"
    candidate.mkdir(parents=True)
    tell("measuring", of="parent")
    lessons = without_outliers(job, base, prepared(job, base, candidate))
    measuring = Measuring.of_parent(job, base, lessons, anchors)
    start = _start(job, base, anchors, importance, lessons)
    trained = _train(job, base, lessons, start, tell, before_step)
    kept, tried = _sized(measuring, start, trained, tell)
    _save_candidate(base, candidate, trained)
    if (answered := measuring.answered.get(kept.measured.scale)) is not None:
        write_answers(candidate, measuring.prompts, measuring.parent_evidence, answered)
    if not kept.measured.nonfinite:
        _save_probe(job, base, candidate)
        tell("importance", of="candidate")
        _save_importance(job, base, lessons, start, candidate)
    return {
        "measurements": kept.measured.as_dict(),
        "tried": [each.as_dict() for each in tried],
        "training": {**_summary(trained), "compaction": kept.compaction and kept.compaction.as_dict()},
        "left_out": list(lessons.left_out),
        **lessons.notes,
        "seconds": time.monotonic() - started,
        "base_sha256": base.sha256,
        "device": str(base.device),
        "threads": torch.get_num_threads(),
    }


def _base(job: Job, quantization: Quantization) -> LoadedBase:
    return load_base(Path(job.model_directory), device=job.device, dtype=job.dtype, quantization=quantization)


# Before training


def _attach(job: Job, base: LoadedBase) -> None:
    """The candidate starts as its parent; over the base it starts as a new adapter that changes nothing yet."""
    settings = job.learning
    if job.parent_directory is None:
        attach_new(base.model, rank=settings.rank, alpha=settings.alpha, seed=job.seed, biases=settings.biases)
    else:
        attach_saved(base.model, Path(job.parent_directory), trainable=True, biases=settings.biases)
        if settings.keep_energy < 1.0 and settings.orthogonal_weight == 0.0:  # else it grows anyway
            widen_model(base.model, settings.rank, seed=job.seed)


def _start(job: Job, base: LoadedBase, anchors: Anchors, importance: Importance, lessons: JobLessons) -> _Start:
    """Makes the model ready to train; an orthogonal update gets rows of its own beside those of its parent."""
    settings, frozen_rows = job.learning, 0
    reference: dict[str, LowRank] = {}
    if job.parent_directory is not None:
        reference = frozen_copy(low_rank(base.model))
        importance = load_importance(Path(job.parent_directory) / IMPORTANCE_FILE, base.device)
        if settings.orthogonal_weight > 0.0:
            frozen_rows = grow(base.model, rank=settings.rank, max_rank=settings.max_rank, seed=job.seed)
    if settings.gradient_checkpointing:
        checkpoint_activations(base.model)
    past = [lesson.sequence for lesson in lessons.lessons("replay")]
    rows = fisher_rows(past, [anchor.sequence for anchor in anchors.train], settings.fisher_sequences)
    known = importance_at_start(base, low_rank(base.model), settings, importance, rows, job.seed)
    return _Start(anchors, reference, known, frozen_rows, frozen_copy(low_rank(base.model)))


# Training


def _train(
    job: Job, base: LoadedBase, lessons: JobLessons, start: _Start, tell: Tell, before_step: BeforeStep
) -> Trained:
    material = Material(
        train=lessons.lessons("train"),
        replay=with_parents_teachers(base, lessons.lessons("replay"), job.learning),
        holdout=lessons.lessons("holdout"),
        anchors=start.anchors.train,
        reference=start.reference,
        importance=normalised(start.importance),
        frozen_rows=start.frozen_rows,
    )

    def on_step(record: StepRecord) -> None:
        tell("training", **asdict(record))
        if record.step == 2:
            reach("mid-training")

    def on_look(look: Look) -> None:
        tell("training", step=look.step, holdout_loss=look.holdout_loss)

    hooks = Hooks(before_step, on_step, on_look)
    return train(base.model, material, job.learning, seed=job.seed, rate_factor=job.rate_factor, hooks=hooks)


# After training


def _sized(measuring: Measuring, start: _Start, trained: Trained, tell: Tell) -> tuple[_Candidate, list[Tried]]:
    """Measures the candidate and, if it only goes too far, smaller ones; the one that is kept is in the model then.

    That is the largest which the gate lets through, else the whole. Says in which sizes it was judged.
    """
    job, base, limits = measuring.job, measuring.base, Limits.of(measuring.job.judging)
    end = frozen_copy(low_rank(base.model))
    step = Step(start.adapter, end) if job.parent else Step.from_base(end)
    candidates: dict[float, _Candidate] = {}

    def judged(size: float) -> Verdict:
        tell("measuring", of="candidate", size=size)
        compaction = _resize(job, base, step, size, trained)
        # A part that passes is one of several that were looked at, the whole is not: it is taken if it passes.
        looks = 1 if size == whole else 1 + job.judging.scale_steps
        measured = measuring.candidate(trained.stopped, size=size, tried_scales=looks)
        if size == whole or decide(measured, limits).outcome != "refuse":  # what is refused anyway need not answer
            measured = measuring.with_answers(measured)
        candidates[size] = _Candidate(measured, compaction)
        return decide(measured, limits)

    whole = 1.0 if job.scale is None else job.scale
    tried = [Tried(whole, judged(whole))]
    if job.scale is None and only_too_far(tried[0].verdict, job.judging.min_holdout):
        tried += bisect(judged, job.judging.scale_steps)
    size = largest_promoted(tried) or whole
    if size != tried[-1].scale:
        _resize(job, base, step, size, trained)
    return candidates[size], tried


def _resize(job: Job, base: LoadedBase, step: Step, size: float, trained: Trained) -> Compaction | None:
    """Puts a part of the step into the model, compacted if that is asked for."""
    step.take(base.model, size)
    compacts = job.learning.keep_energy < 1.0 and trained.stopped != "not finite"
    return compact_model(base.model, job.learning.keep_energy) if compacts else None


def _save_candidate(base: LoadedBase, directory: Path, trained: Trained) -> None:
    save_adapter(base.model, directory)
    curve = [asdict(record) for record in trained.records] + [asdict(look) for look in trained.looks]
    lines = [json.dumps(row) for row in curve]
    (directory / "training.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _save_probe(job: Job, base: LoadedBase, directory: Path) -> None:
    """What the candidate says to the probe on the base that serves, which is not quantised."""
    if base.quantization != "none":
        base = _base(job, "none")
        attach_saved(base.model, directory)
    save_file({"logits": probe_logits(base.model, probe_ids(base.tokenizer))}, directory / PROBE_FILE)


def _save_importance(job: Job, base: LoadedBase, lessons: JobLessons, start: _Start, directory: Path) -> None:
    """F ← γF + F_new, taken where the candidate is now: half on what it learned and replayed, half on the anchors."""
    settings = job.learning
    learned = [lesson.sequence for role in ("train", "replay") for lesson in lessons.lessons(role)]
    rows = fisher_rows(learned, [anchor.sequence for anchor in start.anchors.train], settings.fisher_sequences)
    generator = torch.Generator().manual_seed(job.seed)
    new = normalised(estimate(base.model, rows, kind=settings.ewc, device=base.device, generator=generator))
    before = start.importance if covers(start.importance, settings.ewc, low_rank(base.model)) else None
    save_importance(accumulated(before, new, settings.fisher_decay), directory / IMPORTANCE_FILE)


def _summary(trained: Trained) -> dict[str, Any]:
    """The curve, thinned for the report; every step is in the candidate's training.jsonl."""
    last = trained.records[-1]
    return {
        "stopped": trained.stopped,
        "steps": trained.steps,
        "best_step": trained.best_step,
        "batch_tokens": trained.batch_tokens,
        "loss": last.loss,
        "kl": last.kl,
        "ewc": last.ewc,
        "ewc_ratio": last.ewc / last.loss if last.loss else None,
        "tokens": sum(record.tokens for record in trained.records),
        "looks": [asdict(look) for look in trained.looks],
    }
