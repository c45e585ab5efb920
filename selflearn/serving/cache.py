"""The key/value cache of all running sequences, in blocks of a fixed number of tokens.

Any block can belong to any sequence of any version. Block 0 belongs to nobody: it stays zero and stands wherever a row
of a batch has fewer blocks than the longest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

BLOCK_TOKENS = 16
MASKED = -1e30  # finite in bf16 and fp32: a row that sees nothing stays a number


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What one token takes: ``layers`` x 2 x ``heads`` x ``head_size`` numbers of ``dtype``."""

    layers: int
    heads: int
    head_size: int
    dtype: torch.dtype


class BlockCache:
    """Keys and values: per layer two tensors [tokens, heads, head_size], a block being 16 tokens in a row."""

    def __init__(self, shape: CacheShape, blocks: int, device: torch.device) -> None:
        self.shape = shape
        self.blocks = blocks
        size = (shape.layers, 2, blocks * BLOCK_TOKENS, shape.heads, shape.head_size)
        # All of it at once, also on the CPU: memory that is only taken as it is written grows for hours.
        self._all = torch.zeros(size, dtype=shape.dtype, device=device)
        self.layers = [(layer[0], layer[1]) for layer in self._all]

    def clear(self, blocks: list[int]) -> None:
        """Zeroes blocks that change hands: a NaN left behind would spread through masked positions, too."""
        if blocks:
            inside = self._all.view(*self._all.shape[:2], self.blocks, BLOCK_TOKENS, *self._all.shape[3:])
            inside.index_fill_(2, torch.tensor(blocks, device=self._all.device), 0.0)


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of a packed batch whose attention is computed at once.

    ``rows`` sequences have ``width`` query tokens each, which stand one after the other from ``start`` in the packed
    batch (or at ``index`` [rows * width] where they do not). ``tokens`` [rows * length] are the places in the cache
    that they look at, ``mask`` [rows, 1, heads_per_group * width, length] what each of them may see.
    """

    start: int
    rows: int
    width: int
    index: Tensor | None
    tokens: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class CachePlan:
    """Where the tokens of one forward pass are written, ``slots`` [tokens], and what each group of them reads."""

    slots: Tensor
    groups: tuple[Group, ...]


def attend(
    query: Tensor, key: Tensor, value: Tensor, store: tuple[Tensor, Tensor], plan: CachePlan, scale: float
) -> Tensor:
    """Writes keys and values [tokens, heads, size] and returns the attention output, shaped as ``query``.

    ``query`` is [tokens, query_heads, size], with query_heads a multiple of heads. The query heads that share a key
    head stand in one row of the score matrix beside each other, so keys are never repeated in memory.
    """
    keys, values = store
    keys.index_copy_(0, plan.slots, key)
    values.index_copy_(0, plan.slots, value)
    if len(plan.groups) == 1 and plan.groups[0].index is None:
        return _attend_group(query, keys, values, plan.groups[0], scale)
    output = torch.empty_like(query)
    for group in plan.groups:
        if group.index is None:
            rows = slice(group.start, group.start + group.rows * group.width)
            output[rows] = _attend_group(query[rows], keys, values, group, scale)
        else:
            output[group.index] = _attend_group(query[group.index], keys, values, group, scale)
    return output


def _attend_group(query: Tensor, keys: Tensor, values: Tensor, group: Group, scale: float) -> Tensor:
    heads, size = keys.shape[1:]
    shared = query.shape[1] // heads
    length = group.mask.shape[-1]
    # [rows, width, heads, shared, size] -> [rows, heads, shared * width, size]
    asked = query.view(group.rows, group.width, heads, shared, size).permute(0, 2, 3, 1, 4)
    asked = asked.reshape(group.rows, heads, shared * group.width, size)
    seen_keys = keys.index_select(0, group.tokens).view(group.rows, length, heads, size).transpose(1, 2)
    seen_values = values.index_select(0, group.tokens).view(group.rows, length, heads, size).transpose(1, 2)
    found = functional.scaled_dot_product_attention(asked, seen_keys, seen_values, attn_mask=group.mask, scale=scale)
    found = found.view(group.rows, heads, shared, group.width, size).permute(0, 3, 1, 2, 4)
    return found.reshape(query.shape)
