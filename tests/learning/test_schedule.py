"""The schedules against transformers' and torch's, step by step."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from transformers.optimization import (
    get_constant_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from selflearn.config import LearningSettings
from selflearn.learning.schedule import Schedule, make_schedule

STEPS, WARMUP = 60, 12
NAMES = ("constant", "linear", "cosine", "plateau")


def schedule(name: str, **changed: Any) -> Schedule:
    return make_schedule(LearningSettings(schedule=name, warmup_share=0.2, **changed), STEPS)


def some_optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def rates_of(optimizer: torch.optim.Optimizer, theirs: LRScheduler, count: int) -> list[float]:
    found = []
    for _ in range(count):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        theirs.step()
    return found


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_it_is_what_transformers_makes(name: str) -> None:
    optimizer = some_optimizer()
    theirs = {
        "constant": lambda: get_constant_schedule_with_warmup(optimizer, WARMUP),
        "linear": lambda: get_linear_schedule_with_warmup(optimizer, WARMUP, STEPS),
        "cosine": lambda: get_cosine_with_min_lr_schedule_with_warmup(optimizer, WARMUP, STEPS, min_lr_rate=0.1),
    }[name]()
    expected = rates_of(optimizer, theirs, STEPS)
    ours = [schedule(name).factor(step) for step in range(STEPS)]

    assert ours[: WARMUP - 1] == pytest.approx(expected[1:WARMUP])  # theirs wastes the first step on a rate of 0
    assert ours[WARMUP:] == pytest.approx(expected[WARMUP:])


@pytest.mark.parametrize("name", NAMES)
def test_it_rises_to_the_peak_and_never_again(name: str) -> None:
    factors = [schedule(name).factor(step) for step in range(STEPS)]

    assert factors[:WARMUP] == pytest.approx([(n + 1) / WARMUP for n in range(WARMUP)])
    assert max(factors) == 1.0
    assert all(later <= earlier for earlier, later in itertools.pairwise(factors[WARMUP:]))
    assert min(factors) > 0.0


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_no_rise_and_nothing_but_a_rise(name: str, share: float) -> None:
    made = make_schedule(LearningSettings(schedule=name, warmup_share=share), 10)
    factors = [made.factor(step) for step in range(10)]

    assert max(factors) == 1.0
    assert factors[0] == (1.0 if share == 0.0 else 0.1)


@pytest.mark.parametrize(
    "objectives",
    [
        [3.0, 2.0, 1.0, 0.5],
        [3.0, 2.0, 2.5, 2.4, 1.9, 1.9, 2.0],
        [1.0] * 12,
        [2.0, math.nan, 1.5, math.nan],
        [math.inf, 1.0, math.inf],
    ],
    ids=["improving", "mixed", "standing still", "not a number", "infinite"],
)
def test_plateau_is_what_torch_makes(objectives: list[float]) -> None:
    optimizer = some_optimizer()
    theirs = ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.0, min_lr=0.1)
    ours = schedule("plateau")
    for objective in objectives:
        theirs.step(objective)
        ours.saw(objective)
        assert ours.factor(WARMUP) == pytest.approx(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_looks_mean_nothing_to_the_others(name: str) -> None:
    one, other = schedule(name), schedule(name)
    for objective in (1.0, 2.0, 3.0):
        one.saw(objective)

    assert [one.factor(step) for step in range(STEPS)] == [other.factor(step) for step in range(STEPS)]
