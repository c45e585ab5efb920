"""How long an update still takes: what each of its phases has to do, and how fast this update or the last one was.

The unit is a token that goes once through the model. A training step or a gradient for the importance sends it back
as well, which counts as one more: of the base, which is frozen, only the activations have gradients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from selflearn.learning.job import Job, JobExample

LOADING: Final = "loading"
MEASURING: Final = "measuring"
TRAINING: Final = "training"
IMPORTANCE: Final = "importance"
PAUSED: Final = "paused"

#: The phases that every update has, in their order.
PHASES: Final = (LOADING, f"{MEASURING} parent", TRAINING, f"{MEASURING} candidate", IMPORTANCE)

#: Rough sizes: the first guess rests on them, and what is measured soon takes its place.
_CHARACTERS_PER_TOKEN: Final = 4
_ANCHOR_TOKENS: Final = 80
_ANCHORS: Final = 48
_BACK_AND_FORTH: Final = 2


def phase_of(line: Mapping[str, Any]) -> str:
    """The phase that a progress line speaks of; the two measurements are told apart."""
    return f"{line['phase']} {line['of']}" if line["phase"] == MEASURING else str(line["phase"])


def work_of(job: Job) -> dict[str, float]:
    """About how many tokens go through the model in each phase. Training is counted whole: it may stop early."""
    learning = job.learning
    train, replay, holdout, retained = (
        [_tokens(example) for example in job.having(role)] for role in ("train", "replay", "holdout", "retained")
    )
    steps = math.ceil(len(train) / learning.batch_size)
    replayed = learning.replay_share * len(train) * (sum(replay) / len(replay)) if replay else 0.0
    anchors = steps * learning.anchor_batch * _ANCHOR_TOKENS if learning.kl_weight else 0
    mean = (sum(train) + sum(replay)) / max(1, len(train) + len(replay))
    judged = sum(holdout) + sum(retained)
    return {
        f"{MEASURING} parent": float(sum(train) + judged),
        TRAINING: learning.passes * (_BACK_AND_FORTH * (sum(train) + replayed + anchors) + sum(holdout)),
        f"{MEASURING} candidate": float(judged + _ANCHORS * _ANCHOR_TOKENS),
        IMPORTANCE: _BACK_AND_FORTH * learning.fisher_sequences * mean,
    }


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast an update was: its computing phases in tokens per second, and the seconds that loading took."""

    tokens_per_second: float
    loading_seconds: float


class Forecast:
    """Follows the progress lines of one update.

    ``work`` is that of :func:`work_of`, ``before`` the speed of the last update where there was one: without it nothing
    can be said before the first phase that computes is over.
    """

    def __init__(self, work: Mapping[str, float], before: Speed | None = None) -> None:
        self._work, self._before = work, before
        self._phase: str | None = None
        self._began = 0.0
        self._share, self._told_at = 0.0, 0.0
        self._pause_began: float | None = None
        self._paused = 0.0  # seconds of the present phase
        self._spent: dict[str, float] = {}

    def saw(self, line: Mapping[str, Any]) -> None:
        """Takes in a progress line, which has the time ``at`` (unix seconds) and a ``phase``."""
        at, phase = float(line["at"]), phase_of(line)
        if phase == PAUSED:
            self._pause_began = at
            return
        if self._pause_began is not None:
            self._paused += at - self._pause_began
            self._pause_began = None
        if phase != self._phase:
            if self._phase is not None:
                self._spent = {**self._spent, self._phase: self._elapsed(at)}  # others may be reading
            self._phase, self._began, self._paused, self._share = phase, at, 0.0, 0.0
        if "steps" in line or "share" in line:
            self._share = line["step"] / line["steps"] if "steps" in line else float(line["share"])
            self._told_at = at

    @property
    def speed(self) -> Speed | None:
        """How fast this update is as far as it came, else how fast the last one was; None if nobody knows."""
        done = {phase: self._work[phase] for phase in self._spent if phase in self._work}
        seconds = sum(self._spent[phase] for phase in done)
        if self._phase == TRAINING and self._share:
            done[TRAINING] = self._share * self._work[TRAINING]
            seconds += self._elapsed(self._told_at)
        if not done or seconds <= 0.0:
            return self._before
        return Speed(sum(done.values()) / seconds, self._spent.get(LOADING, 0.0))

    def seconds_left(self, now: float) -> float | None:
        """Seconds until the report, without pauses to come; None as long as nothing is known of the speed."""
        speed = self.speed
        if speed is None or self._phase is None:
            return None
        present = PHASES.index(self._phase) if self._phase in PHASES else 0
        later = sum(self._work[phase] for phase in PHASES[present + 1 :])
        return self._left_of_present(speed, now) + later / speed.tokens_per_second

    def _left_of_present(self, speed: Speed, now: float) -> float:
        if self._share:
            whole = self._elapsed(self._told_at) / self._share
        elif self._phase == LOADING:
            whole = speed.loading_seconds
        else:
            whole = self._work.get(self._phase or "", 0.0) / speed.tokens_per_second
        return max(0.0, whole - self._elapsed(now))

    def _elapsed(self, now: float) -> float:
        """Seconds of the present phase in which it was at work."""
        pausing = 0.0 if self._pause_began is None else max(0.0, now - self._pause_began)
        return now - self._began - self._paused - pausing


def _tokens(example: JobExample) -> float:
    said = sum(len(str(message.get("content") or "")) for message in example.messages)
    return (said + len(example.target)) / _CHARACTERS_PER_TOKEN
