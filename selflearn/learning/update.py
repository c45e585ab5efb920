"""One update: from a job to a candidate folder and everything measured of it.

It loads the base once and does all with it: it turns examples into lessons, leaves out what cannot be learned, measures
the parent, trains, measures the candidate, and weighs what it learned for the next update.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from selflearn.errors import SelflearnError
from selflearn.experience.signals import CURATED
from selflearn.failpoints import reach
from selflearn.judging.gate import Measurements
from selflearn.judging.measures import losses, nonfinite_tensors, weight_drift
from selflearn.learning.anchors import Anchors, measure_anchors
from selflearn.learning.care.compaction import compact_model, widen_model
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
from selflearn.learning.job import ROLES, Job, JobExample, Role, write_synthetic
from selflearn.learning.lessons import Lesson, measured_losses
from selflearn.learning.outliers import Surprise, find_outliers
from selflearn.learning.penalties import LowRank
from selflearn.learning.preparation import lessons_of
from selflearn.learning.reference import fisher_rows, importance_at_start, reference_of
from selflearn.learning.regularisers import frozen_copy, low_rank
from selflearn.learning.replay import self_replayed, with_parents_teachers
from selflearn.learning.self_edits import self_edits
from selflearn.learning.trainer import Hooks, Look, Material, StepRecord, Trained, train
from selflearn.models.adapter import (
    adapter_state,
    attach_new,
    attach_saved,
    base_weight,
    bias_changes,
    factors,
    lora_layers,
    probe_logits,
    save_adapter,
    scale,
)
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.chat import probe_ids
from selflearn.models.checkpointing import checkpoint_activations
from selflearn.models.quantization import Quantization

IMPORTANCE_FILE = "importance.safetensors"
PROBE_FILE = "probe.safetensors"
SELF_EDITS_FILE = "self_edits.jsonl"
SELF_REPLAY_FILE = "self_replay.jsonl"

Tell = Callable[..., None]
BeforeStep = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class _Taught:
    """An example with its lesson."""

    example: JobExample
    lesson: Lesson


@dataclass(frozen=True, slots=True)
class _Lessons:
    """The job's examples as lessons, by role.

    ``extra`` are lessons that train besides, by the id of their example and its role. ``left_out`` says which examples
    neither train nor judge, and why; ``notes`` what else was made of them.
    """

    by_role: Mapping[Role, Sequence[_Taught]]
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


@dataclass(frozen=True, slots=True)
class _Start:
    """Where training starts from: the anchors, the parent (empty: the base), the importance of the weights there, and
    how many rows stay as they are."""

    anchors: Anchors
    reference: dict[str, LowRank]
    importance: Importance
    frozen_rows: int


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
    lessons = _without_outliers(job, base, _prepared(job, base, candidate))
    parent = [_losses(job, base, lessons, role) for role in ("holdout", "retained")]
    start = _start(job, base, anchors, importance, lessons)
    trained = _train(job, base, lessons, start, tell, before_step)
    compacts = job.learning.keep_energy < 1.0 and trained.stopped != "not finite"
    compaction = compact_model(base.model, job.learning.keep_energy) if compacts else None
    tell("measuring", of="candidate")
    measured = _measure(job, base, lessons, anchors, parent, trained)
    _save_candidate(base, candidate, trained)
    if not measured.nonfinite:
        _save_probe(job, base, candidate)
        tell("importance", of="candidate")
        _save_importance(job, base, lessons, start, candidate)
    return {
        "measurements": measured.as_dict(),
        "training": {**_summary(trained), "compaction": None if compaction is None else compaction.as_dict()},
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


def _prepared(job: Job, base: LoadedBase, candidate: Path) -> _Lessons:
    """All lessons of the job, the parent's own and the base's restatements among them."""
    given = [example for role in ROLES for example in job.having(role)]
    edits = self_edits(base, given, job.learning, job.seed)
    write_synthetic(edits.examples, candidate / SELF_EDITS_FILE)
    asked = job.learning.self_replay if job.parent else 0  # what the base would say is what KL keeps already
    replayed = self_replayed(base, job.having("replay"), asked, job.seed)
    write_synthetic(replayed, candidate / SELF_REPLAY_FILE)
    found = lessons_of(base, [*given, *edits.examples, *replayed], job.learning)
    by_role = {
        role: [_Taught(one, found.main[one.id]) for one in job.having(role) if one.id in found.main] for role in ROLES
    }
    if not by_role["train"] or not by_role["holdout"]:
        raise SelflearnError(_nothing_left(by_role, [asdict(one) for one in found.left_out]))
    return _Lessons(
        by_role,
        [(extra.id, extra.role, extra.lesson) for extra in found.extra],
        [asdict(one) for one in found.left_out],
        {
            "self_edits": {"drawn": edits.drawn, "kept": len(edits.examples)},
            "self_replayed": len(replayed),
            "without_extra": [asdict(one) for one in found.without_extra],
        },
    )


def _nothing_left(by_role: Mapping[Role, Sequence[_Taught]], left_out: Sequence[Mapping[str, Any]]) -> str:
    side = "trains" if not by_role["train"] else "judges"
    reasons = sorted({str(row["detail"]) for row in left_out})
    told = f": {reasons[0]}" if reasons else ""
    return f"No example is left that {side}{told} ({len(left_out)} were left out). Mend them or raise the limit."


def _without_outliers(job: Job, base: LoadedBase, lessons: _Lessons) -> _Lessons:
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


def _surprises(base: LoadedBase, examples: Sequence[_Taught]) -> list[Surprise]:
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


def _losses(job: Job, base: LoadedBase, lessons: _Lessons, role: Role) -> list[float]:
    return measured_losses(base.model, lessons.lessons(role), job.learning, base.device)


def _start(job: Job, base: LoadedBase, anchors: Anchors, importance: Importance, lessons: _Lessons) -> _Start:
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
    return _Start(anchors, reference, known, frozen_rows)


# Training


def _train(
    job: Job, base: LoadedBase, lessons: _Lessons, start: _Start, tell: Tell, before_step: BeforeStep
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


def _measure(
    job: Job,
    base: LoadedBase,
    lessons: _Lessons,
    anchors: Anchors,
    parent: Sequence[list[float]],
    trained: Trained,
) -> Measurements:
    broken = nonfinite_tensors(adapter_state(base.model))
    if trained.stopped == "not finite" and not broken:  # an infinite norm clips the step to nothing
        broken = ["a loss or gradient in training"]
    anchor_losses, divergences = measure_anchors(base, anchors.judge)
    layers = lora_layers(base.model)
    new = lessons.ids("train") | lessons.ids("holdout")
    deltas = {name: (*factors(layer), scale(layer)) for name, layer in layers.items()}
    weights = {name: base_weight(layer) for name, layer in layers.items()}
    return Measurements(
        holdout_parent=parent[0],
        holdout_candidate=_losses(job, base, lessons, "holdout"),
        retained_parent=parent[1],
        retained_candidate=_losses(job, base, lessons, "retained"),
        anchor_base=[anchor.loss for anchor in anchors.judge],
        anchor_candidate=anchor_losses,
        anchor_divergence=divergences,
        weight_drift=weight_drift(deltas, weights, bias_changes(base.model)),
        nonfinite=broken,
        learned_before=job.parent != 0,
        new_examples=len(new),
        contradicting_examples=len(new.intersection(job.contradicting)),
        seed=job.seed,
    )


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


def _save_importance(job: Job, base: LoadedBase, lessons: _Lessons, start: _Start, directory: Path) -> None:
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
