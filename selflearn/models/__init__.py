"""Base models on disk, and LoRA adapters on them.

Finds, converts, fingerprints and loads base models; renders chats and tools to token ids; knows the bytes of tokens;
makes views that share a base's memory; attaches, saves and switches off adapters; runs batches without padding, with a
quantised base or with checkpointed activations; records how a base answers the probe. It knows nothing of versions,
rollouts, requests or HTTP.

Import the modules (``selflearn.models.library`` and its neighbours): ``library``, ``chat``, ``tools`` and
``vocabulary`` can be imported without torch.
"""

from __future__ import annotations

__all__ = [
    "adapter",
    "base",
    "chat",
    "checkpointing",
    "forward",
    "half_precision",
    "library",
    "packed",
    "quantization",
    "record",
    "tools",
    "views",
    "vocabulary",
]
