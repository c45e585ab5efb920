"""Orthogonal subspaces: each update learns in rows of its own and leaves those of the past as they are.

O-LoRA (Wang et al. 2023) freezes the adapters of past tasks, adds a new one beside them, and keeps the rows
of its A orthogonal to theirs (:func:`selflearn.learning.penalties.overlap`). Several adapters side by side are one with
all their rows, since Σ B_i·A_i = [B_1 … B_n]·[A_1; …; A_n]: so a version is one plain LoRA still, of a rank that grows
with each update until it is compacted.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from selflearn.learning.care.compaction import compact, widen_model
from selflearn.learning.penalties import LowRank
from selflearn.models.adapter import factors, lora_layers, replace_factors


def grow(model: PreTrainedModel, *, rank: int, max_rank: int, seed: int) -> int:
    """Adds ``rank`` rows that change nothing yet to the adapter in ``model``; returns how many rows were there.

    Where there would be more than ``max_rank`` in all, the old ones are first compacted to what leaves room for the
    new (the best approximation by as many rows; a little is lost). s stays. Call it before the optimizer is made.
    """
    pairs = {name: factors(layer) for name, layer in lora_layers(model).items()}
    if _rank(model) + rank > max_rank:
        replace_factors(model, compact(pairs, 1.0, most=max_rank - rank)[0])
    old = _rank(model)
    widen_model(model, old + rank, seed)
    return old


def _rank(model: PreTrainedModel) -> int:
    return max(factors(layer)[0].shape[0] for layer in lora_layers(model).values())


def hold_rows(adapter: Mapping[str, LowRank], frozen: int, optimizer: Optimizer) -> None:
    """Keeps the first ``frozen`` rows of every A, and those columns of every B, as they are from now on.

    They get no gradient, so they do not count when gradients are clipped; and whatever ``optimizer`` does besides
    (weight decay, LAMB's scaling of whole tensors) is undone after each of its steps.
    """
    if frozen == 0:
        return
    held: list[tuple[Tensor, Tensor]] = []
    for layer in adapter.values():
        for parameter, rows in ((layer.a, (slice(frozen),)), (layer.b, (slice(None), slice(frozen)))):
            parameter.register_hook(lambda gradient, rows=rows: _without(gradient, rows))
            held.append((parameter.detach()[rows], parameter.detach()[rows].clone()))

    def put_back(*_: object) -> None:
        for live, kept in held:
            live.copy_(kept)

    optimizer.register_step_post_hook(put_back)


def _without(gradient: Tensor, rows: tuple[slice, ...]) -> Tensor:
    left = gradient.clone()
    left[rows] = 0.0
    return left
