"""Base models on disk, and LoRA adapters on them.

Finds, converts, fingerprints and loads base models; renders chats to token ids; makes views that share a base's
memory; attaches, saves and switches off adapters. It knows nothing of versions, rollouts, requests or HTTP.

Import the modules (``selflearn.models.library``, ``.base``, ``.chat``, ``.adapter``, ``.forward``,
``.views``): ``library`` and ``chat`` need no torch, the others do.
"""

from __future__ import annotations

__all__ = ["adapter", "base", "chat", "forward", "library", "views"]
