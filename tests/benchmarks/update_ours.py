"""Our side: the product's own training loop over the same rows, timed from its first step to its last."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from selflearn.config import LearningSettings
from selflearn.learning.anchors import Anchor
from selflearn.learning.importance import Importance
from selflearn.learning.lessons import Lesson
from selflearn.learning.trainer import Hooks, Material, StepRecord, train
from selflearn.models.adapter import attach_new
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.forward import TokenSequence
from tests.benchmarks.update_peers import Pass, serve

#: Training on the examples alone, as the peers do.
BARE: dict[str, Any] = {"replay_share": 0.0, "kl_weight": 0.0, "ewc_weight": 0.0, "schedule": "constant", "passes": 1}


def material(
    rows: list[TokenSequence], replay: list[TokenSequence], anchors: tuple[Anchor, ...], importance: Importance
) -> Material:
    new, old = ([Lesson("supervised", row) for row in each] for each in (rows, replay))
    return Material(new, old, new[:1], anchors, {}, importance)


class Clock:
    """How long the steps took, from the first one's beginning to the last one's end."""

    def __init__(self) -> None:
        self.started = 0.0
        self.ended = 0.0

    def before_step(self, step: int) -> None:
        if step == 0:
            self.started = time.perf_counter()

    def on_step(self, record: StepRecord) -> None:
        del record
        self.ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.ended - self.started


def seconds_of(base: LoadedBase, pulls: Material, settings: LearningSettings) -> float:
    """One run of the training loop over all of ``pulls.train``."""
    clock = Clock()
    train(base.model, pulls, settings, seed=0, hooks=Hooks(before_step=clock.before_step, on_step=clock.on_step))
    if base.device.type == "cuda":
        torch.cuda.synchronize()
    return clock.seconds


def adapted(base: LoadedBase, rank: int) -> LoadedBase:
    """The base with a new adapter, whatever it had before."""
    from selflearn.models.views import view_of

    view = view_of(base.model)
    attach_new(view, rank=rank, alpha=2.0 * rank, seed=0)
    return replace(base, model=view)


def ours(task: dict[str, Any], rows: list[dict[str, Any]]) -> Pass:
    base = adapted(load_base(Path(task["model"]), device=task["device"], dtype=task["dtype"]), task["rank"])
    sequences = [TokenSequence(tuple(row["ids"]), row["prompt_length"]) for row in rows]
    chosen = {name: task[name] for name in ("batch_size", "rank", "learning_rate")}
    settings = LearningSettings(**{**BARE, **chosen, **task["options"]})
    return lambda: seconds_of(base, material(sequences, [], (), {}), settings)


if __name__ == "__main__":
    serve(ours)
