"""The settings that are in force: those of the start, but for what was taken anew since."""

from __future__ import annotations

from dataclasses import dataclass

from selflearn.config import JudgingSettings, Settings, WatchdogSettings


@dataclass(slots=True)
class InForce:
    """Holds them for whoever has to see a change. Replaced as a whole, so that any thread may read it."""

    settings: Settings

    def judging(self) -> JudgingSettings:
        return self.settings.judging

    def watchdog(self) -> WatchdogSettings:
        return self.settings.watchdog
