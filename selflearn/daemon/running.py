"""The update that runs: what it was opened with, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from selflearn.config import JudgingSettings
from selflearn.daemon.preemption import Preemption
from selflearn.daemon.steps import Opened
from selflearn.learning.forecast import Forecast
from selflearn.learning.process import Worker


@dataclass(slots=True)
class Running:
    """One update from its start to its end. What is None comes later, or never if it is cancelled before."""

    opened: Opened
    trigger: str
    judging: JudgingSettings
    started_at: float
    progress: dict[str, Any] = field(default_factory=dict)
    forecast: Forecast | None = None
    worker: Worker | None = None
    preemption: Preemption | None = None
    cancelled_because: str | None = None
    steps: list[tuple[str, float]] = field(default_factory=list)  # what was done, and when (unix seconds) it began

    @property
    def update(self) -> int:
        """Its number, and that of the version it may become."""
        return self.opened.update

    def begin(self, step: str, at: float) -> None:
        """Notes that a step begins, which ends the one before; harmless while it goes on."""
        if not self.steps or self.steps[-1][0] != step:
            self.steps.append((step, at))

    def counted(self) -> dict[str, Any]:
        """What it is and how many examples it has by role, for the log."""
        counted = {role: len(examples) for role, examples in self.opened.snapshot.roles().items()}
        return {"update": self.update, "parent": self.opened.parent, "trigger": self.trigger, **counted}

    def describe(self, now: float) -> dict[str, Any]:
        """How far it is, as ``running`` of ``LearningControl.status``."""
        progress = self.progress
        return {
            "update": self.update,
            "trigger": self.trigger,
            "phase": progress.get("phase", "starting"),
            "step": int(progress.get("step", 0)),
            "steps": int(progress.get("steps", 0)),
            "loss": progress.get("loss"),
            "started_at": self.started_at,
            "elapsed_seconds": now - self.started_at,
            "paused_seconds": 0.0 if self.preemption is None else self.preemption.seconds,
            "seconds_left": None if self.forecast is None else self.forecast.seconds_left(now),
        }
