"""One update: from a job to a candidate folder and everything measured of it.

It loads the base once and does all with it: it leaves out what cannot be learned, measures the parent, trains, measures
the candidate, and weighs what it learned for the next update.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from selflearn.errors import SelflearnError
from selflearn.failpoints import reach
from selflearn.judging.gate import Measurements
from selflearn.judging.measures import losses, nonfinite_tensors, weight_drift
from selflearn.learning.anchors import Anchor, Anchors, stacked_teacher
from selflearn.learning.importance import (
    Importance,
    accumulated,
    estimate,
    load_importance,
    normalised,
    save_importance,
)
from selflearn.learning.job import ROLES, Job, JobExample, Role
from selflearn.learning.objectives import top_k_divergence
from selflearn.learning.outliers import Surprise, find_outliers
from selflearn.learning.reference import reference_of
from selflearn.learning.trainer import Look, Material, StepRecord, Trained, frozen_copy, low_rank, train
from selflearn.models.adapter import (
    adapter_state,
    attach_new,
    attach_saved,
    base_weight,
    factors,
    lora_layers,
    probe_logits,
    save_adapter,
    scale,
)
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.chat import encode_example, probe_ids
from selflearn.models.forward import TokenSequence, collate, in_batches, response_logits, token_losses

IMPORTANCE_FILE = "importance.safetensors"
PROBE_FILE = "probe.safetensors"
MEASURE_BATCH = 16

Tell = Callable[..., None]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """An example with its tokens."""

    example: JobExample
    tokens: TokenSequence


@dataclass(frozen=True, slots=True)
class _Material:
    """The job's examples as tokens, by role; ``left_out`` says which neither train nor judge, and why."""

    by_role: Mapping[Role, Sequence[_Encoded]]
    left_out: Sequence[Mapping[str, Any]]

    def tokens(self, role: Role) -> list[TokenSequence]:
        return [encoded.tokens for encoded in self.by_role[role]]

    def ids(self, role: Role) -> set[int]:
        return {encoded.example.id for encoded in self.by_role[role]}


def run(job: Job, folder: Path, tell: Tell) -> dict[str, Any]:
    """Carries out ``job`` and returns the report; the candidate is in ``folder / 'candidate'``."""
    started = time.monotonic()
    tell("loading")
    base = load_base(Path(job.model_directory), device=job.device, dtype=job.dtype)
    material = _encoded(job, base)
    anchors, importance = reference_of(base, Path(job.cache_directory), lambda step, share: tell(step, share=share))
    if job.parent_directory is not None:
        importance = load_importance(Path(job.parent_directory) / IMPORTANCE_FILE, base.device)
    _attach(job, base)
    tell("measuring", of="parent")
    material = _without_outliers(job, base, material)
    parent = [losses(base.model, material.tokens(role), base.device) for role in ("holdout", "retained")]
    trained = _train(job, base, material, anchors, importance, tell)
    tell("measuring", of="candidate")
    measured = _measure(job, base, material, anchors, parent)
    _save_candidate(job, base, folder / "candidate", trained, bool(measured.nonfinite))
    if not measured.nonfinite:
        _save_importance(job, base, material, anchors, importance, folder / "candidate", tell)
    return {
        "measurements": measured.as_dict(),
        "training": _summary(trained),
        "left_out": list(material.left_out),
        "seconds": time.monotonic() - started,
        "base_sha256": base.sha256,
        "device": str(base.device),
        "threads": torch.get_num_threads(),
    }


def _encoded(job: Job, base: LoadedBase) -> _Material:
    by_role: dict[Role, list[_Encoded]] = {role: [] for role in ROLES}
    left_out: list[dict[str, Any]] = []
    for role, rows in by_role.items():
        for example in job.having(role):
            sequence = _sequence(base, example)
            if len(sequence.ids) > job.learning.max_length:
                left_out.append({"id": example.id, "role": role, "reason": "too_long", "tokens": len(sequence.ids)})
            else:
                rows.append(_Encoded(example, sequence))
    if not by_role["train"] or not by_role["holdout"]:
        raise SelflearnError(
            f"All examples of one side are longer than {job.learning.max_length} tokens. Raise learning.max_length."
        )
    return _Material(by_role, left_out)


def _without_outliers(job: Job, base: LoadedBase, material: _Material) -> _Material:
    """Leaves out the new examples that surprise the parent far more than their likes.

    Those that would judge as well: what cannot be learned must not block an update, nor carry it through the gate.
    This is decided on the parent's loss alone, before the first step, so it cannot favour the candidate. One example
    stays to train and ``judging.min_holdout`` to judge, whatever they look like.
    """
    spare = {"train": len(material.by_role["train"]) - 1}
    spare["holdout"] = len(material.by_role["holdout"]) - job.judging.min_holdout
    new = {encoded.example.id: encoded for role in ("train", "holdout") for encoded in material.by_role[role]}
    found: list[dict[str, Any]] = []
    for outlier in find_outliers(_surprises(base, list(new.values())), job.learning.outlier_limit):
        role = new[outlier.id].example.role
        if spare[role] > 0:
            spare[role] -= 1
            found.append({"role": role, "reason": "outlier", **asdict(outlier)})
    gone = {row["id"] for row in found}
    kept = {role: [e for e in rows if e.example.id not in gone] for role, rows in material.by_role.items()}
    return _Material(kept, [*material.left_out, *found])


def _surprises(base: LoadedBase, examples: Sequence[_Encoded]) -> list[Surprise]:
    per_token = losses(base.model, [encoded.tokens for encoded in examples], base.device)
    return [
        Surprise(
            id=encoded.example.id,
            source=encoded.example.source,
            nats=loss * encoded.tokens.response_length,
            tokens=encoded.tokens.response_length,
            bytes=len(encoded.example.target.encode("utf-8")) + 1,  # the end of the answer counts, as its token does
            exempt=encoded.example.vouched,
        )
        for encoded, loss in zip(examples, per_token, strict=True)
    ]


