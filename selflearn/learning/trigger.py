"""When an update starts by itself, and why it does not."""

from __future__ import annotations

from dataclasses import dataclass

from selflearn.config import LearningSettings


@dataclass(frozen=True, slots=True)
class Situation:
    """What the trigger looks at. Seconds count back from now; ``waiting_seconds`` is the age of the oldest example.

    ``held`` is the version that an operator wants to stay in service, if any. ``cooling`` says why it is too early
    after a rollback that nobody ordered; empty if it is not.
    ``rebuilding`` says what is made again after a forgetting; empty if nothing is.
    """

    running: bool
    paused: bool
    new_examples: int
    waiting_seconds: float
    idle_seconds: float
    held: int | None = None
    cooling: str = ""
    rebuilding: str = ""


def reason_to_wait(situation: Situation, settings: LearningSettings) -> tuple[str, str] | None:
    """None if an update should start now, else a stable word (for metrics) and a sentence (for people)."""
    if situation.running:
        return "running", "an update is running"
    if situation.rebuilding:
        return "rebuilding", situation.rebuilding
    if not settings.enabled:
        return "disabled", "learning.enabled is false"
    if situation.paused:
        return "paused", "an operator paused learning; 'selflearn learn resume' ends the pause"
    if situation.held is not None:
        return "pinned", f"version {situation.held} is held; 'selflearn rollout unpin {situation.held}' ends that"
    if situation.cooling:
        return "cooldown", situation.cooling
    if situation.new_examples < settings.min_examples:
        return "too_few_examples", f"{situation.new_examples} new examples, {settings.min_examples} needed"
    busy = situation.idle_seconds < settings.idle_seconds
    if busy and situation.waiting_seconds < settings.max_wait_seconds:
        return "busy", f"the last request was {situation.idle_seconds:.0f} s ago, {settings.idle_seconds:.0f} s needed"
    return None
