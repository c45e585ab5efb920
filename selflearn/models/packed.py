"""The rows of a batch as one sequence without padding, in which what all rows begin with stands once.

Linear layers, norms and the output head see tokens and nothing else: one row of them serves as well as many. Only
attention has to know which token belongs to which row. A token's keys and values depend on what precedes it alone, so
rows with a common beginning attend to the same ones (as in Hydragen: Juravsky et al. 2024, sec. 3.1, there for
decoding), and in training their gradients add up in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_layers import GradientCheckpointingLayer

from selflearn.models.half_precision import in_base_dtype

IMPLEMENTATION = "selflearn_packed"
#: On a CPU the 16-bit kernel loses its time on rows shorter than this, above all in the backward pass.
SHORT_ROWS = 256
#: What attention may be asked for that this one does not do.
_BEYOND = ("softcap", "s_aux", "position_bias", "sliding_window", "cache")


class CannotPack(Exception):
    """The model's attention does something that rows in one sequence do not."""


@dataclass(frozen=True, slots=True)
class Packed:
    """``shared`` tokens that all rows begin with, then each row's own tokens, one row after the other.

    ``ids`` and ``positions`` [1, tokens]; ``rows`` and ``longest``: how many rows and the most own tokens of one;
    ``places`` [tokens - shared]: where each own token stands in [rows x longest] right-padded rows;
    ``mask`` [longest, shared + longest] bool, what an own token attends to, or None where plain causality says it;
    ``predicting`` [responses]: the tokens whose successor is a response token, row by row. All int64.
    """

    ids: Tensor
    positions: Tensor
    shared: int
    rows: int
    longest: int
    places: Tensor
    mask: Tensor | None
    predicting: Tensor


def pack(rows: Sequence[tuple[int, ...]], prompt_lengths: Sequence[int], shared: int, device: torch.device) -> Packed:
    """Packs token ids whose first ``shared`` are equal; the prompts are longer than that."""
    own = [len(row) - shared for row in rows]
    longest = max(own)
    ids, positions = list(rows[0][:shared]), list(range(shared))
    places: list[int] = []
    predicting: list[int] = []
    for number, (row, prompt_length) in enumerate(zip(rows, prompt_lengths, strict=True)):
        start = len(ids) - shared
        predicting += range(start + prompt_length - 1, start + len(row) - 1)
        ids += row[shared:]
        positions += range(shared, len(row))
        places += range(number * longest, number * longest + len(row) - shared)
    mask = torch.ones((longest, shared + longest), dtype=torch.bool).tril(shared).to(device) if shared else None
    flat = [torch.tensor(numbers).to(device) for numbers in (ids, positions, places, predicting)]
    return Packed(flat[0][None], flat[1][None], shared, len(rows), longest, flat[2], mask, flat[3])


def can_pack(model: nn.Module) -> TypeGuard[PreTrainedModel]:
    """Whether the model asks an exchangeable function for attention, and every token attends to all before it.

    Not so with a sliding window or a recurrence. With gradient checkpointing a layer runs again in the backward pass,
    when the function has been exchanged back.
    """
    if not isinstance(model, PreTrainedModel) or not model._supports_attention_backend:
        return False
    if model.config._attn_implementation != "sdpa":
        return False
    if any(isinstance(m, GradientCheckpointingLayer) and m.gradient_checkpointing for m in model.modules()):
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def packed_logits(model: PreTrainedModel, packed: Packed) -> Tensor:
    """[responses, vocabulary] logits of the response tokens in the model's dtype; only they pass through the head."""
    with _attending_by_row(model), in_base_dtype(model):
        output = model(
            input_ids=packed.ids,
            position_ids=packed.positions,
            use_cache=False,
            logits_to_keep=packed.predicting,
            packed=packed,
        )
    logits: Tensor = output.logits
    return logits[0]


@contextmanager
def _attending_by_row(model: PreTrainedModel) -> Iterator[None]:
    before = model.config._attn_implementation
    model.config._attn_implementation = IMPLEMENTATION
    try:
        yield
    finally:
        model.config._attn_implementation = before


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: Packed | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **asked: Any,
) -> tuple[Tensor, None]:
    """Attention of packed rows: [1, heads, tokens, d] in, [1, tokens, heads, d] out, as transformers wants it."""
    if packed is None or any(asked.get(name) is not None for name in _BEYOND):
        raise CannotPack
    shared = packed.shared
    first = [states[:, :, :shared] for states in (query, key, value)]
    own = [_by_row(states, packed) for states in (query, key, value)]
    if shared:
        own[1:] = [
            torch.cat([states.expand(packed.rows, -1, -1, -1), rows], dim=2)
            for states, rows in zip(first[1:], own[1:], strict=True)
        ]
    mask = None if packed.mask is None else packed.mask[None, None]
    attend = _attend_in_fp32 if query.device.type == "cpu" and own[1].shape[2] <= SHORT_ROWS else _attend
    attended = attend(module, own, mask, scaling, dropout)
    attended = attended.flatten(0, 1).index_select(0, packed.places)[None]
    if shared:
        attended = torch.cat([attend(module, first, None, scaling, dropout), attended], dim=1)
    return attended, None


def _attend(
    module: nn.Module, states: Sequence[Tensor], mask: Tensor | None, scaling: float | None, dropout: float
) -> Tensor:
    """Query, key and value [rows, heads, tokens, d] to [rows, tokens, heads, d], causal where there is no mask."""
    query, key, value = states
    options: dict[str, Any] = {"scaling": scaling, "dropout": dropout, "is_causal": True}
    attended: Tensor = sdpa_attention_forward(module, query, key, value, mask, **options)[0]
    return attended


def _attend_in_fp32(
    module: nn.Module, states: Sequence[Tensor], mask: Tensor | None, scaling: float | None, dropout: float
) -> Tensor:
    """The same, as a CPU does it fastest for short rows, and more exactly than asked for."""
    del module
    query, key, value = (each.float() for each in states)
    attended = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling, is_causal=mask is None, enable_gqa=True
    )
    return attended.transpose(1, 2).to(states[0].dtype)


def _by_row(states: Tensor, packed: Packed) -> Tensor:
    """[1, heads, tokens, d] -> [rows, heads, longest, d]: each row's own tokens, zeros where it has none."""
    own = states[0, :, packed.shared :].transpose(0, 1)
    padded = own.new_zeros((packed.rows * packed.longest, *own.shape[1:])).index_copy(0, packed.places, own)
    return padded.view(packed.rows, packed.longest, *own.shape[1:]).transpose(1, 2)


AttentionInterface.register(IMPLEMENTATION, _attention)
