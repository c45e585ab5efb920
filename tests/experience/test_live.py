"""What a version's answers meet with: counted by conversation, once, whenever it becomes known."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from selflearn.experience import finish_interaction
from selflearn.experience.live import Tally, Term
from tests.stores import LEARNER, Bench

FOREVER = Term(0, 0.0, math.inf, 100)


def tally(bench: Bench, term: Term = FOREVER) -> Tally:
    return Tally(LEARNER, term, bench.experience)


def look(bench: Bench, counting: Tally) -> tuple[int, int, int, int]:
    """Conversations, those with negative feedback, those with any, those that collapsed."""
    counting.look(bench.store.connection())
    return counting.conversations, counting.negative, counting.heard, counting.collapsed


def test_a_conversation_counts_once(bench: Bench) -> None:
    counting = tally(bench)
    first = bench.interaction("one?", conversation="a")
    second = bench.interaction("two?", conversation="a")
    third = bench.interaction("three?", conversation="b")
    assert look(bench, counting) == (2, 0, 0, 0)
    bench.feedback(first, "rating", value=-1)
    bench.feedback(second, "correction", text="the right one")
    bench.feedback(third, "rating", value=1)
    assert look(bench, counting) == (2, 1, 2, 0)
    assert look(bench, counting) == (2, 1, 2, 0)
    assert look(bench, tally(bench)) == (2, 1, 2, 0)  # as after a restart


def test_what_becomes_known_later_counts_as_well(bench: Bench) -> None:
    counting = tally(bench)
    slow = bench.interaction("slow?", state="running", conversation="slow")
    asked = [bench.interaction(f"{number}?") for number in range(60)]
    assert look(bench, counting)[0] == 60
    finish_interaction(
        bench.store, slow, answer="", state="completed", finish_reason="stop", completion_tokens=1, now=bench.now
    ).result()
    bench.feedback(asked[0], "rating", value=-1)
    assert look(bench, counting) == (61, 1, 1, 1)


@pytest.mark.parametrize(
    ("kind", "given", "negative"),
    [
        ("rating", {"value": -1}, 1),
        ("rating", {"value": 1}, 0),
        ("correction", {"text": "this is right"}, 1),
        ("preference", {"text": "this is better"}, 1),
        ("comment", {"text": "too long"}, 0),
        ("reward", {"value": 0.5}, 0),
        ("rating", {"value": -1, "role": "client"}, None),
        ("rating", {"value": -1, "signal": "next_turn"}, None),
    ],
)
def test_what_is_negative(bench: Bench, kind: str, given: dict[str, Any], negative: int | None) -> None:
    counting = tally(bench)
    bench.feedback(bench.interaction(), kind, **given)
    expected = (1, 0, 0, 0) if negative is None else (1, negative, 1, 0)
    assert look(bench, counting) == expected


def test_an_implicit_signal_counts_once_it_is_switched_on(bench: Bench) -> None:
    bench.experience = bench.experience.model_copy(update={"implicit_next_turn": True})
    bench.feedback(bench.interaction(), "rating", value=-1, signal="next_turn")
    assert look(bench, tally(bench)) == (1, 1, 1, 0)


def test_of_two_answers_the_worse_one_counts(bench: Bench) -> None:
    better = bench.interaction("the same?", "good", conversation="c")
    worse = bench.interaction("the same?", "bad", conversation="c")
    bench.feedback(better, "preference", over=worse)
    assert look(bench, tally(bench)) == (1, 1, 1, 0)


@pytest.mark.parametrize(
    ("answer", "given", "expected"),
    [
        ("", {}, (1, 0, 0, 1)),
        ("and so on " * 60, {}, (1, 0, 0, 1)),
        ("It is 8000, as", {"finish_reason": "length"}, (1, 0, 0, 1)),
        ("It is 8000.", {}, (1, 0, 0, 0)),
        ("It is", {"state": "cancelled"}, (0, 0, 0, 0)),
        ("", {"state": "failed"}, (1, 0, 0, 0)),
    ],
)
def test_answers_that_collapsed(
    bench: Bench, answer: str, given: dict[str, Any], expected: tuple[int, int, int, int]
) -> None:
    bench.interaction("How?", answer, **given)
    assert look(bench, tally(bench)) == expected


def test_failures_of_the_same_minute_count_once(bench: Bench) -> None:
    for _ in range(8):  # two seconds each, from second 1000 on
        bench.interaction("Why?", "", state="failed")
    for _ in range(60):
        bench.interaction("Why?", "Because.")
    counting = tally(bench)
    look(bench, counting)
    assert counting.minutes == (1, 3)


def test_only_the_term_counts(bench: Bench) -> None:
    for number in range(10):
        bench.interaction(f"{number}?", "" if number < 5 else "an answer")
    assert look(bench, tally(bench, dataclasses.replace(FOREVER, version=1))) == (0, 0, 0, 0)
    assert look(bench, tally(bench, dataclasses.replace(FOREVER, until=1010.0))) == (5, 0, 0, 5)
    assert look(bench, tally(bench, dataclasses.replace(FOREVER, since=1010.0))) == (5, 0, 0, 0)
    assert look(bench, tally(bench, dataclasses.replace(FOREVER, most=3))) == (3, 0, 0, 3)
    assert look(bench, tally(bench, dataclasses.replace(FOREVER, most=3, newest=True))) == (3, 0, 0, 0)
