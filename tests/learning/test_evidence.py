"""Evidence: what parent and candidate answer, in numbers and side by side."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.errors import ConfigurationError
from selflearn.judging import Limits, Measurements
from selflearn.judging.answering import collapse
from selflearn.judging.canary_prompts import CanaryPrompt
from selflearn.learning.anchors import generate_greedy
from selflearn.learning.evidence import (
    Evidence,
    EvidencePrompts,
    check_canaries,
    gather,
    write_answers,
)
from selflearn.learning.job import Job, JobExample
from selflearn.learning.measuring import source_limit, source_shares
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.chat import encode_prompt, stop_ids

CANARIES = (
    CanaryPrompt.model_validate({"name": "any", "prompt": "hello", "expect": ["."]}),
    CanaryPrompt.model_validate({"name": "none", "prompt": "hello", "forbid": ["."], "required": True}),
)

ANSWER_TOKENS = 16

LIMITS = Limits.of(JudgingSettings())


def measured(parent: Mapping[str, Any], candidate: Mapping[str, Any]) -> Measurements:
    """Measurements of nothing else."""
    return Measurements(*([],) * 7, {}, (), False, 0, 0, evidence={"parent": parent, "candidate": candidate})


def held_out(number: int, source: str = "a") -> JobExample:
    messages = [{"role": "user", "content": f"question number {number}"}]
    return JobExample(number, "holdout", "", messages, f"the answer is {number}", source=source)


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> LoadedBase:
    return load_base(tiny_model, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def job(tiny_model: Path) -> Job:
    return Job(
        update=1,
        learner="default",
        model_directory=str(tiny_model),
        cache_directory="unused",
        parent=0,
        parent_directory=None,
        seed=3,
        device="cpu",
        dtype="float32",
        learning=LearningSettings(),
        judging=JudgingSettings(shown_answers=2, answer_tokens=ANSWER_TOKENS),
        examples=tuple(held_out(number) for number in range(6)),
        canaries=CANARIES,
    )


@pytest.fixture(scope="module")
def prompts(job: Job) -> EvidencePrompts:
    return EvidencePrompts.of(job, job.examples)


@pytest.fixture(scope="module")
def gathered(base: LoadedBase, prompts: EvidencePrompts) -> Evidence:
    return gather(base, prompts)


def test_it_asks_the_same_prompts_of_everyone_and_draws_the_rest_by_the_seed(job: Job) -> None:
    one, other = EvidencePrompts.of(job, job.examples), EvidencePrompts.of(job, job.examples)
    elsewhere = EvidencePrompts.of(dataclasses.replace(job, seed=4), job.examples)

    assert one == other
    assert one.general == elsewhere.general
    assert one.held_out != elsewhere.held_out
    assert len(one.shown) == 2


def test_long_prompts_are_not_drawn(job: Job) -> None:
    long = dataclasses.replace(held_out(0), messages=[{"role": "user", "content": "x" * 3000}])

    found = EvidencePrompts.of(job, [long, held_out(1)])
    assert [example.id for example in found.shown] == [1]
    assert len(found.held_out) == 1


def test_what_is_shown_is_what_the_model_finds_likeliest(
    base: LoadedBase, prompts: EvidencePrompts, gathered: Evidence
) -> None:
    encoded = [encode_prompt(base.tokenizer, example.messages) for example in prompts.shown]
    stops = stop_ids(base.tokenizer, base.model)
    greedy = generate_greedy(base.model, encoded, ANSWER_TOKENS, stops, base.device)

    assert gathered.shown == [str(base.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in greedy]


def test_it_gathers_numbers_of_every_answer_and_no_text(gathered: Evidence) -> None:
    numbers = gathered.numbers
    told = numbers["collapse"]

    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert told["answers"] == len(told["repetition"]) == 12
    assert len(told["entropy"]) == 8
    assert all(3.0 < value < 6.1 for value in told["entropy"])  # of 405 tokens, by random weights
    assert numbers["canaries"]["any"] == {"passed": True, "required": False, "why": ""}
    assert numbers["canaries"]["none"] == {"passed": False, "required": True, "why": "/./ is in the answer"}
    assert len(gathered.shown) == len(gathered.canaries) == 2


def test_the_same_model_answers_the_same_and_other_random_numbers_stay_as_they_were(
    base: LoadedBase, prompts: EvidencePrompts, gathered: Evidence
) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)

    assert gather(base, prompts) == gathered
    assert torch.equal(torch.rand(3), expected)


def test_a_model_that_became_sure_of_everything_and_runs_in_circles_is_refused(
    tiny_model: Path, prompts: EvidencePrompts, gathered: Evidence
) -> None:
    stuck = load_base(tiny_model, device="cpu", dtype="float32")
    with torch.no_grad():
        stuck.model.model.norm.weight *= 1000.0
    numbers = gather(stuck, prompts).numbers
    checks = {check.name: check for check in collapse(measured(gathered.numbers, numbers), LIMITS)}

    assert max(numbers["collapse"]["entropy"]) < 0.1
    assert checks["collapse:entropy"].outcome == "fail"
    assert checks["collapse:repetition"].outcome == "fail"


def test_a_model_whose_logits_are_no_numbers_says_so_and_does_not_raise(
    tiny_model: Path, prompts: EvidencePrompts, gathered: Evidence
) -> None:
    broken = load_base(tiny_model, device="cpu", dtype="float32")
    with torch.no_grad():
        broken.model.model.norm.weight[:] = float("nan")
    numbers = gather(broken, prompts).numbers

    assert numbers["collapse"]["entropy"] == [None] * 8
    assert collapse(measured(gathered.numbers, numbers), LIMITS)[0].outcome == "fail"


def test_answers_lie_side_by_side_where_somebody_can_read_them(
    tmp_path: Path, prompts: EvidencePrompts, gathered: Evidence
) -> None:
    after = dataclasses.replace(gathered, shown=["now this", "and that"])
    write_answers(tmp_path, prompts, gathered, after)
    shown = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    asked = [json.loads(line) for line in (tmp_path / "canaries.jsonl").read_text().splitlines()]

    first = prompts.shown[0]
    assert shown[0] == {
        "example": first.id,
        "prompt": first.messages,
        "expected": first.target,
        "before": gathered.shown[0],
        "after": "now this",
    }
    assert [row["canary"] for row in asked] == ["any", "none"]
    nothing = dataclasses.replace(prompts, canaries=(), shown=())
    (tmp_path / "empty").mkdir()
    write_answers(tmp_path / "empty", nothing, Evidence({}), Evidence({}))
    assert not list((tmp_path / "empty").iterdir())


def test_an_answer_is_never_longer_than_it_may_be(base: LoadedBase, gathered: Evidence) -> None:
    assert all(len(base.tokenizer(text)["input_ids"]) <= 2 * ANSWER_TOKENS for text in gathered.shown)


def test_a_canary_that_the_model_cannot_be_asked_is_refused_by_name(base: LoadedBase) -> None:
    check_canaries(CANARIES, base, ANSWER_TOKENS)
    long = CanaryPrompt.model_validate({"name": "long", "prompt": "x y " * 400, "expect": ["a"]})

    with pytest.raises(ConfigurationError, match=r"'long' is \d+ tokens long; expected at most 496"):
        check_canaries((long,), base, ANSWER_TOKENS)


def test_sources_share_the_new_examples_within_the_limit_of_the_sampler(job: Job) -> None:
    mixed = [held_out(number, "flood" if number else "b") for number in range(200)]
    crowded = dataclasses.replace(job, examples=tuple(mixed))

    assert source_shares(crowded) == {"b": 1 / 200, "flood": 199 / 200}
    assert source_limit(crowded) == 0.5
    assert source_limit(job) == 1.0  # six examples are fewer than min_source_examples
