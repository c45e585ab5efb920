"""Tiny random models of the architectures that adapters are made for, and adapters that change them clearly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from selflearn.models.adapter import attach_new, factors, lora_layers, save_adapter
from tests.conftest import tiny_tokenizer

VOCABULARY: Final = len(tiny_tokenizer())
SHAPE: Final[dict[str, Any]] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _gpt2() -> PreTrainedModel:
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=256,
        initializer_range=0.15,
        bos_token_id=1,
        eos_token_id=2,
    )
    return GPT2LMHeadModel(config)


MAKERS: Final[dict[str, Callable[[], PreTrainedModel]]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16)),
    "gpt2": _gpt2,
}


def make_model(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A frozen random model (hidden 64, 2 layers), biases too; the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MAKERS[name]()
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):
                parameter.data.normal_(0.0, 0.1)
    model.to(dtype)  # type: ignore[arg-type, unused-ignore]
    model.eval()
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
