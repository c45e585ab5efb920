"""What a change of an adapter costs: how the model answers before and after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from selflearn.judging.measures import losses
from selflearn.learning.anchors import Anchor, measure_anchors
from selflearn.models.base import LoadedBase
from selflearn.models.forward import TokenSequence


@dataclass(frozen=True, slots=True)
class Measured:
    """Means in nats per token: the loss on the base's answers to the anchors and KL(base || model) there, and the loss
    on ``examples`` examples (None without any)."""

    anchor_loss: float
    anchor_divergence: float
    examples: int
    example_loss: float | None

    def as_dict(self) -> dict[str, float | int | None]:
        return asdict(self)


def measure(base: LoadedBase, anchors: Sequence[Anchor], sequences: Sequence[TokenSequence]) -> Measured:
    """Measures ``base`` with the adapter that is in it now."""
    anchor_losses, divergences = measure_anchors(base, anchors)
    found = losses(base.model, sequences, base.device)
    return Measured(fmean(anchor_losses), fmean(divergences), len(found), fmean(found) if found else None)
