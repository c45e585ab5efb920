"""Tiny random models of the architectures that are tested; the same weights every time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

HEADS: Final = 4
ARCHITECTURES: Final = ("llama", "qwen2", "qwen3", "gpt2")


@dataclass(frozen=True, slots=True)
class _Size:
    vocabulary: int
    hidden: int
    layers: int
    positions: int
    spread: float


def tiny_model(
    name: str, *, vocabulary: int = 64, hidden: int = 32, layers: int = 2, positions: int = 64, spread: float = 0.02
) -> PreTrainedModel:
    """A model in fp32, in eval mode and trainable; ``spread`` is the deviation of its weights.

    ``sliding`` is a Mistral whose layers see four tokens back.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _MAKERS[name](_Size(vocabulary, hidden, layers, positions, spread))
    model.eval()
    return model


def draw_biases(model: PreTrainedModel, spread: float = 0.1) -> None:
    """Gives the biases, which are zero in a new model, random values."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0.0, spread, generator=generator)


def _of_llamas_kind(model: Callable[[Any], PreTrainedModel], config: Callable[..., Any], **more: Any) -> _Maker:
    def make(size: _Size) -> PreTrainedModel:
        return model(
            config(
                vocab_size=size.vocabulary,
                hidden_size=size.hidden,
                intermediate_size=2 * size.hidden,
                num_hidden_layers=size.layers,
                num_attention_heads=HEADS,
                num_key_value_heads=HEADS // 2,
                head_dim=size.hidden // HEADS,
                max_position_embeddings=size.positions,
                initializer_range=size.spread,
                tie_word_embeddings=True,
                bos_token_id=1,
                eos_token_id=2,
                **more,
            )
        )

    return make


def _gpt2(size: _Size) -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=size.vocabulary,
            n_embd=size.hidden,
            n_layer=size.layers,
            n_head=HEADS,
            n_positions=size.positions,
            initializer_range=size.spread,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


_Maker = Callable[[_Size], PreTrainedModel]
_MAKERS: Final[dict[str, _Maker]] = {
    "llama": _of_llamas_kind(LlamaForCausalLM, LlamaConfig),
    "qwen2": _of_llamas_kind(Qwen2ForCausalLM, Qwen2Config),
    "qwen3": _of_llamas_kind(Qwen3ForCausalLM, Qwen3Config),
    "sliding": _of_llamas_kind(MistralForCausalLM, MistralConfig, sliding_window=4),
    "gpt2": _gpt2,
}
