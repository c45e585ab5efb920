"""Base and adapter as one smaller model: knowledge distillation.

The student learns the teacher's distribution at every token of a response, not the response alone (Hinton et al. 2015,
sec. 2):

    loss = T² · KL(p_T ‖ q_T),   p_T = softmax(teacher logits / T),   q_T = softmax(student logits / T)

forward KL, so that the student covers all that the teacher holds possible; T² keeps the size of the gradient when T
changes. Of the teacher's distribution the most likely tokens are kept, the rest counts as one
(:func:`selflearn.learning.objectives.top_k_divergence`). All weights of the student train.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from selflearn.config import LearningSettings
from selflearn.errors import ModelError, NotEnoughExamples, SelflearnError
from selflearn.learning.anchors import ANSWER_BATCH, ANSWER_TOKENS, generate_greedy
from selflearn.learning.lessons import Lesson, lesson_losses, lesson_weights, measured_losses, teachers_of
from selflearn.learning.optimizers import set_rate
from selflearn.learning.schedule import make_schedule
from selflearn.models.base import LoadedBase
from selflearn.models.chat import PROBE_TEXT, encode_prompt, encode_text, stop_ids
from selflearn.models.forward import TokenSequence, under_budget

MAX_GRADIENT_NORM = 1.0
#: The student's gradients are as noisy as any fine-tuning's: Adam's own decay rates, not those of short updates.
BETAS = (0.9, 0.999)


@dataclass(frozen=True, slots=True)
class Distillation:
    """How to distil. ``held_back`` is the share of sequences that only measure; ``batch_tokens`` bounds memory."""

    steps: int = 400
    batch_size: int = 8
    learning_rate: float = 1e-4
    temperature: float = 1.0
    held_back: float = 0.1
    seed: int = 0
    batch_tokens: int = 4096


def check_vocabulary(teacher: LoadedBase, student: LoadedBase) -> None:
    """Raises :class:`ModelError` unless both models give the same ids to the same text."""
    ours, theirs = teacher.tokenizer.get_vocab(), student.tokenizer.get_vocab()
    if ours != theirs:
        apart = sum(ours.get(token) != theirs.get(token) for token in {*ours, *theirs})
        raise ModelError(
            f"{student.name} has another vocabulary than {teacher.name}: {apart} tokens differ, and a distribution "
            "over one says nothing about the other. Take a smaller model of the same family as student."
        )
    if encode_text(teacher.tokenizer, PROBE_TEXT) != encode_text(student.tokenizer, PROBE_TEXT):
        raise ModelError(
            f"{student.name} splits text into tokens in another way than {teacher.name}, though its vocabulary is the "
            "same. Take a smaller model of the same family as student."
        )
    if _width(student) < len(ours):
        raise ModelError(f"{student.name} has logits for {_width(student)} tokens, expected {len(ours)} at least.")


def answered(teacher: LoadedBase, prompts: Sequence[str], on_progress: Callable[[float], None]) -> list[TokenSequence]:
    """The teacher's own greedy answers to ``prompts``, short ones first; ``on_progress`` is told the share done."""
    encoded = sorted(
        (encode_prompt(teacher.tokenizer, [{"role": "user", "content": prompt}]) for prompt in prompts), key=len
    )
    stops = stop_ids(teacher.tokenizer, teacher.model)
    found: list[TokenSequence] = []
    for start in range(0, len(encoded), ANSWER_BATCH):
        rows = encoded[start : start + ANSWER_BATCH]
        answers = generate_greedy(teacher.model, rows, ANSWER_TOKENS, stops, teacher.device)
        found += [TokenSequence(tuple(row + answer), len(row)) for row, answer in zip(rows, answers, strict=True)]
        on_progress(len(found) / len(encoded))
    return found


@dataclass(frozen=True, slots=True)
class Material:
    """Lessons with the teacher's distributions: at the temperature of training, and at 1 where they only measure."""

    train: Sequence[Lesson]
    held_back: Sequence[Lesson]


def taught(
    teacher: LoadedBase, student: LoadedBase, sequences: Sequence[TokenSequence], options: Distillation
) -> Material:
    """What the teacher thinks of each response, split by ``options.seed``; the teacher is not needed afterwards.

    Raises :class:`NotEnoughExamples` if a part would be empty.
    """
    order = random.Random(options.seed).sample(range(len(sequences)), len(sequences))
    count = max(1, round(options.held_back * len(sequences)))
    if len(sequences) <= count:
        raise NotEnoughExamples(
            f"{len(sequences)} sequences, of which {count} are held back, are too few to distil from. Hold back fewer, "
            "or take a version that learned from more."
        )
    held, train = ([sequences[index] for index in part] for part in (order[:count], order[count:]))
    width = min(_width(teacher), _width(student))
    soft, plain = _Softened(teacher.model, options.temperature, width), _Softened(teacher.model, 1.0, width)
    return Material(
        _lessons(soft, train, teacher.device, options.batch_tokens),
        _lessons(plain, held, teacher.device, options.batch_tokens),
    )


