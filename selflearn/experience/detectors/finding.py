"""What a detector finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple


class Finding(NamedTuple):
    """``text[start:end]`` is a secret or personal; ``kind`` is a stable word for what it is."""

    start: int
    end: int
    kind: str


#: Finds in time linear in the text's length. What it says of a place depends on that place and its near surroundings.
Detector = Callable[[str], Iterable[Finding]]
