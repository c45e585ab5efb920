"""Training gives way to serving: it pauses between two steps while clients wait too long for their first token.

Niceness and short spins of the worker's threads (:mod:`selflearn.learning.process`) share the processor all the time;
a pause is for when that is not enough. It costs the update time and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

#: How long nobody must have waited too long before training goes on. Each pause that follows soon upon the last one
#: doubles it, up to the longest: a client that comes every few seconds must not meet a training step every time.
CALM_SECONDS: Final = 2.0
LONGEST_CALM_SECONDS: Final = 60.0


class Preemption:
    """When one update pauses. :meth:`look` is called several times a second, by one thread."""

    def __init__(
        self,
        pause: Callable[[], None],
        resume: Callable[[], None],
        longest_wait: Callable[[], float],
        *,
        limit_seconds: float,
        max_pause_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``pause`` and ``resume`` are the worker's; ``longest_wait()`` is the longest wait for a first token since the
        last call, and above the limit is too long.

        A limit of 0 never pauses; in all, no update pauses longer than ``max_pause_seconds``.
        """
        self._stop, self._go_on, self._longest_wait = pause, resume, longest_wait
        self._limit, self._most, self._clock = limit_seconds, max_pause_seconds, clock
        self._began: float | None = None
        self._ended = -LONGEST_CALM_SECONDS
        self._last_slow = 0.0
        self._calm = CALM_SECONDS
        self._before = 0.0

    @property
    def seconds(self) -> float:
        """How long the update has been told to pause, in all."""
        return self._before + (0.0 if self._began is None else self._clock() - self._began)

    def look(self) -> None:
        """Pauses the worker, or lets it go on, if it is time for that."""
        if self._limit == 0.0:
            return
        now = self._clock()
        slow = self._longest_wait() > self._limit
        if slow:
            self._last_slow = now
        if self._began is None:
            if slow and self.seconds < self._most:
                self._pause(now)
        elif self.seconds >= self._most or now - self._last_slow >= self._calm:
            self._resume(now)

    def _pause(self, now: float) -> None:
        soon = now - self._ended < LONGEST_CALM_SECONDS
        self._calm = min(2.0 * self._calm, LONGEST_CALM_SECONDS) if soon else CALM_SECONDS
        self._began = now
        self._stop()

    def _resume(self, now: float) -> None:
        self._before, self._began, self._ended = self.seconds, None, now
        self._go_on()
