"""The losses of versions on texts. Loads the base once; every version is a view of it."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from selflearn.backtest.measuring import Losses, Question, Text
from selflearn.judging.measures import losses
from selflearn.models.adapter import attach_saved
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.chat import encode_example
from selflearn.models.forward import TokenSequence
from selflearn.models.views import view_of


def losses_of(question: Question) -> Losses:
    """Answers the question in this process."""
    if question.threads:
        torch.set_num_threads(question.threads)
    base = load_base(question.model, device=question.device, dtype=question.dtype)
    columns = [_encoded(base, texts, question.max_length) for texts in question.columns]
    return [_of_version(base, adapter, columns, set(wanted)) for adapter, wanted in question.versions]


def _encoded(base: LoadedBase, texts: tuple[Text, ...], max_length: int) -> list[TokenSequence]:
    encoded = [encode_example(base.tokenizer, list(text.messages), text.target) for text in texts]
    return [TokenSequence(tuple(ids), prompt) for ids, prompt in encoded if len(ids) <= max_length]


def _of_version(
    base: LoadedBase, adapter: Path | None, columns: list[list[TokenSequence]], wanted: set[int]
) -> list[float | None]:
    model = view_of(base.model)
    if adapter is not None:
        attach_saved(model, adapter, trainable=False)
    return [
        _mean(losses(model, sequences, base.device)) if index in wanted and sequences else None
        for index, sequences in enumerate(columns)
    ]


def _mean(values: list[float]) -> float | None:
    mean = math.fsum(values) / len(values)
    return mean if math.isfinite(mean) else None
