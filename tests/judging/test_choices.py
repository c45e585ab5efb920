"""Multiple choice by likelihood, on a model whose likelihoods are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from selflearn.judging.choices import ChoiceQuestion, choose
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.forward import TokenSequence

PROMPT = (5, 9, 30)


@pytest.fixture
def base(tiny_model: Path) -> LoadedBase:
    return load_base(tiny_model, device="cpu", dtype="float32")


def log_probability(base: LoadedBase, choice: tuple[int, ...]) -> float:
    logits = base.model(input_ids=torch.tensor([[*PROMPT, *choice]])).logits[0].log_softmax(dim=-1)
    return sum(float(logits[len(PROMPT) - 1 + at, token]) for at, token in enumerate(choice))


def question(choices: list[tuple[int, ...]], lengths: tuple[int, ...], answer: int) -> ChoiceQuestion:
    return ChoiceQuestion(tuple(TokenSequence(PROMPT + each, len(PROMPT)) for each in choices), lengths, answer)


def test_the_likeliest_choice_is_taken_and_per_byte_the_long_one(base: LoadedBase) -> None:
    short, long = (40,), (41, 42, 43, 44)
    scores = [log_probability(base, short), log_probability(base, long)]
    assert scores[0] > scores[1]  # fewer tokens, so likelier
    found = choose(
        base.model, [question([short, long], (1, 100), 0), question([long, short], (100, 1), 0)], base.device
    )

    assert found.plain == (1.0, 0.0)
    assert found.normalised == (0.0, 1.0)  # the long one has far less to pay per byte
    expected = torch.tensor(scores).softmax(dim=0)
    assert found.confidences.confidence == pytest.approx([float(expected[0])] * 2, rel=1e-4)
    assert found.confidences.correct == (True, False)
    assert found.confidences.brier[0] == pytest.approx(2 * float(expected[1]) ** 2, rel=1e-3, abs=1e-9)


def test_a_broken_model_answers_nothing_right(base: LoadedBase) -> None:
    with torch.no_grad():
        for parameter in base.model.parameters():
            parameter.fill_(torch.nan)
    found = choose(base.model, [question([(40,), (41,)], (1, 1), 0)], base.device)

    assert (found.plain, found.normalised) == ((0.0,), (0.0,))
