"""The training loop of one update.

It knows a model with a trainable adapter, lessons, and what pulls on the weights besides: towards the base model's
behaviour on the anchors (KL), and towards the parent's weights where they matter (:mod:`.regularisers`). It does not
know files, versions or verdicts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selflearn.config import LearningSettings
from selflearn.learning.anchors import Anchor
from selflearn.learning.growth import hold_rows
from selflearn.learning.importance import Importance
from selflearn.learning.lessons import Lesson, lesson_losses, lesson_weights, measured_losses, rows_of
from selflearn.learning.memory import is_out_of_memory
from selflearn.learning.optimizers import make_optimizer, set_rate
from selflearn.learning.penalties import LowRank
from selflearn.learning.regularisers import SlowWeights, low_rank, weight_pulls
from selflearn.learning.schedule import make_schedule
from selflearn.models.adapter import adapter_state
from selflearn.models.forward import under_budget


@dataclass(frozen=True, slots=True)
class Material:
    """What one update trains on, already as tokens. ``reference`` and ``importance`` are the parent's.

    ``train`` are the new lessons, ``replay`` the old ones among them, ``holdout`` those that only judge. The first
    ``frozen_rows`` rows of every A stay as they are.
    """

    train: Sequence[Lesson]
    replay: Sequence[Lesson]
    holdout: Sequence[Lesson]
    anchors: Sequence[Anchor]
    reference: dict[str, LowRank]
    importance: Importance
    frozen_rows: int = 0


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step: losses in nats, the pulls on the weights as added to the loss, the gradient norm before clipping.

    ``tokens`` went through the model, ``ewc`` is its part of ``penalties``.
    """

    step: int
    steps: int
    learning_rate: float
    loss: float
    kl: float
    ewc: float
    gradient_norm: float
    tokens: int
    penalties: dict[str, float] = field(default_factory=dict)


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
    """How the loop ended: ``stopped`` is 'finished', 'early' or 'not finite'.

    ``batch_tokens`` is what was computed at once in the end: less than the setting if memory ran out.
    """

    stopped: str
    steps: int
    best_step: int
    batch_tokens: int
    looks: tuple[Look, ...]
    records: tuple[StepRecord, ...]


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the loop tells, and where it may be held: ``before_step`` may block, and nothing is lost by it."""

    before_step: Callable[[int], None] = lambda step: None
    on_step: Callable[[StepRecord], None] = lambda record: None
    on_look: Callable[[Look], None] = lambda look: None


def train(
    model: PreTrainedModel,
    material: Material,
    settings: LearningSettings,
    *,
    seed: int,
    rate_factor: float = 1.0,
    hooks: Hooks | None = None,
) -> Trained:
    """Trains the adapter in ``model`` in place and leaves the weights of the best look at the holdout in it.

    Stops early when ``settings.patience`` looks in a row brought no improvement, and at once when a loss or gradient
    is not finite (the gate then refuses what came of it). ``rate_factor`` scales every learning rate.
    Deterministic by ``seed`` on one machine.
    """
    hooks = hooks or Hooks()
    loop = _Loop(model, material, settings, random.Random(seed), rate_factor)
    stopped = "finished"
    for step in range(loop.steps):
        hooks.before_step(step)
        record = loop.step(step)
        hooks.on_step(record)
        if not math.isfinite(record.loss + record.gradient_norm):
            return loop.ended("not finite", step + 1, restore=False)
        if (step + 1) % loop.steps_per_pass == 0:
            hooks.on_look(loop.look(step + 1))
            if loop.out_of_patience():
                stopped = "early"
                break
    return loop.ended(stopped, step + 1, restore=True)


@dataclass(frozen=True, slots=True)
class _Weighted:
    """A lesson with its share of a step's loss. ``is_anchor`` says which of the two sums it counts in."""

    lesson: Lesson
    weight: float
    is_anchor: bool


@dataclass(slots=True)
class _Sums:
    """What the micro-batches of one step add up to."""

    loss: float = 0.0
    kl: float = 0.0
    tokens: int = 0


