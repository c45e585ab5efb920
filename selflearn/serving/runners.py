"""The forward pass of a step, by one of two ways: the lean decoder, or the model as transformers wrote it."""

from __future__ import annotations

from collections import abc
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from selflearn.models.adapter import adapter_state, attach_saved, load_adapter_state, saved_biases, saved_factors
from selflearn.models.views import view_of
from selflearn.serving.cache import BLOCK_TOKENS, BlockCache, CachePlan, CacheShape, attend
from selflearn.serving.decoder import Adapter, FusedDecoder, Run, adapter_of, same_adapter
from selflearn.serving.plans import plan_step
from selflearn.serving.scheduler import Piece, Sequence

ATTENTION = "selflearn_blocks"


class Runner(Protocol):
    """Runs versions, each under the number of its owner. ``add`` may be called from any thread."""

    cache_shape: CacheShape

    def add(self, owner: int, adapter_directory: Path | None) -> None:
        """Loads an adapter (None: the base alone); raises ``ModelError`` when it is damaged or does not fit."""
        ...

    def holds(self, owner: int, adapter_directory: Path) -> bool:
        """Whether the owner's adapter in memory is, bit for bit, the saved one."""
        ...

    def remove(self, owner: int) -> None:
        """Lets go of an owner's adapter."""
        ...

    def run(self, pieces: abc.Sequence[Piece], cache: BlockCache) -> tuple[Tensor, list[Piece]]:
        """Computes ``pieces``; returns logits [rows, vocabulary] and the pieces that complete a sequence, by row."""
        ...


class FusedRunner:
    """All versions in one pass of the lean decoder."""

    def __init__(self, decoder: FusedDecoder) -> None:
        self._decoder = decoder
        self.cache_shape = decoder.cache_shape
        self._adapters: dict[int, Adapter] = {}

    def add(self, owner: int, adapter_directory: Path | None) -> None:
        if adapter_directory is None:
            self._adapters[owner] = None
            return
        factors, scale = saved_factors(adapter_directory)
        self._adapters[owner] = adapter_of(factors, scale, saved_biases(adapter_directory), self._decoder)

    def holds(self, owner: int, adapter_directory: Path) -> bool:
        adapter = self._adapters[owner]
        if adapter is None:
            return False
        return same_adapter(adapter, *saved_factors(adapter_directory), saved_biases(adapter_directory))

    def remove(self, owner: int) -> None:
        self._adapters.pop(owner, None)

    def run(self, pieces: abc.Sequence[Piece], cache: BlockCache) -> tuple[Tensor, list[Piece]]:
        plan = plan_step(pieces, self.cache_shape, self._decoder.shared_heads, self._decoder.device)
        runs = [Run(rows, self._adapters[owner]) for owner, rows in plan.spans]
        return self._decoder.forward(plan.ids, plan.positions, cache, plan.cache, runs, plan.wanted), plan.completing


class ModuleRunner:
    """Each version by a pass of its own through a view of the model, with our cache under its attention."""

    def __init__(self, model: PreTrainedModel) -> None:
        config: Any = model.config.get_text_config()
        heads = int(config.num_attention_heads)
        key_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        self.cache_shape = CacheShape(int(config.num_hidden_layers), key_heads, size, model.dtype)
        self._model = model
        self._shared_heads = heads // key_heads
        self._views: dict[int, PreTrainedModel] = {}

    def add(self, owner: int, adapter_directory: Path | None) -> None:
        view = view_of(self._model)
        view.set_attn_implementation(ATTENTION)
        if adapter_directory is not None:
            attach_saved(view, adapter_directory, trainable=False)
        self._views[owner] = view

    def holds(self, owner: int, adapter_directory: Path) -> bool:
        saved = load_adapter_state(adapter_directory)
        held = adapter_state(self._views[owner])
        return held.keys() == saved.keys() and all(torch.equal(held[name].cpu(), saved[name]) for name in held)

    def remove(self, owner: int) -> None:
        self._views.pop(owner, None)

    def run(self, pieces: abc.Sequence[Piece], cache: BlockCache) -> tuple[Tensor, list[Piece]]:
        found: list[Tensor] = []
        completing: list[Piece] = []
        for owner, own in _by_owner(pieces):
            plan = plan_step(own, self.cache_shape, self._shared_heads, self._model.device)
            output: Any = self._views[owner](
                input_ids=plan.ids.unsqueeze(0),
                position_ids=plan.positions.unsqueeze(0),
                use_cache=False,
                logits_to_keep=plan.wanted,
                block_cache=cache,
                cache_plan=plan.cache,
            )
            found.append(output.logits[0])
            completing.extend(plan.completing)
        return torch.cat(found), completing


@torch.inference_mode()
def probe(runner: Runner, owner: int, ids: list[int], device: torch.device) -> Tensor:
    """Logits [vocabulary] in fp32 on the CPU at the last position of ``ids``, in a small cache of its own."""
    blocks = -(-len(ids) // BLOCK_TOKENS)
    cache = BlockCache(runner.cache_shape, blocks + 1, device)
    sequence = Sequence(owner, list(ids), len(ids), 1, frozenset(), blocks=list(range(1, blocks + 1)))
    logits, _ = runner.run([Piece(sequence, 0, len(ids))], cache)
    return logits[0].float().cpu()


def probe_difference(found: Tensor, recorded: Tensor) -> float:
    """Root mean square difference over the standard deviation of ``recorded``; infinite for another shape."""
    if found.shape != recorded.shape:
        return float("inf")
    return float((found - recorded).square().mean().sqrt() / recorded.std().clamp_min(1e-6))


def _by_owner(pieces: abc.Sequence[Piece]) -> Iterator[tuple[int, list[Piece]]]:
    ordered = sorted(pieces, key=lambda piece: piece.sequence.owner)
    for owner, own in groupby(ordered, key=lambda piece: piece.sequence.owner):
        yield owner, list(own)


def block_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    block_cache: BlockCache,
    cache_plan: CachePlan,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface over our cache; query, key and value are [1, heads, tokens, size]."""
    del attention_mask, options
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    packed = [states[0].transpose(0, 1) for states in (query, key, value)]
    output = attend(packed[0], packed[1], packed[2], block_cache.layers[module.layer_idx], cache_plan, scale)
    return output.unsqueeze(0), None


def _no_mask(*arguments: Any, **options: Any) -> None:
    """What each row may see is in the cache plan."""
    del arguments, options


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, block_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, _no_mask)
