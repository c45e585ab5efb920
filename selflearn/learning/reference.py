"""What an update is held to: the base's answers to the anchors, and the importance of the weights where it starts.

What depends on the base alone is made once and kept, so that no update pays for it again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from selflearn.config import LearningSettings
from selflearn.learning.anchors import Anchors, anchors_for
from selflearn.learning.cache import IMPORTANCE
from selflearn.learning.importance import Importance, covers, estimate, load_importance, normalised, save_importance
from selflearn.learning.penalties import LowRank
from selflearn.models.adapter import attach_new
from selflearn.models.base import LoadedBase
from selflearn.models.forward import TokenSequence
from selflearn.models.views import view_of

SEQUENCES = 32
BATCH = 4


def reference_of(
    base: LoadedBase, cache: Path, on_progress: Callable[[str, float], None] = lambda step, share: None
) -> tuple[Anchors, Importance]:
    """The anchors of ``base`` and its factored importance on them, from ``cache`` or made now. ``base`` stays as it is.

    Only the factored kind is kept: it is small and does not depend on an adapter.
    """
    anchors = anchors_for(base, cache, lambda share: on_progress("answering the anchors", share))
    rows = [anchor.sequence for anchor in anchors.train[:SEQUENCES]]
    made_of: tuple[object, ...] = (base.sha256, base.model.dtype, base.device.type, rows)
    if base.quantization != "none":
        made_of += (base.quantization,)
    key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:12]
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


def importance_at_start(
    base: LoadedBase,
    adapter: Mapping[str, LowRank],
    settings: LearningSettings,
    known: Importance,
    rows: Sequence[TokenSequence],
    seed: int,
) -> Importance:
    """``known`` (the parent's, or the base's) where it is what ``settings.ewc`` asks for, else one estimated now.

    The setting may have changed since the parent was made, biases may train now, and the base keeps the factored kind
    alone. Then the Fisher is taken anew where the model is, on ``rows``: what was accumulated before the parent is
    lost, what the replayed examples among the rows show of it is not. Not normalised.
    """
    if covers(known, settings.ewc, adapter):
        return known
    generator = torch.Generator().manual_seed(seed)
    return normalised(estimate(base.model, rows, kind=settings.ewc, device=base.device, generator=generator))


def fisher_rows(learned: Sequence[TokenSequence], anchors: Sequence[TokenSequence], count: int) -> list[TokenSequence]:
    """What a Fisher estimate looks at: half of ``count`` evenly from what was ``learned``, the rest are anchors."""
    half = min(len(learned), max(1, count // 2))
    chosen = [learned[index * len(learned) // half] for index in range(half)]
    return [*chosen, *anchors[: max(1, count - half)]]
