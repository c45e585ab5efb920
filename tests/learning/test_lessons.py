"""Losses of lessons: against TRL's trainers, alone and mixed, and that each falls when its lesson is learned."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from selflearn.config import LearningSettings
from selflearn.learning.lessons import (
    Lesson,
    LessonObjective,
    lesson_losses,
    lesson_weights,
    log_probabilities,
    measured_losses,
    rows_of,
    teachers_of,
)
from selflearn.models.adapter import adapter_state, attach_new, factors, lora_layers
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.forward import TokenSequence
from tests.learning.oracles.cases import BETA, CHOSEN, LABELS, PROMPTS, REJECTED, move

OPTIONS = LearningSettings(preference_beta=BETA)
TRL = json.loads((Path(__file__).parent / "oracles" / "trl_preferences.json").read_text(encoding="utf-8"))


@pytest.fixture
def base(tiny_model: Path) -> LoadedBase:
    return load_base(tiny_model, device="cpu", dtype="float32")


def sequence(prompt: list[int], response: list[int]) -> TokenSequence:
    return TokenSequence(tuple(prompt + response), len(prompt))


SEQUENCES = [sequence(prompt, response) for prompt, response in zip(PROMPTS, CHOSEN, strict=True)]
WORSE = [sequence(prompt, response) for prompt, response in zip(PROMPTS, REJECTED, strict=True)]
ROTATED = [sequence(prompt, CHOSEN[index - 1]) for index, prompt in enumerate(PROMPTS)]


def references(base: LoadedBase, rows: list[TokenSequence]) -> list[float]:
    return log_probabilities(base.model, rows, base.device, 64)


def one_of_each(base: LoadedBase) -> list[Lesson]:
    """Lessons of all objectives, as they are at the base."""
    chosen, worse = references(base, SEQUENCES), references(base, WORSE)
    teacher = teachers_of(base.model, [WORSE[0]], base.device, 64)[0]
    shifted = replace(teacher, ids=teacher.ids.roll(1, dims=1))  # of another model: it has something to teach
    return [
        Lesson("supervised", SEQUENCES[0]),
        Lesson("unlikelihood", WORSE[1]),
        Lesson("reward_weighted", SEQUENCES[3], value=0.5),
        Lesson("paired_preference", SEQUENCES[2], WORSE[2], reference=chosen[2], rejected_reference=worse[2]),
        Lesson("unpaired_preference", WORSE[3], value=-1.0, reference=worse[3]),
        Lesson("unpaired_preference", SEQUENCES[1], value=1.0, reference=chosen[1]),
        Lesson("self_distillation", WORSE[0], teacher=shifted),
    ]


# Against TRL


@pytest.mark.parametrize("index", range(4))
def test_paired_preference_is_trls(base: LoadedBase, index: int) -> None:
    better, worse = SEQUENCES[index], WORSE[index]
    chosen, rejected = references(base, [better, worse])
    move(base.model)
    lesson = Lesson("paired_preference", better, worse, reference=chosen, rejected_reference=rejected)

    loss = lesson_losses(base.model, [lesson], OPTIONS, base.device)
    assert loss.tolist() == pytest.approx([TRL["dpo"][index]], rel=1e-5)


@pytest.mark.parametrize("there_and_back", [False, True])
@pytest.mark.parametrize("labels", LABELS)
def test_unpaired_preference_is_trls(base: LoadedBase, labels: str, there_and_back: bool) -> None:
    """On the way there z0 is above 0, on the way back it would be below and is cut off."""
    other = load_base(base.path, device="cpu", dtype="float32")
    move(other.model)
    policy, reference = (base, other) if there_and_back else (other, base)
    known, mismatched = references(reference, SEQUENCES), references(reference, ROTATED)
    lessons = [
        Lesson(
            "unpaired_preference",
            SEQUENCES[index],
            value=1.0 if label else -1.0,
            reference=known[index],
            baseline=ROTATED[index],
            baseline_reference=mismatched[index],
        )
        for index, label in enumerate(LABELS[labels])
    ]

    loss = lesson_losses(policy.model, lessons, OPTIONS, policy.device).mean()
    expected = TRL["kto the other way round" if there_and_back else "kto"][labels]
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    departed = [p - m for p, m in zip(references(policy, ROTATED), mismatched, strict=True)]
    assert (sum(departed) > 0) != there_and_back


# Alone and together


def test_lessons_have_the_same_losses_together_as_alone(base: LoadedBase) -> None:
    lessons = one_of_each(base)
    move(base.model)
    together = lesson_losses(base.model, lessons, OPTIONS, base.device)
    alone = torch.cat([lesson_losses(base.model, [lesson], OPTIONS, base.device) for lesson in lessons])

    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert len({round(value, 3) for value in together.tolist()}) == len(lessons)


def test_lessons_have_the_same_gradients_together_as_alone(base: LoadedBase) -> None:
    lessons = one_of_each(base)
    move(base.model)
    attach_new(base.model, rank=2, alpha=2.0, seed=1)
    weights = torch.tensor(lesson_weights(lessons))

    def gradients(parts: list[list[int]]) -> list[Tensor]:
        base.model.zero_grad()
        for part in parts:
            losses = lesson_losses(base.model, [lessons[index] for index in part], OPTIONS, base.device)
            (losses * weights[part]).sum().backward()
        return [factors(layer)[1].grad.clone() for layer in lora_layers(base.model).values()]  # type: ignore[union-attr]

    together = gradients([list(range(len(lessons)))])
    torch.testing.assert_close(together, gradients([[i] for i in range(len(lessons))]), rtol=1e-3, atol=1e-6)
    assert all(float(gradient.abs().max()) > 0 for gradient in together)


def test_no_lessons_have_no_losses(base: LoadedBase) -> None:
    assert lesson_losses(base.model, [], OPTIONS, base.device).tolist() == []
    assert measured_losses(base.model, [], OPTIONS, base.device) == []
    assert lesson_weights([]) == []
    assert log_probabilities(base.model, [], base.device, 64) == []
    assert teachers_of(base.model, [], base.device, 64) == []


def test_supervised_is_the_negative_log_likelihood_by_hand(base: LoadedBase) -> None:
    ids = SEQUENCES[2].ids
    with torch.no_grad():
        log_probs = torch.log_softmax(base.model(input_ids=torch.tensor([ids])).logits[0], -1)
    nats = [-float(log_probs[at - 1, ids[at]]) for at in range(SEQUENCES[2].prompt_length, len(ids))]

    found = measured_losses(base.model, [Lesson("supervised", SEQUENCES[2])], OPTIONS, base.device)
    assert found == pytest.approx([sum(nats) / len(nats)], rel=1e-5)
    assert references(base, [SEQUENCES[2]]) == pytest.approx([-sum(nats)], rel=1e-5)


def test_a_reward_weighs_the_supervised_loss(base: LoadedBase) -> None:
    lessons = [Lesson("supervised", SEQUENCES[0]), Lesson("reward_weighted", SEQUENCES[0], value=0.25)]
    supervised, weighted = lesson_losses(base.model, lessons, OPTIONS, base.device).tolist()

    assert weighted == pytest.approx(0.25 * supervised)


def test_what_the_base_teaches_itself_it_knows(base: LoadedBase) -> None:
    teachers = teachers_of(base.model, SEQUENCES, base.device, 40)
    lessons = [Lesson("self_distillation", row, teacher=t) for row, t in zip(SEQUENCES, teachers, strict=True)]

    assert measured_losses(base.model, lessons, OPTIONS, base.device) == pytest.approx([0.0] * 4, abs=1e-5)
    move(base.model)
    assert min(measured_losses(base.model, lessons, OPTIONS, base.device)) > 0.01


def test_a_teacher_beside_another_objective_adds_its_divergence(base: LoadedBase) -> None:
    teacher = teachers_of(base.model, [SEQUENCES[0]], base.device, 64)[0]
    move(base.model)
    plain = Lesson("supervised", SEQUENCES[0])
    taught = replace(plain, teacher=teacher)
    distilled = Lesson("self_distillation", SEQUENCES[0], teacher=teacher)
    options = LearningSettings(replay_kl_weight=0.7)

    loss, kl = lesson_losses(base.model, [plain, distilled], options, base.device).tolist()
    assert lesson_losses(base.model, [taught], options, base.device).tolist() == pytest.approx([loss + 0.7 * kl])
    assert lesson_losses(base.model, [taught], OPTIONS, base.device).tolist() == pytest.approx([loss])
    assert measured_losses(base.model, [taught], options, base.device) == pytest.approx([loss])


def test_a_measured_loss_does_not_depend_on_the_others(base: LoadedBase) -> None:
    """Where lessons train together z0 is of all of them; where they are judged it is 0."""
    move(base.model)
    other = Lesson("unpaired_preference", SEQUENCES[0], value=-1.0, baseline=ROTATED[0], baseline_reference=-500.0)
    lesson = Lesson("unpaired_preference", SEQUENCES[1], value=-1.0)

    alone, together = (lesson_losses(base.model, ls, OPTIONS, base.device)[-1] for ls in ([lesson], [other, lesson]))
    assert together.item() < alone.item() - 0.1
    assert measured_losses(base.model, [other, lesson], OPTIONS, base.device)[1] == pytest.approx(alone.item())


# Shares of a step


def test_supervised_lessons_alone_give_the_mean_over_all_their_tokens(base: LoadedBase) -> None:
    lessons = [Lesson("supervised", row) for row in SEQUENCES]
    losses = lesson_losses(base.model, lessons, OPTIONS, base.device)
    tokens = sum(len(response) for response in CHOSEN)

    mean = sum(weight * loss for weight, loss in zip(lesson_weights(lessons), losses.tolist(), strict=True))
    assert mean == pytest.approx(-sum(references(base, SEQUENCES)) / tokens, rel=1e-5)


def test_objectives_share_by_the_number_of_lessons(base: LoadedBase) -> None:
    lessons = one_of_each(base)
    weights = lesson_weights([*lessons, Lesson("supervised", SEQUENCES[2])])
    supervised = weights[0] + weights[-1]

    assert sum(weights) == pytest.approx(1.0)
    assert supervised == pytest.approx(2 / 8)
    assert weights[0] / weights[-1] == pytest.approx(len(CHOSEN[0]) / len(CHOSEN[2]))
    assert weights[4] == weights[5] == pytest.approx(1 / 8)
    assert [len(rows_of(lesson)) for lesson in lessons] == [1, 1, 1, 2, 1, 1, 1]


# Learning


def test_each_loss_falls_when_its_lesson_is_learned(base: LoadedBase) -> None:
    lessons = one_of_each(base)
    attach_new(base.model, rank=4, alpha=8.0, seed=1)
    before = measured_losses(base.model, lessons, OPTIONS, base.device)
    start = {name: tensor.clone() for name, tensor in adapter_state(base.model).items()}
    parameters = [factor for layer in lora_layers(base.model).values() for factor in factors(layer)]
    for index, lesson in enumerate(lessons):
        for name, tensor in adapter_state(base.model).items():
            tensor.copy_(start[name])
        optimizer = torch.optim.SGD(parameters, lr=0.3)
        for _ in range(12):
            optimizer.zero_grad()
            lesson_losses(base.model, [lesson], OPTIONS, base.device).sum().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        after = measured_losses(base.model, [lesson], OPTIONS, base.device)[0]
        assert after < before[index] * 0.95, lesson.objective


@pytest.mark.parametrize(
    ("objective", "expected"),
    [("paired_preference", math.log(2.0)), ("unpaired_preference", 0.5)],
)
def test_a_new_adapter_is_at_the_reference(base: LoadedBase, objective: LessonObjective, expected: float) -> None:
    chosen, worse = references(base, [SEQUENCES[0], WORSE[0]])
    attach_new(base.model, rank=2, alpha=2.0, seed=1)
    rejected = WORSE[0] if objective == "paired_preference" else None
    lesson = Lesson(objective, SEQUENCES[0], rejected, -1.0, reference=chosen, rejected_reference=worse)

    assert measured_losses(base.model, [lesson], OPTIONS, base.device) == pytest.approx([expected], abs=1e-5)
