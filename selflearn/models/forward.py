"""Token sequences as batches, and forward passes that only compute the logits of the response.

Where the model allows it, a batch runs without padding and with the common beginning of its rows once (chats of one
template begin alike): see :mod:`~selflearn.models.packed`. Else rows are padded on the left, so that all responses end
in the last column. Either way prompts never pass through the output head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selflearn.models.packed import CannotPack, Packed, can_pack, pack, packed_logits

#: A shorter common beginning is not worth an attention of its own.
SHORTEST_PREFIX = 8


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A prompt and its response as token ids; ``ids[prompt_length:]`` is the response and is never empty."""

    ids: tuple[int, ...]
    prompt_length: int

    @property
    def response_length(self) -> int:
        return len(self.ids) - self.prompt_length


@dataclass(frozen=True, slots=True)
class Batch:
    """Left-padded rows. ``input_ids``, ``attention_mask``, ``position_ids``: [rows, length] int64;
    ``targets``: [rows, width] int64, the response right-aligned, -1 where there is none.

    ``packed`` are the same rows without padding; ``tokens`` is their number of tokens, prompts and responses.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    targets: Tensor
    tokens: int
    packed: Packed | None = None

    @property
    def mask(self) -> Tensor:
        """[rows, width] bool: true on response tokens."""
        return self.targets >= 0


def collate(sequences: Sequence[TokenSequence], device: torch.device, *, share_prefix: bool = True) -> Batch:
    """Puts ``sequences`` into one batch on ``device``.

    Without ``share_prefix`` the model sees [rows, length] and nothing of one row in another, for those who look at
    hidden states.
    """
    length = max(len(sequence.ids) for sequence in sequences)
    width = max(sequence.response_length for sequence in sequences)
    input_ids = torch.zeros((len(sequences), length), dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    targets = torch.full((len(sequences), width), -1, dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        ids = torch.tensor(sequence.ids, dtype=torch.int64)
        input_ids[row, length - len(ids) :] = ids
        attention_mask[row, length - len(ids) :] = 1
        targets[row, width - sequence.response_length :] = ids[sequence.prompt_length :]
    position_ids = (attention_mask.cumsum(dim=1) - 1).clamp_min(0)
    return Batch(
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        position_ids=position_ids.to(device),
        targets=targets.to(device),
        tokens=sum(len(sequence.ids) for sequence in sequences),
        packed=_packed(sequences, device) if share_prefix else None,
    )


def _packed(sequences: Sequence[TokenSequence], device: torch.device) -> Packed:
    rows, prompt_lengths = [sequence.ids for sequence in sequences], [sequence.prompt_length for sequence in sequences]
    return pack(rows, prompt_lengths, _shared_length(sequences), device)


def _shared_length(sequences: Sequence[TokenSequence]) -> int:
    """How many first tokens all have in common; the last of each prompt stays out: it predicts the response."""
    if len(sequences) < 2:
        return 0
    limit = min(sequence.prompt_length for sequence in sequences) - 1
    low, high = min(sequence.ids for sequence in sequences), max(sequence.ids for sequence in sequences)
    shared = next((at for at in range(limit) if low[at] != high[at]), max(limit, 0))
    return shared if shared >= SHORTEST_PREFIX else 0


def in_batches(sequences: Sequence[TokenSequence], size: int) -> Iterator[list[int]]:
    """Yields index lists of at most ``size`` sequences of similar length, longest first (the peak comes early)."""
    order = sorted(range(len(sequences)), key=lambda index: (-len(sequences[index].ids), index))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def under_budget(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Yields index lists of rows whose padded size (rows × longest) is at most ``max_tokens``, longest first.

    A row that is longer than that comes alone. Rows of equal length stay in their order.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    start = 0
    while start < len(order):
        rows = max(1, max_tokens // max(1, lengths[order[start]]))
        yield order[start : start + rows]
        start += rows


def response_logits(model: nn.Module, batch: Batch) -> Tensor:
    """[rows, width, vocabulary] logits in the model's dtype: position ``t`` predicts ``batch.targets[:, t]``.

    Zeros where there is no response token.
    """
    flat = flat_logits(model, batch)
    logits = flat.new_zeros((*batch.targets.shape, flat.shape[-1]))
    return logits.masked_scatter(batch.mask.unsqueeze(-1), flat)


def flat_logits(model: nn.Module, batch: Batch) -> Tensor:
    """[responses, vocabulary] logits in the model's dtype, of the tokens ``batch.targets[batch.mask]`` in that order.

    Nothing is kept for padding, so that short and long responses may share a batch.
    """
    if batch.packed is not None and can_pack(model):
        try:
            return packed_logits(model, batch.packed)
        except CannotPack:
            pass
    return _padded_logits(model, batch)


def _padded_logits(model: nn.Module, batch: Batch) -> Tensor:
    width, length = batch.targets.shape[1], batch.input_ids.shape[1]
    # positions instead of a count: a slice is not contiguous, for which torch copies the head once for each row
    kept = torch.arange(length - width - 1, length - 1, device=batch.input_ids.device)
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
        logits_to_keep=kept,
    )
    logits: Tensor = output.logits
    return logits[batch.mask]


def response_losses(model: nn.Module, batch: Batch) -> Tensor:
    """[rows, width] fp32 negative log-likelihood of each response token in nats, 0 where there is none."""
    flat = token_losses(flat_logits(model, batch), batch.targets[batch.mask])
    return flat.new_zeros(batch.targets.shape).masked_scatter(batch.mask, flat)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy per position in fp32. ``logits`` [..., vocabulary], ``targets`` [...] with -1 for none."""
    flat = nn.functional.cross_entropy(
        logits.flatten(0, -2).float(), targets.flatten(), ignore_index=-1, reduction="none"
    )
    return flat.view(targets.shape)
