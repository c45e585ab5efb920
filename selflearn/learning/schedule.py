"""The learning rate over one update."""

from __future__ import annotations

import math


def warmup_cosine(step: int, steps: int, warmup_share: float) -> float:
    """The factor on the peak rate at ``step`` of ``steps``: linear rise, then half a cosine down to a tenth.

    (Loshchilov and Hutter 2017, eq. 5, without restarts.)
    """
    warmup = max(1, round(warmup_share * steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.1 + 0.9 * 0.5 * (1.0 + math.cos(math.pi * progress))
