"""Time left: what is said of it in each phase, against updates whose times are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selflearn.learning.forecast import PHASES, Forecast, Speed, work_of
from tests.learning.test_worker import LEARNING, job_for

#: At 100 tokens a second: 10 s, 60 s, 5 s and 5 s.
WORK = {"measuring parent": 1000.0, "training": 6000.0, "measuring candidate": 500.0, "importance": 500.0}


def line(at: float, phase: str, **more: Any) -> dict[str, Any]:
    return {"at": at, "phase": phase, **more}


def followed(*lines: dict[str, Any], before: Speed | None = None) -> Forecast:
    forecast = Forecast(WORK, before)
    for each in lines:
        forecast.saw(each)
    return forecast


BEGUN = (line(0.0, "loading"), line(4.0, "measuring", of="parent"))
MEASURED = (*BEGUN, line(14.0, "training"))
HALF = (*MEASURED, line(44.0, "training", step=10, steps=20))


def test_nobody_knows_before_anything_was_computed() -> None:
    assert Forecast(WORK).seconds_left(0.0) is None
    assert followed(*BEGUN).seconds_left(5.0) is None


def test_the_speed_of_the_last_update_serves_until_there_is_an_own_one() -> None:
    before = Speed(tokens_per_second=100.0, loading_seconds=4.0)
    assert followed(line(0.0, "loading"), before=before).seconds_left(1.0) == pytest.approx(3 + 10 + 60 + 5 + 5)
    assert followed(*BEGUN, before=before).seconds_left(6.0) == pytest.approx(8 + 60 + 5 + 5)
    assert followed(*MEASURED, before=Speed(1.0, 1.0)).seconds_left(14.0) == pytest.approx(60 + 5 + 5)


def test_what_was_measured_says_how_long_training_takes_and_its_own_steps_say_it_better() -> None:
    assert followed(*MEASURED).seconds_left(24.0) == pytest.approx(50 + 5 + 5)
    assert followed(*HALF).seconds_left(44.0) == pytest.approx(30 + 5 + 5)
    twice_as_slow = followed(*MEASURED, line(74.0, "training", step=10, steps=20))
    assert twice_as_slow.seconds_left(80.0) == pytest.approx(60 - 6 + 1000 / (4000 / 70))


def test_a_pause_is_no_work() -> None:
    paused = (*HALF, line(45.0, "paused"))
    assert followed(*paused).seconds_left(45.0) == followed(*paused).seconds_left(1000.0) == pytest.approx(29 + 10)
    resumed = followed(*paused, line(1045.0, "training"), line(1074.0, "training", step=20, steps=20))
    assert resumed.seconds_left(1074.0) == pytest.approx(10)
    assert resumed.speed is not None
    assert resumed.speed.tokens_per_second == pytest.approx(100.0)
    assert resumed.speed.loading_seconds == 4.0


def test_after_training_the_rest_is_left_and_never_less_than_nothing() -> None:
    after = (*HALF, line(74.0, "measuring", of="candidate"))
    assert followed(*after).seconds_left(75.0) == pytest.approx(4 + 5)
    assert followed(*after, line(79.0, "importance", of="candidate")).seconds_left(90.0) == 0.0


def test_the_first_update_of_a_base_has_phases_of_its_own() -> None:
    before = Speed(100.0, 4.0)
    answering = followed(line(0.0, "loading"), line(4.0, "answering the anchors", share=0.0), before=before)
    assert answering.seconds_left(5.0) == pytest.approx(10 + 60 + 5 + 5)
    answering.saw(line(24.0, "answering the anchors", share=0.5))
    assert answering.seconds_left(24.0) == pytest.approx(20 + 10 + 60 + 5 + 5)


def test_the_work_grows_with_what_there_is_to_do(tmp_path: Path) -> None:
    job = job_for(tmp_path, tmp_path)
    twice = job_for(tmp_path, tmp_path, learning=LEARNING.model_copy(update={"passes": 2 * LEARNING.passes}))

    assert set(work_of(job)) == set(PHASES) - {"loading"}
    assert work_of(twice)["training"] == pytest.approx(2 * work_of(job)["training"])
    assert work_of(twice)["importance"] == work_of(job)["importance"] > 0.0
