"""From the pieces of a step to the tensors of a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selflearn.serving.cache import BLOCK_TOKENS, MASKED, CachePlan, CacheShape, Group
from selflearn.serving.scheduler import Piece

SHORT = 256  # tokens: rows up to here are attended together, longer ones with those of about their length


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One packed forward pass over ``pieces``, in this order; those of one owner stand together.

    ``ids`` and ``positions`` are [tokens]; ``wanted`` [rows] are the places whose logits are needed, one for each of
    ``completing``; ``spans`` tells for each owner which tokens are its own.
    """

    ids: Tensor
    positions: Tensor
    cache: CachePlan
    wanted: Tensor
    completing: list[Piece]
    spans: tuple[tuple[int, slice], ...]


def plan_step(pieces: Sequence[Piece], shape: CacheShape, shared_heads: int, device: torch.device) -> StepPlan:
    """Packs ``pieces``; ``shared_heads`` query heads share a key head."""
    ordered = sorted(pieces, key=lambda piece: (piece.sequence.owner, piece.count > 1))
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    starts: list[int] = []
    for piece in ordered:
        starts.append(len(ids))
        ids.extend(piece.sequence.tokens[piece.start : piece.start + piece.count])
        places = range(piece.start, piece.start + piece.count)
        positions.extend(places)
        slots.extend(_slot(piece.sequence.blocks, place) for place in places)
    wanted = [start + piece.count - 1 for start, piece in zip(starts, ordered, strict=True) if piece.completes]
    packed = torch.tensor([ids, positions, slots], device=device)
    return StepPlan(
        ids=packed[0],
        positions=packed[1],
        cache=CachePlan(packed[2], _groups(ordered, starts, shape.dtype, shared_heads, device)),
        wanted=torch.tensor(wanted, dtype=torch.int64, device=device),
        completing=[piece for piece in ordered if piece.completes],
        spans=_spans(ordered, starts, len(ids)),
    )


def _slot(blocks: list[int], place: int) -> int:
    return blocks[place // BLOCK_TOKENS] * BLOCK_TOKENS + place % BLOCK_TOKENS


def _spans(pieces: Sequence[Piece], starts: Sequence[int], total: int) -> tuple[tuple[int, slice], ...]:
    firsts = [
        (piece.sequence.owner, start)
        for number, (piece, start) in enumerate(zip(pieces, starts, strict=True))
        if number == 0 or pieces[number - 1].sequence.owner != piece.sequence.owner
    ]
    ends = [start for _, start in firsts[1:]] + [total]
    return tuple((owner, slice(start, end)) for (owner, start), end in zip(firsts, ends, strict=True))


def _groups(
    pieces: Sequence[Piece], starts: Sequence[int], dtype: torch.dtype, shared_heads: int, device: torch.device
) -> tuple[Group, ...]:
    """Prompts one by one; sequences that decode together with those of about the same length."""
    groups: list[Group] = []
    classes: dict[int, list[int]] = {}
    for number, piece in enumerate(pieces):
        if piece.count > 1:
            groups.append(_prompt(piece, starts[number], dtype, shared_heads, device))
        else:
            classes.setdefault(_length_class(piece.start + 1), []).append(number)
    groups.extend(
        _decoding([pieces[n] for n in members], [starts[n] for n in members], dtype, shared_heads, device)
        for members in classes.values()
    )
    return tuple(groups)


def _length_class(length: int) -> int:
    return max(SHORT, 1 << (length - 1).bit_length())


def _prompt(piece: Piece, start: int, dtype: torch.dtype, shared_heads: int, device: torch.device) -> Group:
    end = piece.start + piece.count
    blocks = torch.tensor(piece.sequence.blocks[: -(-end // BLOCK_TOKENS)], device=device)
    tokens = _tokens(blocks)
    places = torch.arange(len(tokens), device=device)
    asking = torch.arange(piece.start, end, device=device)
    mask = torch.zeros((piece.count, len(tokens)), dtype=dtype, device=device)
    mask.masked_fill_(places > asking.unsqueeze(1), MASKED)
    repeated = mask.repeat(shared_heads, 1)
    return Group(start, 1, piece.count, None, tokens, repeated.view(1, 1, *repeated.shape))


def _decoding(
    pieces: Sequence[Piece], starts: Sequence[int], dtype: torch.dtype, shared_heads: int, device: torch.device
) -> Group:
    lengths = [piece.start + 1 for piece in pieces]
    count = -(-max(lengths) // BLOCK_TOKENS)
    table = [(blocks := piece.sequence.blocks)[:count] + [0] * (count - len(blocks)) for piece in pieces]
    tokens = _tokens(torch.tensor(table, device=device).flatten())
    places = torch.arange(count * BLOCK_TOKENS, device=device)
    mask = torch.zeros((len(pieces), len(places)), dtype=dtype, device=device)
    mask.masked_fill_(places >= torch.tensor(lengths, device=device).unsqueeze(1), MASKED)
    together = starts[-1] - starts[0] == len(starts) - 1
    return Group(
        start=starts[0],
        rows=len(pieces),
        width=1,
        index=None if together else torch.tensor(starts, device=device),
        tokens=tokens,
        mask=mask.view(len(pieces), 1, 1, -1).expand(-1, -1, shared_heads, -1),
    )


def _tokens(blocks: Tensor) -> Tensor:
    inside = torch.arange(BLOCK_TOKENS, device=blocks.device)
    return (blocks.unsqueeze(-1) * BLOCK_TOKENS + inside).flatten()
