"""What an update knows of the base model alone: its answers to the anchors, and its own importance.

Both are made once per base and kept, so that no update pays for them again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch

from selflearn.learning.anchors import Anchors, anchors_for
from selflearn.learning.cache import IMPORTANCE
from selflearn.learning.importance import Importance, estimate, load_importance, normalised, save_importance
from selflearn.models.adapter import attach_new
from selflearn.models.base import LoadedBase
from selflearn.models.views import view_of

SEQUENCES = 32
BATCH = 4


def reference_of(
    base: LoadedBase, cache: Path, on_progress: Callable[[str, float], None] = lambda step, share: None
) -> tuple[Anchors, Importance]:
    """The anchors of ``base`` and its importance on them, from ``cache`` or made now. ``base`` is not changed."""
    anchors = anchors_for(base, cache, lambda share: on_progress("answering the anchors", share))
    rows = [anchor.sequence for anchor in anchors.train[:SEQUENCES]]
    key = hashlib.sha256(repr((base.sha256, base.model.dtype, base.device.type, rows)).encode()).hexdigest()[:12]
    path = cache / IMPORTANCE.format(key=key)
    if not path.is_file():
        view = view_of(base.model)
        attach_new(view, rank=1, alpha=1.0, seed=0)
        new = estimate(
            view,
            rows,
            device=base.device,
            generator=torch.Generator().manual_seed(0),
            batch_size=BATCH,
            on_batch=lambda done: on_progress("weighing the weights", min(1.0, done * BATCH / len(rows))),
        )
        part = path.with_suffix(f".{os.getpid()}.part")
        save_importance(normalised(new), part)
        part.replace(path)
    return anchors, load_importance(path, base.device)