def _sequence(base: LoadedBase, example: JobExample) -> TokenSequence:
    ids, prompt_length = encode_example(base.tokenizer, example.messages, example.target)
    return TokenSequence(tuple(ids), prompt_length)


def _attach(job: Job, base: LoadedBase) -> None:
    """The candidate starts as its parent; over the base it starts as a new adapter that changes nothing yet."""
    if job.parent_directory is None:
        attach_new(base.model, rank=job.learning.rank, alpha=job.learning.alpha, seed=job.seed)
    else:
        attach_saved(base.model, Path(job.parent_directory), trainable=True)


def _train(
    job: Job, base: LoadedBase, material: _Material, anchors: Anchors, importance: Importance, tell: Tell
) -> Trained:
    reference = {} if job.parent_directory is None else frozen_copy(low_rank(base.model))
    train_rows, replay, holdout = (material.tokens(role) for role in ("train", "replay", "holdout"))
    pulls = Material(train_rows, replay, holdout, anchors.train, reference, normalised(importance))

    def on_step(record: StepRecord) -> None:
        tell("training", **asdict(record))
        if record.step == 2:
            reach("mid-training")

    def on_look(look: Look) -> None:
        tell("training", step=look.step, holdout_loss=look.holdout_loss)

    return train(base.model, pulls, job.learning, seed=job.seed, on_step=on_step, on_look=on_look)


def _measure(
    job: Job, base: LoadedBase, material: _Material, anchors: Anchors, parent: Sequence[list[float]]
) -> Measurements:
    anchor_losses, divergences = measure_anchors(base, anchors.judge)
    layers = lora_layers(base.model)
    new = material.ids("train") | material.ids("holdout")
    deltas = {name: (*factors(layer), scale(layer)) for name, layer in layers.items()}
    return Measurements(
        holdout_parent=parent[0],
        holdout_candidate=losses(base.model, material.tokens("holdout"), base.device),
        retained_parent=parent[1],
        retained_candidate=losses(base.model, material.tokens("retained"), base.device),
        anchor_base=[anchor.loss for anchor in anchors.judge],
        anchor_candidate=anchor_losses,
        anchor_divergence=divergences,
        weight_drift=weight_drift(deltas, {name: base_weight(layer) for name, layer in layers.items()}),
        nonfinite=nonfinite_tensors(adapter_state(base.model)),
        learned_before=job.parent != 0,
        new_examples=len(new),
        contradicting_examples=len(new.intersection(job.contradicting)),
        seed=job.seed,
    )


@torch.no_grad()
def measure_anchors(base: LoadedBase, anchors: Sequence[Anchor]) -> tuple[list[float], list[float]]:
    """For each anchor's answer the model's loss and KL(base || model), both in mean nats per token."""
    measured = [(0.0, 0.0)] * len(anchors)
    for indices in in_batches([anchor.sequence for anchor in anchors], MEASURE_BATCH):
        rows = [anchors[index] for index in indices]
        batch = collate([anchor.sequence for anchor in rows], base.device)
        logits = response_logits(base.model, batch)
        teacher = stacked_teacher(rows, batch.targets.shape[1], base.device)
        divergence = top_k_divergence(logits, *teacher).masked_fill(~batch.mask, 0.0)
        per_token = torch.stack([token_losses(logits, batch.targets), divergence])
        means = per_token.sum(dim=2) / batch.mask.sum(dim=1)
        for index, loss, kl in zip(indices, *means.tolist(), strict=True):
            measured[index] = (loss, kl)
    return [loss for loss, _ in measured], [kl for _, kl in measured]


def _save_candidate(job: Job, base: LoadedBase, directory: Path, trained: Trained, broken: bool) -> None:
    directory.mkdir(parents=True)
    save_adapter(base.model, directory)
    if not broken:
        save_file({"logits": probe_logits(base.model, probe_ids(base.tokenizer))}, directory / PROBE_FILE)
    curve = [asdict(record) for record in trained.records] + [asdict(look) for look in trained.looks]
    lines = [json.dumps(row) for row in curve]
    (directory / "training.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _save_importance(
    job: Job,
    base: LoadedBase,
    material: _Material,
    anchors: Anchors,
    before: Importance,
    directory: Path,
    tell: Tell,
) -> None:
    """F ← γF + F_new, taken where the candidate is now: half on what it learned and replayed, half on the anchors."""
    tell("importance", of="candidate")
    half = max(1, job.learning.fisher_sequences // 2)
    learned = [*material.tokens("train"), *material.tokens("replay")]
    rows = learned[-half:] + [anchor.sequence for anchor in anchors.train[:half]]
    generator = torch.Generator().manual_seed(job.seed)
    new = normalised(estimate(base.model, rows, device=base.device, generator=generator))
    save_importance(accumulated(before, new, job.learning.fisher_decay), directory / IMPORTANCE_FILE)


def _summary(trained: Trained) -> dict[str, Any]:
    """The curve, thinned for the report; every step is in the candidate's training.jsonl."""
    last = trained.records[-1]
    return {
        "stopped": trained.stopped,
        "steps": trained.steps,
        "best_step": trained.best_step,
        "loss": last.loss,
        "kl": last.kl,
        "ewc": last.ewc,
        "ewc_ratio": last.ewc / last.loss if last.loss else None,
        "tokens": sum(record.tokens for record in trained.records),
        "looks": [asdict(look) for look in trained.looks],
    }
