"""What the parent brings to replay: its distributions and its own answers, from a tiny model that really answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from selflearn.config import LearningSettings
from selflearn.learning.anchors import anchor_prompts, generate_greedy
from selflearn.learning.job import JobExample
from selflearn.learning.lessons import Lesson, Teacher, lesson_losses
from selflearn.learning.replay import self_replayed, with_parents_teachers
from selflearn.models.adapter import attach_new, factors, lora_layers
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.chat import encode_example, encode_prompt, stop_ids
from selflearn.models.forward import TokenSequence, collate, response_losses

QUESTIONS = {"what is the port?": "port 8000", "how do i roll back?": "run rollback", "capital of France?": "Paris"}
SETTINGS = LearningSettings(replay_kl_weight=0.5)


def example(number: int, question: str, answer: str, objective: str = "supervised") -> JobExample:
    messages = [{"role": "user", "content": question}]
    return JobExample(number, "replay", str(number), messages, answer, objective=objective)  # type: ignore[arg-type]


PAST = [example(number, *pair) for number, pair in enumerate(QUESTIONS.items(), start=1)]


@pytest.fixture(scope="module")
def parent(tiny_model: Path) -> LoadedBase:
    """A base with an adapter that has learned to say 'the' to whatever it is asked, and to stop."""
    base = load_base(tiny_model, device="cpu", dtype="float32")
    with torch.no_grad():  # the end of a turn is the padding as well, which begins as zeros and could never be said
        embeddings: Any = base.model.get_input_embeddings()
        end = embeddings.weight[base.tokenizer.eos_token_id]
        torch.nn.init.normal_(end, std=0.08, generator=torch.Generator().manual_seed(0))
    attach_new(base.model, rank=4, alpha=8.0, seed=0)
    prompts = [*QUESTIONS, *(row["prompt"] for row in anchor_prompts()[:8])]
    batch = collate([sequence(base, prompt, "the") for prompt in prompts], base.device)
    parameters = [factor for layer in lora_layers(base.model).values() for factor in factors(layer)]
    optimizer = torch.optim.Adam(parameters, lr=2e-2)
    for _ in range(30):
        optimizer.zero_grad()
        response_losses(base.model, batch).sum().backward()
        optimizer.step()
    optimizer.zero_grad()
    return base


def sequence(base: LoadedBase, question: str, answer: str) -> TokenSequence:
    ids, prompt_length = encode_example(base.tokenizer, [{"role": "user", "content": question}], answer)
    return TokenSequence(tuple(ids), prompt_length)


def losses(base: LoadedBase, lessons: list[Lesson]) -> torch.Tensor:
    with torch.no_grad():
        return lesson_losses(base.model, lessons, SETTINGS, base.device)


def test_the_parents_distribution_costs_nothing_until_the_student_moves(parent: LoadedBase) -> None:
    lessons = [Lesson("supervised", sequence(parent, *pair)) for pair in QUESTIONS.items()]
    taught = with_parents_teachers(parent, lessons, SETTINGS)
    torch.testing.assert_close(losses(parent, taught), losses(parent, lessons), rtol=0.0, atol=1e-3)

    layer = next(iter(lora_layers(parent.model).values()))
    kept = factors(layer)[1].detach().clone()
    with torch.no_grad():
        factors(layer)[1].mul_(-1.0)
    apart = losses(parent, taught) - losses(parent, lessons)
    with torch.no_grad():
        factors(layer)[1].copy_(kept)
    assert bool((apart > 0.01).all())


def test_a_lesson_keeps_the_teacher_that_it_has(parent: LoadedBase) -> None:
    rows = [sequence(parent, *pair) for pair in QUESTIONS.items()]
    own = Teacher(torch.zeros(rows[1].response_length, 1), torch.zeros(rows[1].response_length, 1, dtype=torch.int64))
    lessons = [
        Lesson("supervised", rows[0]),
        Lesson("self_distillation", rows[1], teacher=own),
        Lesson("supervised", rows[2]),
    ]
    taught = with_parents_teachers(parent, lessons, SETTINGS)

    assert taught[1] is lessons[1]
    for lesson in (taught[0], taught[2]):
        assert lesson.teacher is not None
        assert len(lesson.teacher.ids) == lesson.sequence.response_length


def test_without_a_weight_no_teacher_is_asked(parent: LoadedBase) -> None:
    lessons = [Lesson("supervised", sequence(parent, *pair)) for pair in QUESTIONS.items()]
    assert with_parents_teachers(parent, lessons, LearningSettings()) == lessons


def test_it_answers_past_prompts_as_the_parent_does(parent: LoadedBase) -> None:
    replayed = self_replayed(parent, PAST, 8, seed=0)

    assert {one.id for one in replayed} == {1, 2, 3}
    for one in replayed:
        assert one.synthetic
        assert (one.role, one.objective, one.rejected, one.value) == ("replay", "supervised", None, 1.0)
        prompt = encode_prompt(parent.tokenizer, one.messages)
        stops = stop_ids(parent.tokenizer, parent.model)
        (answer,) = generate_greedy(parent.model, [prompt], 16, stops, parent.device)
        assert str(parent.tokenizer.decode(answer, skip_special_tokens=True)).strip() == one.target == "the"


def test_the_seed_draws_which(parent: LoadedBase) -> None:
    drawn = [[one.id for one in self_replayed(parent, PAST, 1, seed)] for seed in range(8)]

    assert drawn == [[one.id for one in self_replayed(parent, PAST, 1, seed)] for seed in range(8)]
    assert {ids[0] for ids in drawn} == {1, 2, 3}


def test_a_prompt_is_taken_once_and_not_with_what_was_said_of_an_answer(parent: LoadedBase) -> None:
    again = example(7, "what is the port?", "port 9")
    commented = example(8, "who are you?", "a model", objective="hindsight")

    assert sorted(one.id for one in self_replayed(parent, [*PAST, again, commented], 9, seed=0)) == [1, 2, 3]


def test_where_nothing_is_left_of_the_past_it_answers_the_anchors(parent: LoadedBase) -> None:
    replayed = self_replayed(parent, [], 6, seed=0)
    steering = {row["prompt"] for row in anchor_prompts() if row["use"] == "train"}

    assert replayed
    assert {one.id for one in replayed} == {0}
    assert {one.messages[0]["content"] for one in replayed} <= steering


def test_answers_that_do_not_end_are_left_out(tiny_model: Path) -> None:
    """An untrained tiny model babbles on: its answers would teach to stop in the middle."""
    base = load_base(tiny_model, device="cpu", dtype="float32")
    attach_new(base.model, rank=1, alpha=1.0, seed=0)

    assert self_replayed(base, PAST, 3, seed=0) == []