class _Loop:
    def __init__(
        self,
        model: PreTrainedModel,
        material: Material,
        settings: LearningSettings,
        order: random.Random,
        rate_factor: float,
    ) -> None:
        self.model, self.material, self.settings = model, material, settings
        self.rate_factor, self.batch_tokens = rate_factor, settings.batch_tokens
        self.adapter = low_rank(model)
        self.optimizer = make_optimizer(self.adapter, settings)
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        hold_rows(self.adapter, material.frozen_rows, self.optimizer)
        self.pulls = weight_pulls(
            self.adapter, material.reference, material.importance, settings, frozen=material.frozen_rows
        )
        self.slow = SlowWeights(self.parameters, settings.slow_weights_rate, settings.slow_weights_steps)
        self.steps_per_pass = math.ceil(len(material.train) / settings.batch_size)
        self.steps = self.steps_per_pass * settings.passes
        self.schedule = make_schedule(settings, self.steps)
        self.train_queue = _Shuffled(len(material.train), order)
        self.replay_queue = _Shuffled(len(material.replay), order)
        self.anchor_queue = _Shuffled(len(material.anchors), order)
        self.looks: list[Look] = []
        self.records: list[StepRecord] = []
        self.best: dict[str, Tensor] | None = None

    def step(self, step: int) -> StepRecord:
        rate = self.rate_factor * self.schedule.factor(step)
        set_rate(self.optimizer, rate)
        sums = self._gradients(self._drawn())
        penalties = self._pull_on_weights()
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_gradient_norm))
        self.optimizer.step()
        self.slow.after_step(step)
        record = StepRecord(
            step=step + 1,
            steps=self.steps,
            learning_rate=rate * self.settings.learning_rate,
            loss=sums.loss,
            kl=sums.kl,
            ewc=penalties.get("ewc", 0.0),
            gradient_norm=norm,
            tokens=sums.tokens,
            penalties=penalties,
        )
        self.records.append(record)
        return record

    def _drawn(self) -> list[_Weighted]:
        """The lessons of a step: new ones, old ones beside them, and anchors, weighted as they count in its loss."""
        fresh = self.train_queue.next(min(self.settings.batch_size, len(self.material.train)))
        replayed = self.replay_queue.next(round(self.settings.replay_share * len(fresh)))
        lessons = [self.material.train[i] for i in fresh] + [self.material.replay[i] for i in replayed]
        drawn = [_Weighted(*pair, False) for pair in zip(lessons, lesson_weights(lessons), strict=True)]
        if self.settings.kl_weight > 0.0:
            anchors = [self.material.anchors[i] for i in self.anchor_queue.next(self.settings.anchor_batch)]
            tokens = sum(anchor.sequence.response_length for anchor in anchors)
            drawn += [
                _Weighted(anchor.as_lesson(), self.settings.kl_weight * anchor.sequence.response_length / tokens, True)
                for anchor in anchors
            ]
        return drawn

    def _gradients(self, drawn: Sequence[_Weighted]) -> _Sums:
        """Leaves the step's gradients in the parameters. If memory runs out, half as much is computed at once."""
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                return self._accumulated(drawn)
            except (RuntimeError, MemoryError) as error:
                longest = max(len(row.ids) for each in drawn for row in rows_of(each.lesson))
                if not is_out_of_memory(error) or self.batch_tokens <= longest:
                    raise
            self.batch_tokens = max(self.batch_tokens // 2, longest)

    def _accumulated(self, drawn: Sequence[_Weighted]) -> _Sums:
        sums = _Sums()
        lengths = [sum(len(row.ids) for row in rows_of(each.lesson)) for each in drawn]
        for indices in under_budget(lengths, self.batch_tokens):
            rows = [drawn[index] for index in indices]
            losses = lesson_losses(self.model, [each.lesson for each in rows], self.settings, self.model.device)
            weighted = losses * torch.tensor([each.weight for each in rows], device=losses.device)
            weighted.sum().backward()
            for each, value in zip(rows, weighted.tolist(), strict=True):
                if each.is_anchor:
                    sums.kl += value / self.settings.kl_weight
                else:
                    sums.loss += value
            sums.tokens += sum(lengths[index] for index in indices)
        return sums

    def _pull_on_weights(self) -> dict[str, float]:
        if not self.pulls:
            return {}
        costs = {name: pull() for name, pull in self.pulls.items()}
        torch.stack(list(costs.values())).sum().backward()
        return {name: float(cost.detach()) for name, cost in costs.items()}

    def look(self, step: int) -> Look:
        self.slow.finish()
        measured = measured_losses(self.model, self.material.holdout, self.settings, self.model.device)
        holdout_loss = sum(measured) / len(measured)
        kl = sum(record.kl for record in self.records[-self.steps_per_pass :]) / self.steps_per_pass
        look = Look(step, holdout_loss, kl, holdout_loss + self.settings.kl_weight * kl)
        if not self.looks or look.objective < min(before.objective for before in self.looks):
            self.best = {name: tensor.clone() for name, tensor in adapter_state(self.model).items()}
        self.looks.append(look)
        self.schedule.saw(look.objective)
        return look

    def out_of_patience(self) -> bool:
        return len(self.looks) - 1 - self._best_look() >= self.settings.patience

    def _best_look(self) -> int:
        return min(range(len(self.looks)), key=lambda index: self.looks[index].objective)

    def ended(self, stopped: str, steps: int, *, restore: bool) -> Trained:
        self.optimizer.zero_grad(set_to_none=True)
        best_step = steps
        if restore and self.best is not None:
            best_step = self.looks[self._best_look()].step
            for name, tensor in adapter_state(self.model).items():
                tensor.copy_(self.best[name])
        return Trained(stopped, steps, best_step, self.batch_tokens, tuple(self.looks), tuple(self.records))


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
