"""What is made of measured values: a value, an interval, a difference."""

from __future__ import annotations

import json
import math

import pytest

from selflearn.learning.care.differing import configuration_change
from selflearn.learning.care.evaluating import Result, difference, summary


def test_no_interval_reaches_where_no_value_can_be() -> None:
    found = summary(Result("f1", "data", "mean", "higher", (0.0, 1.0), most=1.0), 0.95)
    assert (found["value"], found["low"], found["high"]) == (0.5, 0.0, 1.0)
    perplexity = summary(Result("perplexity", "data", "perplexity", "lower", (0.1, 2.0, 0.5)), 0.95)
    assert perplexity["value"] == pytest.approx(math.exp(2.6 / 3))
    assert perplexity["low"] == 1.0
    assert perplexity["high"] > perplexity["value"]


def test_what_is_no_number_is_null() -> None:
    for values in ((math.nan, 1.0, 1.0), (math.inf, 1.0, 1.0)):
        found = summary(Result("loss", "data", "mean", "lower", values), 0.95)
        assert (found["value"], found["low"], found["high"], found["samples"]) == (None, None, None, 3)
        json.dumps(found, allow_nan=False)
    assert summary(Result("perplexity", "data", "perplexity", "lower", (1e4, 1e4)), 0.95)["value"] is None


def test_differences_are_paired_by_example() -> None:
    """What all examples share hardly widens the interval of the difference, however far they lie apart."""
    before = tuple(float(number) for number in range(20))
    after = tuple(value + 0.5 + 0.01 * (index % 3) for index, value in enumerate(before))
    found = difference(Result("loss", "x", "mean", "lower", after), Result("loss", "x", "mean", "lower", before), 0.95)

    assert found["value"] == pytest.approx(0.5095, abs=1e-3)
    assert found["high"] - found["low"] < 0.02


def test_of_single_numbers_only_the_difference_is_known() -> None:
    one, two = (Result("bleu", "x", "number", "higher", (), value, 9) for value in (30.0, 20.0))

    assert difference(one, two, 0.95) == {"value": 10.0, "low": None, "high": None, "samples": 9}


def test_settings_that_differ_by_their_dotted_names() -> None:
    first = {"seed": 1, "learning": {"rank": 8, "alpha": 16}, "old": {"x": 1}}
    second = {"seed": 1, "learning": {"rank": 16, "alpha": 16}}

    assert configuration_change(first, second) == [
        {"setting": "learning.rank", "first": 8, "second": 16},
        {"setting": "old.x", "first": 1, "second": None},
    ]
