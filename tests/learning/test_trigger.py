"""When an update starts, as a table."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from selflearn.config import LearningSettings
from selflearn.learning.trigger import Situation, reason_to_wait

SETTINGS = LearningSettings(min_examples=10, idle_seconds=30.0, max_wait_seconds=600.0)
READY = Situation(running=False, paused=False, new_examples=10, waiting_seconds=60.0, idle_seconds=31.0)


def test_enough_new_examples_and_idle_time_start_an_update() -> None:
    assert reason_to_wait(READY, SETTINGS) is None


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"running": True}, "running"),
        ({"paused": True}, "paused"),
        ({"new_examples": 9}, "too_few_examples"),
        ({"idle_seconds": 29.0}, "busy"),
    ],
)
def test_each_reason_to_wait_is_named(changed: dict[str, Any], word: str) -> None:
    reason = reason_to_wait(dataclasses.replace(READY, **changed), SETTINGS)

    assert reason is not None
    assert reason[0] == word


def test_learning_can_be_switched_off() -> None:
    reason = reason_to_wait(READY, SETTINGS.model_copy(update={"enabled": False}))

    assert reason is not None
    assert reason[0] == "disabled"


def test_who_has_waited_long_enough_does_not_wait_for_idle_time() -> None:
    assert reason_to_wait(dataclasses.replace(READY, idle_seconds=0.0, waiting_seconds=601.0), SETTINGS) is None
