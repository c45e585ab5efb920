"""Tiny random models of the architectures that adapters are made for, and adapters that change them clearly."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from transformers import PreTrainedModel

from selflearn.models.adapter import attach_new, factors, lora_layers, save_adapter
from tests.architectures import draw_biases, tiny_model
from tests.conftest import tiny_tokenizer

VOCABULARY: Final = len(tiny_tokenizer())


def make_model(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A frozen random model (hidden 64, 2 layers), biases too; the same every time."""
    model = tiny_model(name, vocabulary=VOCABULARY, hidden=64, positions=256, spread=0.15)
    draw_biases(model)
    model.to(dtype)  # type: ignore[arg-type, unused-ignore]
    model.requires_grad_(False)
    return model


def save_model(name: str, directory: Path, dtype: torch.dtype = torch.float32) -> None:
    """Saves such a model with the tiny tokenizer."""
    make_model(name, dtype).save_pretrained(str(directory))
    tiny_tokenizer().save_pretrained(str(directory))


def adapt(model: PreTrainedModel, *, rank: int = 4, alpha: float = 8.0, seed: int = 1, spread: float = 0.2) -> None:
    """Attaches an adapter that changes every layer: B is drawn too."""
    attach_new(model, rank=rank, alpha=alpha, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in lora_layers(model).values():
        factors(layer)[1].data.normal_(0.0, spread, generator=generator)


def save_adapted(name: str, directory: Path, *, seed: int = 1, rank: int = 4, alpha: float = 8.0) -> PreTrainedModel:
    """Saves such an adapter for a fresh model, and returns the model with it."""
    model = make_model(name)
    adapt(model, rank=rank, alpha=alpha, seed=seed)
    save_adapter(model, directory)
    return model
