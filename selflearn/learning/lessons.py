"""Lessons: examples as tokens, each with what its loss needs, and the losses of a batch of them in one forward pass.

It knows a model, token sequences and objectives. It does not know where lessons come from: see
:mod:`~selflearn.learning.preparation`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from torch import Tensor, nn

from selflearn.config import LearningSettings
from selflearn.learning.objectives import (
    departure,
    mean_over_response,
    paired_preference,
    top_k_divergence,
    top_k_log_probs,
    unlikelihood,
    unpaired_preference,
)
from selflearn.models.forward import (
    Batch,
    TokenSequence,
    collate,
    flat_logits,
    response_logits,
    response_losses,
    token_losses,
    under_budget,
)

LessonObjective = Literal[
    "supervised", "unlikelihood", "reward_weighted", "paired_preference", "unpaired_preference", "self_distillation"
]

#: Their losses are means over tokens, so that among their like they share a step by tokens. The others are of a whole.
TOKEN_OBJECTIVES: Final[frozenset[LessonObjective]] = frozenset(
    {"supervised", "unlikelihood", "reward_weighted", "self_distillation"}
)

#: A teacher's distribution is kept as so many of its most likely tokens.
TOP_K: Final = 64


@dataclass(frozen=True, slots=True)
class Teacher:
    """What a fixed model thinks of each response token: its most likely tokens there.

    ``log_probs`` fp32 and ``ids`` int64 are [response, k], on the CPU.
    """

    log_probs: Tensor
    ids: Tensor


@dataclass(frozen=True, slots=True)
class Lesson:
    """One example as tokens, with what its objective needs.

    ``rejected`` is the worse response of a pair. ``value`` weighs a reward-weighted lesson; of an unpaired one its sign
    says whether the response is desirable, its size is λ. ``baseline`` is a response to another prompt than its own, by
    which an unpaired lesson knows how far the model departed anyway. ``reference`` and its likes are the response's
    log-probability (a sum, in nats) under the base model.
    """

    objective: LessonObjective
    sequence: TokenSequence
    rejected: TokenSequence | None = None
    value: float = 1.0
    reference: float = 0.0
    rejected_reference: float = 0.0
    teacher: Teacher | None = None
    baseline: TokenSequence | None = None
    baseline_reference: float = 0.0


def rows_of(lesson: Lesson) -> list[TokenSequence]:
    """The rows that a lesson takes in the forward pass that has a gradient: one, or two if it is a pair."""
    return [lesson.sequence] if lesson.rejected is None else [lesson.sequence, lesson.rejected]


def lesson_weights(lessons: Sequence[Lesson]) -> list[float]:
    """How the lessons of a step share its loss; the weights sum to 1.

    Each objective gets its share of the number of lessons. Within it lessons share by response tokens where the loss is
    a mean over tokens (so that supervised lessons alone give the mean over all their tokens), else equally.
    """
    sizes = [lesson.sequence.response_length if lesson.objective in TOKEN_OBJECTIVES else 1 for lesson in lessons]
    counts = Counter(lesson.objective for lesson in lessons)
    totals: Counter[LessonObjective] = Counter()
    for lesson, size in zip(lessons, sizes, strict=True):
        totals[lesson.objective] += size
    return [
        counts[lesson.objective] / len(lessons) * size / totals[lesson.objective]
        for lesson, size in zip(lessons, sizes, strict=True)
    ]


def lesson_losses(
    model: nn.Module, lessons: Sequence[Lesson], options: LearningSettings, device: torch.device
) -> Tensor:
    """Each lesson's own loss in nats, [lessons] fp32 with gradient: all lessons in one forward pass.

    A lesson with a teacher and another objective than self-distillation adds ``options.replay_kl_weight`` times the
    mean KL(teacher || student) of its response. The baselines of unpaired lessons take a pass of their own, without
    gradient; KTO's z0 is their mean over these lessons, so it alone depends on which lessons come together.
    """
    losses = torch.zeros(len(lessons), device=device)
    if not lessons:
        return losses
    computed = _compute(model, lessons, device)
    for objective, loss in _LOSSES.items():
        chosen = [index for index, lesson in enumerate(lessons) if lesson.objective == objective]
        if chosen:
            values = loss(computed, chosen, options)
            losses = losses.index_copy(0, torch.tensor(chosen, device=device), values)
    beside = [i for i, one in enumerate(lessons) if one.teacher is not None and one.objective != "self_distillation"]
    if beside and options.replay_kl_weight:
        pull = options.replay_kl_weight * computed.divergence(beside)
        losses = losses.index_add(0, torch.tensor(beside, device=device), pull)
    return losses


@torch.no_grad()
def measured_losses(
    model: nn.Module, lessons: Sequence[Lesson], options: LearningSettings, device: torch.device
) -> list[float]:
    """Each lesson's loss in nats as a judge needs it: by that lesson alone, whatever it is measured with.

    So z0 of KTO is 0 here, and no KL to a parent is added.
    """
    alone = [
        replace(one, baseline=None, teacher=one.teacher if one.objective == "self_distillation" else None)
        for one in lessons
    ]
    losses = [0.0] * len(lessons)
    sizes = [sum(len(row.ids) for row in rows_of(lesson)) for lesson in alone]
    for indices in under_budget(sizes, options.batch_tokens):
        values = lesson_losses(model, [alone[index] for index in indices], options, device)
        for index, value in zip(indices, values.tolist(), strict=True):
            losses[index] = value
    return losses


@torch.no_grad()
def log_probabilities(
    model: nn.Module, sequences: Sequence[TokenSequence], device: torch.device, max_tokens: int
) -> list[float]:
    """log π(response | prompt) of each sequence in nats, summed over the response, as ``model`` is now."""
    found = [0.0] * len(sequences)
    for indices in under_budget([len(sequence.ids) for sequence in sequences], max_tokens):
        losses = response_losses(model, collate([sequences[index] for index in indices], device))
        for index, value in zip(indices, losses.sum(dim=1).tolist(), strict=True):
            found[index] = -value
    return found


@torch.no_grad()
def teachers_of(
    model: nn.Module, sequences: Sequence[TokenSequence], device: torch.device, max_tokens: int
) -> list[Teacher]:
    """What ``model`` as it is now thinks of each response."""
    found: dict[int, Teacher] = {}
    for indices in under_budget([len(sequence.ids) for sequence in sequences], max_tokens):
        logits = response_logits(model, collate([sequences[index] for index in indices], device))
        for row, index in enumerate(indices):
            log_probs, ids = top_k_log_probs(logits[row, -sequences[index].response_length :], TOP_K)
            found[index] = Teacher(log_probs.cpu(), ids.cpu())
    return [found[index] for index in range(len(sequences))]


@dataclass(frozen=True, slots=True)
class _Computed:
    """One forward pass over all rows of some lessons. ``first`` is the row of each lesson; a pair's worse one follows.

    ``logits`` [tokens, vocabulary] of all response tokens, row by row; ``nats`` [rows, width], the negative
    log-likelihood of the response tokens of those rows whose loss is made of it, else 0; ``z0`` a scalar.
    """

    lessons: Sequence[Lesson]
    first: Sequence[int]
    batch: Batch
    logits: Tensor
    nats: Tensor
    z0: Tensor

    def rows(self, chosen: Sequence[int], offset: int = 0) -> Tensor:
        return torch.tensor([self.first[index] + offset for index in chosen], device=self.nats.device)

    def numbers(self, chosen: Sequence[int], number: Callable[[Lesson], float]) -> Tensor:
        return torch.tensor([number(self.lessons[index]) for index in chosen], device=self.nats.device)

    def log_probability(self, chosen: Sequence[int], offset: int = 0) -> Tensor:
        """log π of the whole response, [chosen]."""
        return -self.nats[self.rows(chosen, offset)].sum(dim=1)

    def mean(self, values: Tensor, chosen: Sequence[int]) -> Tensor:
        """The mean of ``values`` [rows, width] over the response, [chosen]."""
        rows = self.rows(chosen)
        return mean_over_response(values[rows], self.batch.mask[rows])

    def divergence(self, chosen: Sequence[int]) -> Tensor:
        """The mean KL(teacher || student), [chosen]."""
        teachers = [teacher for index in chosen if (teacher := self.lessons[index].teacher) is not None]
        log_probs = torch.cat([teacher.log_probs for teacher in teachers]).to(self.nats.device)
        ids = torch.cat([teacher.ids for teacher in teachers]).to(self.nats.device)
        picked = self.batch.mask & _one_of(self.rows(chosen), self.batch)
        per_token = top_k_divergence(_at(self.logits, picked, self.batch), log_probs, ids)
        return self.mean(_back(per_token, picked), chosen)


def _compute(model: nn.Module, lessons: Sequence[Lesson], device: torch.device) -> _Computed:
    rows, first, likely = list[TokenSequence](), list[int](), list[int]()
    for lesson in lessons:
        first.append(len(rows))
        if lesson.objective not in ("unlikelihood", "self_distillation"):
            likely += range(len(rows), len(rows) + len(rows_of(lesson)))
        rows += rows_of(lesson)
    z0 = _departure(model, lessons, device)
    batch = collate(rows, device)
    logits = flat_logits(model, batch)
    picked = batch.mask & _one_of(torch.tensor(likely, dtype=torch.int64, device=device), batch)
    nats = _back(token_losses(_at(logits, picked, batch), batch.targets[picked]), picked)
    return _Computed(lessons, first, batch, logits, nats, z0)


@torch.no_grad()
def _departure(model: nn.Module, lessons: Sequence[Lesson], device: torch.device) -> Tensor:
    found = [(one.baseline, one.baseline_reference) for one in lessons if one.baseline is not None]
    if not found:
        return departure(torch.zeros(0, device=device))
    losses = response_losses(model, collate([sequence for sequence, _ in found], device))
    return departure(-losses.sum(dim=1) - torch.tensor([reference for _, reference in found], device=device))


def _one_of(rows: Tensor, batch: Batch) -> Tensor:
    """[rows, 1] bool: the rows with these numbers."""
    chosen = torch.zeros(len(batch.targets), 1, dtype=torch.bool, device=rows.device)
    chosen[rows] = True
    return chosen


def _at(logits: Tensor, picked: Tensor, batch: Batch) -> Tensor:
    """[tokens, vocabulary]: the logits at the picked positions only; the rest is never turned into fp32."""
    chosen = picked[batch.mask]
    return logits if bool(chosen.all()) else logits[chosen]


def _back(per_token: Tensor, picked: Tensor) -> Tensor:
    """[rows, width] with ``per_token`` at the picked positions, else 0."""
    return torch.zeros(picked.shape, device=per_token.device).masked_scatter(picked, per_token)


def _supervised(computed: _Computed, chosen: Sequence[int], options: LearningSettings) -> Tensor:
    del options
    return computed.mean(computed.nats, chosen)


def _unlikelihood(computed: _Computed, chosen: Sequence[int], options: LearningSettings) -> Tensor:
    del options
    picked = computed.batch.mask & _one_of(computed.rows(chosen), computed.batch)
    per_token = unlikelihood(_at(computed.logits, picked, computed.batch), computed.batch.targets[picked])
    return computed.mean(_back(per_token, picked), chosen)


def _reward_weighted(computed: _Computed, chosen: Sequence[int], options: LearningSettings) -> Tensor:
    return computed.numbers(chosen, lambda one: one.value) * _supervised(computed, chosen, options)


def _paired_preference(computed: _Computed, chosen: Sequence[int], options: LearningSettings) -> Tensor:
    return paired_preference(
        computed.log_probability(chosen),
        computed.log_probability(chosen, offset=1),
        computed.numbers(chosen, lambda one: one.reference),
        computed.numbers(chosen, lambda one: one.rejected_reference),
        options.preference_beta,
    )


def _unpaired_preference(computed: _Computed, chosen: Sequence[int], options: LearningSettings) -> Tensor:
    log_ratio = computed.log_probability(chosen) - computed.numbers(chosen, lambda one: one.reference)
    value = computed.numbers(chosen, lambda one: one.value)
    return unpaired_preference(log_ratio, value, computed.z0, options.preference_beta)


def _self_distillation(computed: _Computed, chosen: Sequence[int], options: LearningSettings) -> Tensor:
    del options
    return computed.divergence(chosen)


_LOSSES: Final[dict[LessonObjective, Callable[[_Computed, Sequence[int], LearningSettings], Tensor]]] = {
    "supervised": _supervised,
    "unlikelihood": _unlikelihood,
    "reward_weighted": _reward_weighted,
    "paired_preference": _paired_preference,
    "unpaired_preference": _unpaired_preference,
    "self_distillation": _self_distillation,
}
