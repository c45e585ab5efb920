"""What a look of the schedule finds when it cannot start an update: counted by its reason, and said to who asks."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.daemon.updates import Updates
from selflearn.learning.trigger import Situation, reason_to_wait
from selflearn.monitoring import Metrics
from selflearn.monitoring.metrics import SKIPS
from tests.experience.synthetic import insert
from tests.stores import LEARNER, Bench


@pytest.mark.parametrize(
    ("columns", "share", "reason", "sentence"),
    [
        ({"cluster": "one question"}, 1.0, "too_few_judges", "only 0 of them can judge"),
        ({}, 0.0, "source_share", "no source may bring more than 4"),
    ],
)
def test_why_it_does_not_learn(bench: Bench, columns: dict[str, Any], share: float, reason: str, sentence: str) -> None:
    insert(bench, 30, **columns)
    metrics, loop = Metrics(), asyncio.new_event_loop()
    updates = Updates(
        store=bench.store,
        learner=LEARNER,
        state=bench.store.path.parent,
        base=cast(Any, None),  # no update gets as far as the model
        learning=LearningSettings(max_source_share=share, min_source_examples=4),
        judging=JudgingSettings,
        rollouts=cast(Any, None),
        metrics=metrics,
        idle_seconds=lambda: 3600.0,
        longest_wait=lambda: 0.0,
        loop=loop,
        now=bench.now,
    )

    updates.tick()
    loop.close()

    assert f'selflearn_learning_skipped_total{{reason="{reason}"}} 1.0' in metrics.exposition().decode()
    assert sentence in updates.status()["waiting_for"]
    assert bench.store.read("SELECT count(*) AS number FROM updates") == [{"number": 0}]


def test_every_reason_has_its_series_from_the_start() -> None:
    idle = Situation(running=False, paused=False, new_examples=0, waiting_seconds=0.0, idle_seconds=0.0)
    changes: tuple[dict[str, Any], ...] = (
        {"running": True},
        {"rebuilding": "1 update"},
        {"paused": True},
        {"held": 3},
        {"cooling": "after a rollback"},
        {},
        {"new_examples": 99},
    )
    found = [reason_to_wait(replace(idle, **change), LearningSettings()) for change in changes]
    words = {reason[0] for reason in found if reason is not None}
    assert len(words) == len(changes)
    assert words <= set(SKIPS)