def distil(
    student: LoadedBase,
    material: Material,
    options: Distillation,
    *,
    save_as: torch.dtype,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[float, float]:
    """Trains all weights of ``student`` (fp32) in place and rounds them to ``save_as``; KL held back before and after.

    ``on_step`` is told the number of each step, from 1, and its loss. Deterministic by ``options.seed`` on one machine.
    Raises :class:`SelflearnError` when the loss is no longer finite.
    """
    settings = LearningSettings(batch_tokens=options.batch_tokens, schedule="cosine", warmup_share=0.1)
    before = _divergence(student, material, settings)
    student.model.requires_grad_(True)
    _train(student, material.train, options, settings, on_step)
    student.model.requires_grad_(False)
    student.model.to(save_as)  # type: ignore[arg-type, unused-ignore]
    return before, _divergence(student, material, settings)


def _train(
    student: LoadedBase,
    lessons: Sequence[Lesson],
    options: Distillation,
    settings: LearningSettings,
    on_step: Callable[[int, float], None],
) -> None:
    parameters = list(student.model.parameters())
    group = {"params": parameters, "lr": options.learning_rate, "base_rate": options.learning_rate}
    optimizer = torch.optim.AdamW([group], betas=BETAS, weight_decay=0.0)
    schedule = make_schedule(settings, options.steps)
    softened = _Softened(student.model, options.temperature)
    chosen = _passes(len(lessons), options.batch_size, random.Random(options.seed))
    for step in range(options.steps):
        set_rate(optimizer, schedule.factor(step))
        optimizer.zero_grad(set_to_none=True)
        batch = [lessons[index] for index in next(chosen)]
        loss = _backward(softened, batch, options.temperature, settings, student.device)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM))
        if not math.isfinite(loss + norm):
            raise SelflearnError(f"The loss became {loss} in step {step + 1}; nothing was saved. Take a lower rate.")
        optimizer.step()
        on_step(step + 1, loss)


class _Softened(nn.Module):
    """A model whose logits are divided by a temperature, and cut to the first ``width`` tokens."""

    def __init__(self, model: nn.Module, temperature: float, width: int | None = None) -> None:
        super().__init__()
        self._model, self._temperature, self._width = model, temperature, width

    def forward(self, **inputs: Any) -> Any:
        output = self._model(**inputs)
        output.logits = output.logits[..., : self._width] / self._temperature
        return output


def _lessons(
    model: nn.Module, sequences: Sequence[TokenSequence], device: torch.device, max_tokens: int
) -> list[Lesson]:
    teachers = teachers_of(model, sequences, device, max_tokens)
    return [Lesson("self_distillation", one, teacher=each) for one, each in zip(sequences, teachers, strict=True)]


def _backward(
    model: nn.Module,
    lessons: Sequence[Lesson],
    temperature: float,
    settings: LearningSettings,
    device: torch.device,
) -> float:
    """Adds the gradient of the lessons' mean loss per token, computed within the budget, and returns the loss."""
    weights = torch.tensor(lesson_weights(lessons), device=device)
    loss = 0.0
    for indices in under_budget([len(lesson.sequence.ids) for lesson in lessons], settings.batch_tokens):
        losses = lesson_losses(model, [lessons[index] for index in indices], settings, device)
        part = temperature**2 * (losses * weights[indices]).sum()
        part.backward()
        loss += float(part.detach())
    return loss


def _divergence(student: LoadedBase, material: Material, settings: LearningSettings) -> float:
    """Mean KL(teacher ‖ student) per response token held back."""
    found = measured_losses(student.model, material.held_back, settings, student.device)
    tokens = [lesson.sequence.response_length for lesson in material.held_back]
    return sum(value * count for value, count in zip(found, tokens, strict=True)) / sum(tokens)


def _passes(count: int, size: int, order: random.Random) -> Iterator[list[int]]:
    """Endless passes over ``count`` indices, each in a new order, in lists of at most ``size``."""
    while True:
        shuffled = order.sample(range(count), count)
        for start in range(0, count, size):
            yield shuffled[start : start + size]


def _width(base: LoadedBase) -> int:
    return int(base.model.config.get_text_config().vocab_size)
