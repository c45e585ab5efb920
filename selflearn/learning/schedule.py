"""The learning rate over one update: a factor on the peak rate for every step.

All schedules begin with a linear rise over ``warmup_share`` of the steps. What follows is a function of the progress
p, from 0 at the end of the rise to 1 at the end of the update; *plateau* instead waits for what the looks at the
holdout say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from selflearn.config import LearningSettings

#: Cosine and plateau never go below this share of the peak: an update that still learns shall not stand still.
FLOOR = 0.1
#: What a look without improvement leaves of the rate. Looks are few, one per pass, so the first one counts.
PLATEAU_FACTOR = 0.5


def _constant(progress: float) -> float:
    del progress
    return 1.0


def _linear(progress: float) -> float:
    return 1.0 - progress


def _cosine(progress: float) -> float:
    """Loshchilov and Hutter 2017, eq. 5, without restarts, with a floor."""
    return FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + math.cos(math.pi * progress))


_SHAPES: Mapping[str, Callable[[float], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "plateau": _constant,
}


class Schedule:
    """The factor on the peak rate at each of ``steps`` steps. It remembers looks only if it is to ``reduce``."""

    def __init__(self, shape: Callable[[float], float], *, steps: int, warmup: int, reduce: bool = False) -> None:
        self._shape, self._steps, self._warmup, self._reduce = shape, steps, warmup, reduce
        self._best = math.inf
        self._left = 1.0

    def factor(self, step: int) -> float:
        """The factor at ``step``, counted from 0; at most 1, and above 0 at every step before the last."""
        if step < self._warmup:
            return self._left * (step + 1) / self._warmup
        return self._left * self._shape((step - self._warmup) / max(1, self._steps - self._warmup))

    def saw(self, objective: float) -> None:
        """Takes note of a look at the holdout: *plateau* halves the rate if it is not lower than every one before."""
        if objective < self._best:
            self._best = objective
        elif self._reduce:
            self._left = max(FLOOR, self._left * PLATEAU_FACTOR)


def make_schedule(settings: LearningSettings, steps: int) -> Schedule:
    """The schedule that ``settings`` name, for an update of ``steps`` steps."""
    warmup = max(1, round(settings.warmup_share * steps))
    name = settings.schedule
    return Schedule(_SHAPES[name], steps=steps, warmup=warmup, reduce=name == "plateau")
