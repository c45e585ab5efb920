"""Outliers: what stands out is left out, what is honest stays, and neither depends on who shouts loudest."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selflearn.learning.job import Job, JobExample
from selflearn.learning.outliers import FLOORS, MAX_SHARE, MIN_NORM, PRIOR, Outlier, Surprise, find_outliers
from selflearn.learning.update import run
from tests.learning.test_worker import LEARNING, example, job_for

LIMIT = 4.0


def surprise(number: int, loss: float, *, source: str = "local", tokens: int = 20, **given: Any) -> Surprise:
    """An example of ``tokens`` tokens with four bytes each, at ``loss`` nats per token."""
    size = given.pop("bytes", 4 * tokens)
    return Surprise(number, source, loss * tokens, tokens, size, **given)


def usual(count: int, *, start: int = 0, loss: float = 4.0, source: str = "local") -> list[Surprise]:
    """Examples around a loss: spread evenly over one nat."""
    return [surprise(start + n, loss + n / count - 0.5, source=source) for n in range(count)]


def flagged(examples: list[Surprise], limit: float = LIMIT) -> list[int]:
    return [outlier.id for outlier in find_outliers(examples, limit)]


def test_the_far_one_is_flagged_with_the_numbers() -> None:
    (outlier,) = find_outliers([*usual(19), surprise(99, 12.0, tokens=40)], LIMIT)

    assert (outlier.id, outlier.unit, outlier.loss) == (99, "token", 12.0)
    assert outlier.median == pytest.approx(4.0, abs=0.1)
    tempered = (12.0 * 40 + PRIOR * outlier.median) / (40 + PRIOR)
    assert outlier.deviation == FLOORS["token"]
    assert outlier.score == pytest.approx((tempered - outlier.median) / outlier.deviation)


def test_easy_examples_are_no_outliers() -> None:
    assert flagged([*usual(19, loss=9.0), surprise(99, 0.0, tokens=200)]) == []


def test_many_cheap_tokens_stand_out_per_byte() -> None:
    letters = surprise(99, 5.0, tokens=60, bytes=62)  # a token is a letter: nothing special per token

    (outlier,) = find_outliers([*usual(19), letters], LIMIT)

    assert (outlier.id, outlier.unit) == (99, "byte")


def test_a_short_answer_says_little() -> None:
    name = surprise(98, 12.0, tokens=3, bytes=9)
    assert flagged([*usual(19), name]) == []
    assert flagged([*usual(19), dataclasses.replace(name, nats=12.0 * 40, tokens=40, bytes=120)]) == [98]


def test_few_examples_make_no_norm() -> None:
    assert flagged([*usual(MIN_NORM - 2), surprise(99, 15.0, tokens=100)]) == []
    assert flagged([*usual(MIN_NORM - 1), surprise(99, 15.0, tokens=100)]) == [99]


def test_who_brings_many_is_compared_with_their_own_norm() -> None:
    theirs = usual(MIN_NORM, start=100, loss=11.0, source="astronomers")
    odd = surprise(200, 11.0, tokens=40, source="passer-by")

    assert flagged([*usual(60), *theirs, odd]) == [200]
    assert flagged([*usual(60), *theirs[:-1]])[:1] == [theirs[-2].id]  # too few for a norm of their own


def test_what_is_common_is_no_outlier() -> None:
    far = [surprise(90 + n, 15.0 + n, tokens=100) for n in range(8)]
    assert flagged([*usual(12), *far]) == [97, 96, 95, 94]  # a fifth of all, the farthest
    assert flagged([*usual(28), *far[:3]]) == [92, 91, 90]


def test_vouched_ones_are_exempt() -> None:
    far = surprise(99, 15.0, tokens=100)
    assert flagged([*usual(19), far]) == [99]
    assert flagged([*usual(19), dataclasses.replace(far, exempt=True)]) == []


def test_what_has_no_finite_loss_is_an_outlier_and_no_norm() -> None:
    broken = [surprise(90 + n, value) for n, value in enumerate((math.nan, math.inf))]
    assert flagged([*usual(19), *broken]) == [90, 91]
    assert flagged([surprise(n, math.nan) for n in range(40)]) == []


LOSSES = st.lists(
    st.tuples(st.floats(0, 20), st.integers(1, 300), st.sampled_from(["a", "b", "c"]), st.booleans()), max_size=60
)


@given(LOSSES, st.floats(0.5, 10))
def test_whatever_comes_few_are_flagged_and_the_order_does_not_matter(
    rows: list[tuple[float, int, str, bool]], limit: float
) -> None:
    examples = [
        surprise(n, loss, tokens=tokens, source=source, exempt=exempt)
        for n, (loss, tokens, source, exempt) in enumerate(rows)
    ]
    found = find_outliers(examples, limit)

    assert found == find_outliers(examples[::-1], limit)
    assert [outlier.score for outlier in found] == sorted((outlier.score for outlier in found), reverse=True)
    assert all(outlier.score > limit and not examples[outlier.id].exempt for outlier in found)
    for source in ("a", "b", "c"):
        own = [e for e in examples if e.source == source]
        if len(own) >= MIN_NORM:
            assert len([o for o in found if examples[o.id].source == source]) <= MAX_SHARE * len(own)
    assert len(found) <= 2 * MAX_SHARE * len(examples)
    assert set(map(type, found)) <= {Outlier}


# In the worker, with a real model


def garbage(number: int, role: Any = "train", **given: Any) -> JobExample:
    messages = [{"role": "user", "content": f"question number {number}"}]
    return JobExample(number, role, f"digest{number}", messages, "\x01\x07" * 60, **given)


def report_of(job: Job, folder: Path) -> dict[str, Any]:
    """What the worker reports, carried out in this process."""
    torch.set_num_threads(1)
    return run(job, folder, lambda phase, **numbers: None)


def taught(job: Job, *more: JobExample) -> Job:
    return dataclasses.replace(job, examples=(*job.examples, *more))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def job(tiny_model: Path, cache: Path) -> Job:
    """One pass over what the tests of the worker train, with one judge to spare."""
    short = LEARNING.model_copy(update={"passes": 1, "fisher_sequences": 2, "outlier_limit": 1.5})
    return taught(job_for(tiny_model, cache, learning=short), example(60, "holdout"))


def test_outliers_neither_train_nor_judge(job: Job, tmp_path: Path) -> None:
    plain = report_of(job, tmp_path / "plain")
    assert plain["left_out"] == []
    with_garbage = taught(job, garbage(80), garbage(81, "holdout"), garbage(82, vouched=False))
    report = report_of(with_garbage, tmp_path / "garbage")

    left_out = {row["id"]: row for row in report["left_out"]}
    assert {number: (row["role"], row["reason"]) for number, row in left_out.items()} == {
        80: ("train", "outlier"),
        81: ("holdout", "outlier"),
        82: ("train", "outlier"),
    }
    assert all(
        row["loss"] > row["median"] and row["score"] > 1.5 and row["unit"] == "byte" for row in left_out.values()
    )
    assert report["measurements"]["new_examples"] == plain["measurements"]["new_examples"] == 21
    assert report["measurements"]["holdout_parent"] == plain["measurements"]["holdout_parent"]
    one, other = (tmp_path / name / "candidate/adapter_model.safetensors" for name in ("plain", "garbage"))
    assert one.read_bytes() == other.read_bytes()  # as if the garbage had never been there


def test_judges_are_never_left_out_below_their_least_number(job: Job, tmp_path: Path) -> None:
    one_too_many = taught(job, garbage(81, "holdout"), garbage(82, "holdout"))
    least = job.judging.model_copy(update={"min_holdout": 10})
    report = report_of(dataclasses.replace(one_too_many, judging=least), tmp_path)

    assert [row["id"] for row in report["left_out"]] == [81]
    assert len(report["measurements"]["holdout_parent"]) == 10


def test_what_an_operator_vouches_for_trains(job: Job, tmp_path: Path) -> None:
    report = report_of(taught(job, garbage(80, vouched=True)), tmp_path)

    assert report["left_out"] == []
    assert report["measurements"]["new_examples"] == 22
