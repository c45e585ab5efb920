"""Repetition: whether a text goes round in circles, as a model does that got stuck.

Honest texts repeat as well (tables, lists, code, poems with a refrain), but their repetitions differ a little, or
something else stands between them.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np

#: How many units back a loop may reach. A unit is a character, a word or a line.
_PERIODS: Final = {"characters": 32, "words": 64, "lines": 16}
_MIN_ROUNDS: Final = 4
#: A loop counts if it is at least so long and half of the text, or so long in any text (characters).
_SHORT_LOOP: Final = 60
_LONG_LOOP: Final = 400
#: Words in a row that occur before make a text repetitive if they are so large a part of it and it packs so well.
_RUN: Final = 8
_REPEATED_SHARE: Final = 0.7
_PACKED_SHARE: Final = 0.12
_MIN_PACKED: Final = 400
#: A unit that equals the one a period before, as numpy writes it.
_SAME: Final = b"\1"
#: See _may_loop: a stretch of so many characters, of which so many are looked for.
_STRETCH: Final = _SHORT_LOOP * (_MIN_ROUNDS - 1) // _MIN_ROUNDS
_PROBE: Final = 24


def repetition_of(text: str) -> str | None:
    """How a text repeats itself, as a sentence; None if it doesn't."""
    words = text.split()
    units = {"characters": list(text) if _may_loop(text) else [], "words": words, "lines": text.split("\n")}
    for name, sequence in units.items():
        covered, period = _longest_loop(sequence, _PERIODS[name])
        if covered and _counts(covered, period, len(text)):
            return f"the same {len(period)} characters follow each other over {covered} of {len(text)} characters"
    if len(text) < _MIN_PACKED or (packed := _packed_share(text)) > _PACKED_SHARE:
        return None
    if (share := _repeated_share(words)) >= _REPEATED_SHARE:
        return f"{share:.0%} of its words stand in runs that occur before, and it packs to {packed:.0%} of its size"
    return None


def _may_loop(text: str) -> bool:
    """Whether characters can go round in a loop that counts; hardly any text does, and this is quick to tell.

    Of a loop of 60 characters or more, at least 45 in a row stand again one period later. Some piece of 24 that begins
    at a multiple of 22 is among them, wherever they begin.
    """
    farthest = _PERIODS["characters"] + _PROBE
    places = range(0, len(text) - _PROBE, _STRETCH - _PROBE + 1)
    return any(text.find(text[at : at + _PROBE], at + 1, at + farthest) >= 0 for at in places)


def _counts(covered: int, period: str, size: int) -> bool:
    # Rulers, rows of zeros and dots without a letter may fill half a short table.
    if not any(map(str.isalpha, period)):
        return covered >= _LONG_LOOP and covered * 2 >= size
    return covered >= _LONG_LOOP or (covered >= _SHORT_LOOP and covered * 2 >= size)


def _longest_loop(units: Sequence[str], longest: int) -> tuple[int, str]:
    """Characters in the longest run of units that repeats with one period at least four times, and that period."""
    import numpy as np

    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(unit, len(numbers)) for unit in units])
    best = (0, "")
    glue = 0 if all(len(unit) == 1 for unit in numbers) else 1
    for period in range(1, min(longest, len(ids) // _MIN_ROUNDS) + 1):
        same = ids[period:] == ids[:-period]
        if _SAME * (_MIN_ROUNDS - 1) * period not in same.tobytes():  # far quicker than to measure all runs
            continue
        start, length = _longest_run(same)
        covered = sum(len(unit) + glue for unit in units[start : start + length + period])
        if covered > best[0]:
            best = (covered, "".join(units[start : start + period]))
    return best


def _longest_run(flags: np.ndarray) -> tuple[int, int]:
    """Where the longest run of true values starts, and its length."""
    import numpy as np

    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    if not len(edges):
        return 0, 0
    starts, ends = edges[::2], edges[1::2]
    best = int(np.argmax(ends - starts))
    return int(starts[best]), int(ends[best] - starts[best])


def _repeated_share(words: Sequence[str]) -> float:
    """Share of the words' runs of eight that occur before."""
    runs = Counter(tuple(words[start : start + _RUN]) for start in range(len(words) - _RUN + 1))
    return 1 - len(runs) / runs.total() if runs else 0.0


def _packed_share(text: str) -> float:
    raw = text.encode("utf-8", "replace")
    return len(zlib.compress(raw, 9)) / len(raw) if raw else 0.0
