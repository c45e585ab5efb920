"""The training loop of one update.

It knows a model with a trainable adapter, token sequences, and three pulls: towards the new examples (with replayed
old ones among them), towards the base model's behaviour on the anchors (KL), and towards the parent's weights where
they matter (EWC). It does not know files, versions or verdicts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selflearn.config import LearningSettings
from selflearn.judging.measures import losses
from selflearn.learning.anchors import Anchor, stacked_teacher
from selflearn.learning.importance import Importance
from selflearn.learning.objectives import supervised, top_k_divergence
from selflearn.learning.penalties import LowRank, penalty
from selflearn.learning.schedule import warmup_cosine
from selflearn.models.adapter import adapter_state, factors, lora_layers, scale
from selflearn.models.forward import TokenSequence, collate, response_logits

ADAM_BETAS = (0.9, 0.99)


@dataclass(frozen=True, slots=True)
class Material:
    """What one update trains on, already as tokens. ``reference`` and ``importance`` are the parent's."""

    train: Sequence[TokenSequence]
    replay: Sequence[TokenSequence]
    holdout: Sequence[TokenSequence]
    anchors: Sequence[Anchor]
    reference: dict[str, LowRank]
    importance: Importance


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step: losses in nats per token, the penalty as added to the loss, and the gradient norm before clipping."""

    step: int
    steps: int
    learning_rate: float
    loss: float
    kl: float
    ewc: float
    gradient_norm: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Look:
    """One look between passes: the mean loss of the fresh holdout and the mean KL of the pass, in nats per token.

    ``objective`` is what the looks are compared by: what training pulls towards, on examples that it does not see.
    Without the KL the best look would be the hottest one, where the rate is highest and the base model is farthest.
    """

    step: int
    holdout_loss: float
    kl: float
    objective: float


@dataclass(frozen=True, slots=True)
class Trained:
    """How the loop ended: ``stopped`` is 'finished', 'early' or 'not finite'."""

    stopped: str
    steps: int
    best_step: int
    looks: tuple[Look, ...]
    records: tuple[StepRecord, ...]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def low_rank(model: PreTrainedModel) -> dict[str, LowRank]:
    """The live adapter of each layer, differentiable."""
    return {name: LowRank(*factors(layer), scale(layer)) for name, layer in lora_layers(model).items()}


def frozen_copy(layers: dict[str, LowRank]) -> dict[str, LowRank]:
    """The same numbers, detached and unshared: a reference for the penalty."""
    return {n: LowRank(layer.a.detach().clone(), layer.b.detach().clone(), layer.scale) for n, layer in layers.items()}


def train(
    model: PreTrainedModel,
    material: Material,
    settings: LearningSettings,
    *,
    seed: int,
    on_step: Callable[[StepRecord], None] = lambda record: None,
    on_look: Callable[[Look], None] = lambda look: None,
) -> Trained:
    """Trains the adapter in ``model`` in place and leaves the weights of the best look at the holdout in it.

    Stops early when ``settings.patience`` looks in a row brought no improvement, and at once when a loss or gradient
    is not finite (the weights then show it, and the gate refuses them). Deterministic by ``seed`` on one machine.
    """
    loop = _Loop(model, material, settings, random.Random(seed))
    stopped = "finished"
    for step in range(loop.steps):
        record = loop.step(step)
        on_step(record)
        if not math.isfinite(record.loss + record.gradient_norm):
            return loop.ended("not finite", step + 1, restore=False)
        if (step + 1) % loop.steps_per_pass == 0:
            on_look(loop.look(step + 1))
            if loop.out_of_patience():
                stopped = "early"
                break
    return loop.ended(stopped, step + 1, restore=True)


class _Loop:
    def __init__(
        self, model: PreTrainedModel, material: Material, settings: LearningSettings, order: random.Random
    ) -> None:
        self.model, self.material, self.settings, self.order = model, material, settings, order
        self.device = model.device
        self.adapter = low_rank(model)
        self.parameters = [factor for layer in self.adapter.values() for factor in (layer.a, layer.b)]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, betas=ADAM_BETAS, weight_decay=settings.weight_decay
        )
        self.steps_per_pass = math.ceil(len(material.train) / settings.batch_size)
        self.steps = self.steps_per_pass * settings.passes
        self.train_queue = _Shuffled(len(material.train), order)
        self.replay_queue = _Shuffled(len(material.replay), order)
        self.anchor_queue = _Shuffled(len(material.anchors), order)
        self.looks: list[Look] = []
        self.records: list[StepRecord] = []
        self.best: dict[str, Tensor] | None = None

    def step(self, step: int) -> StepRecord:
        rate = self.settings.learning_rate * warmup_cosine(step, self.steps, self.settings.warmup_share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss, tokens = self._pull_of_examples()
        kl = self._pull_of_anchors()
        ewc = self._pull_of_parent()
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_gradient_norm))
        self.optimizer.step()
        record = StepRecord(step + 1, self.steps, rate, loss, kl, ewc, norm, tokens)
        self.records.append(record)
        return record

    def _pull_of_examples(self) -> tuple[float, int]:
        fresh = self.train_queue.next(min(self.settings.batch_size, len(self.material.train)))
        replayed = self.replay_queue.next(round(self.settings.replay_share * len(fresh)))
        rows = [self.material.train[i] for i in fresh] + [self.material.replay[i] for i in replayed]
        batch = collate(rows, self.device)
        loss = supervised(response_logits(self.model, batch), batch.targets)
        loss.backward()
        return float(loss.detach()), int(batch.attention_mask.sum())

    def _pull_of_anchors(self) -> float:
        if self.settings.kl_weight == 0.0 or self.settings.anchor_batch == 0:
            return 0.0
        anchors = [self.material.anchors[i] for i in self.anchor_queue.next(self.settings.anchor_batch)]
        if not anchors:
            return 0.0
        batch = collate([anchor.sequence for anchor in anchors], self.device)
        teacher = stacked_teacher(anchors, batch.targets.shape[1], self.device)
        divergence = top_k_divergence(response_logits(self.model, batch), *teacher)
        kl = divergence[batch.mask].mean()
        (self.settings.kl_weight * kl).backward()
        return float(kl.detach())

    def _pull_of_parent(self) -> float:
        if self.settings.ewc_weight == 0.0:
            return 0.0
        cost = penalty(self.adapter, self.material.reference, self.material.importance, self.settings.ewc_weight)
        cost.backward()
        return float(cost.detach())

    def look(self, step: int) -> Look:
        measured = losses(self.model, self.material.holdout, self.device)
        holdout_loss = sum(measured) / len(measured)
        kl = sum(record.kl for record in self.records[-self.steps_per_pass :]) / self.steps_per_pass
        look = Look(step, holdout_loss, kl, holdout_loss + self.settings.kl_weight * kl)
        if not self.looks or look.objective < min(before.objective for before in self.looks):
            self.best = {name: tensor.clone() for name, tensor in adapter_state(self.model).items()}
        self.looks.append(look)
        return look

    def out_of_patience(self) -> bool:
        return len(self.looks) - 1 - self._best_look() >= self.settings.patience

    def _best_look(self) -> int:
        return min(range(len(self.looks)), key=lambda index: self.looks[index].objective)

    def ended(self, stopped: str, steps: int, *, restore: bool) -> Trained:
        self.model.zero_grad(set_to_none=True)
        best_step = steps
        if restore and self.best is not None:
            best_step = self.looks[self._best_look()].step
            for name, tensor in adapter_state(self.model).items():
                tensor.copy_(self.best[name])
        return Trained(stopped, steps, best_step, tuple(self.looks), tuple(self.records))


class _Shuffled:
    """Endless passes over ``count`` indices, each pass in a new order."""

    def __init__(self, count: int, order: random.Random) -> None:
        self._count, self._order = count, order
        self._waiting: list[int] = []

    def next(self, wanted: int) -> list[int]:
        if self._count == 0:
            return []
        while len(self._waiting) < wanted:
            self._waiting += self._order.sample(range(self._count), self._count)
        taken, self._waiting = self._waiting[:wanted], self._waiting[wanted:]
        return taken
