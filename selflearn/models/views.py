"""Views: further model objects over the same weights.

A view has modules and a configuration of its own, so that an adapter or an attention implementation can be put into
it, while every parameter and buffer is the very tensor of the original: it costs milliseconds and almost no memory.
"""

from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedModel


def view_of(model: PreTrainedModel) -> PreTrainedModel:
    """A model that shares every parameter and buffer with ``model`` and nothing else."""
    shared: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        shared[id(tensor)] = tensor
    return copy.deepcopy(model, shared)
