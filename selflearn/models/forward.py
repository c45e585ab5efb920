"""Token sequences as batches, and forward passes that only compute the logits of the response.

Rows are padded on the left, so that all responses end in the last column and one ``logits_to_keep`` cuts the output
head down to the longest response of the batch: prompts never pass through the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


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
    ``targets``: [rows, width] int64, the response right-aligned, -1 where there is none."""

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    targets: Tensor

    @property
    def mask(self) -> Tensor:
        """[rows, width] bool: true on response tokens."""
        return self.targets >= 0


def collate(sequences: Sequence[TokenSequence], device: torch.device) -> Batch:
    """Pads ``sequences`` into one batch on ``device``."""
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
    return Batch(*(tensor.to(device) for tensor in (input_ids, attention_mask, position_ids, targets)))


def in_batches(sequences: Sequence[TokenSequence], size: int) -> Iterator[list[int]]:
    """Yields index lists of at most ``size`` sequences of similar length, longest first (the peak comes early)."""
    order = sorted(range(len(sequences)), key=lambda index: (-len(sequences[index].ids), index))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def response_logits(model: nn.Module, batch: Batch) -> Tensor:
    """[rows, width, vocabulary] logits in the model's dtype: position ``t`` predicts ``batch.targets[:, t]``."""
    width = batch.targets.shape[1]
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
        logits_to_keep=width + 1,
    )
    logits: Tensor = output.logits[:, :-1]
    return logits[:, -width:]


def response_losses(model: nn.Module, batch: Batch) -> Tensor:
    """[rows, width] fp32 negative log-likelihood of each response token in nats, 0 where there is none."""
    return token_losses(response_logits(model, batch), batch.targets)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy per position in fp32. ``logits`` [..., vocabulary], ``targets`` [...] with -1 for none."""
    flat = nn.functional.cross_entropy(
        logits.flatten(0, -2).float(), targets.flatten(), ignore_index=-1, reduction="none"
    )
    return flat.view(targets.shape)
