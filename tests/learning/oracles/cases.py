"""What the losses are compared on: token ids for the tiny model of ``conftest``, and how far it has moved."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

BETA: Final = 0.3


def _ids(seed: int, count: int) -> list[int]:
    return torch.randint(3, 380, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


PROMPTS: Final = [_ids(1, 9), _ids(2, 4), _ids(3, 12), _ids(4, 7)]
CHOSEN: Final = [_ids(5, 5), _ids(6, 1), _ids(7, 8), _ids(8, 3)]
REJECTED: Final = [_ids(9, 3), _ids(10, 6), _ids(11, 1), _ids(12, 3)]
LABELS: Final = {"all undesirable": [False] * 4, "mixed": [True, False, True, False], "all desirable": [True] * 4}


@torch.no_grad()
def move(model: nn.Module) -> None:
    """Adds a change of rank 2 to every projection of the attention."""
    generator = torch.Generator().manual_seed(13)
    for name, weight in model.named_parameters():
        if name.endswith("_proj.weight") and "self_attn" in name:
            left = torch.randn(weight.shape[0], 2, generator=generator)
            right = torch.randn(2, weight.shape[1], generator=generator)
            weight.add_(0.15 / 2**0.5 * left @ right)
