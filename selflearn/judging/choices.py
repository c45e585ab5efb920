"""Multiple choice by likelihood: the model takes the answer that it holds likeliest; nothing is generated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from selflearn.judging.calibration import Confidences, of_distributions
from selflearn.judging.measures import losses
from selflearn.models.forward import TokenSequence


@dataclass(frozen=True, slots=True)
class ChoiceQuestion:
    """A question with its choices as tokens, each after the same prompt. ``answer`` is the index of the right one.

    ``lengths`` are the choices' UTF-8 bytes, by which likelihoods are made comparable whatever the tokenizer.
    """

    choices: tuple[TokenSequence, ...]
    lengths: tuple[int, ...]
    answer: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """``plain`` and ``normalised`` say for each question whether the right choice was taken, 1 or 0.

    ``confidences`` are of the choices' likelihoods, normalised to sum to 1.
    """

    plain: tuple[float, ...]
    normalised: tuple[float, ...]
    confidences: Confidences


def choose(model: nn.Module, questions: Sequence[ChoiceQuestion], device: torch.device) -> Chosen:
    """Answers every question: by log π(choice | prompt), and by that per byte of the choice.

    The two are ``acc`` and ``acc_norm`` of the lm-evaluation-harness (Gao et al., 2024); choices are whole answers
    here, the end of the turn included. Of equally likely choices the first is taken.
    """
    rows = [choice for question in questions for choice in question.choices]
    nats = iter(zip(rows, losses(model, rows, device), strict=True))
    plain, normalised = list[float](), list[float]()
    confidences = list[Confidences]()
    for question in questions:
        scores = [-loss * row.response_length for row, loss in (next(nats) for _ in question.choices)]
        per_byte = [score / max(1, length) for score, length in zip(scores, question.lengths, strict=True)]
        plain.append(float(_taken(scores) == question.answer))
        normalised.append(float(_taken(per_byte) == question.answer))
        log_probs = torch.tensor([scores], dtype=torch.float64).log_softmax(dim=-1)
        confidences.append(of_distributions(log_probs, torch.tensor([question.answer])))
    return Chosen(tuple(plain), tuple(normalised), joined(confidences))


def _taken(scores: Sequence[float]) -> int | None:
    """The index of the highest score; none where one is no number: a broken model answers nothing right."""
    return None if any(math.isnan(score) for score in scores) else scores.index(max(scores))


def joined(confidences: Sequence[Confidences]) -> Confidences:
    """All predictions together, in order."""
    return Confidences(
        tuple(value for each in confidences for value in each.confidence),
        tuple(value for each in confidences for value in each.correct),
        tuple(value for each in confidences for value in each.brier),
    )
