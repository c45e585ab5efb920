"""The anchor probe: whether a served model still answers as it did when it came into service.

Greedy answers of an unchanged model to the same prompt differ only where two tokens were about equally likely: beside
other requests the same sums are added in another order. What departs elsewhere has been damaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

#: Where the first token was ahead of the second by less (nats), rounding may decide; by what the model computes in.
#: docs/judging.md says what was measured.
TOLERANCES: Final[Mapping[str, float]] = {"float32": 0.01, "bfloat16": 0.5, "float16": 0.5}


@dataclass(frozen=True, slots=True)
class Said:
    """A greedy answer: its tokens, and how far each was ahead of the second most likely (nats)."""

    tokens: tuple[int, ...]
    leads: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Departure:
    """Where an answer left what was said first: which prompt and token, and the lead that the first token had there."""

    prompt: int
    position: int
    lead: float

    def __str__(self) -> str:
        return (
            f"prompt {self.prompt} is answered differently from token {self.position} on, where the first answer was "
            f"ahead by {self.lead:.2f} nats"
        )


def departure(first: Sequence[Said], now: Sequence[Said], tolerance: float) -> Departure | None:
    """The first departure by more than rounding explains, prompt by prompt; None if there is none.

    Behind an excused departure the answers follow different texts: nothing more is read from them.
    """
    for prompt, (old, new) in enumerate(zip(first, now, strict=True)):
        for position, (before, after) in enumerate(zip(old.tokens, new.tokens, strict=True)):
            if before == after:
                continue
            if not old.leads[position] < tolerance:  # also when it is no number
                return Departure(prompt, position, old.leads[position])
            break
    return None
