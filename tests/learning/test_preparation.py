"""From examples to lessons: which objective, which tokens, which numbers, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from selflearn.config import LearningSettings
from selflearn.experience.signals import COMMENT
from selflearn.learning.job import JobExample, Role
from selflearn.learning.lessons import Lesson, log_probabilities, measured_losses
from selflearn.learning.preparation import Lessons, lessons_of
from selflearn.models.adapter import adapter_state, attach_new, disabled
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.forward import TokenSequence

#: A template as strict as those of Gemma or Mistral: users and assistants take turns, and nobody else may speak.
STRICT = (
    "{% for message in messages %}{% if message['role'] != ['user', 'assistant'][loop.index0 % 2] %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
#: One that passes over whoever it does not know.
DEAF = (
    "{% for message in messages %}{% if message['role'] in ('user', 'assistant') %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def base(tiny_model: Path) -> LoadedBase:
    """With an adapter that has learned something: the reference must be what it was before."""
    loaded = load_base(tiny_model, device="cpu", dtype="float32")
    attach_new(loaded.model, rank=2, alpha=4.0, seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, tensor in adapter_state(loaded.model).items():
        if "lora_B" in name:
            tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
    return loaded


def example(
    number: int, question: str = "what is the port?", target: str = "port 8000", role: Role = "train", **more: Any
) -> JobExample:
    messages = more.pop("messages", [{"role": "user", "content": question}])
    return JobExample(number, role, str(number), messages, target, **more)


def prepared(base: LoadedBase, examples: Sequence[JobExample], **settings: Any) -> Lessons:
    return lessons_of(base, examples, LearningSettings(**settings))


def said(base: LoadedBase, sequence: TokenSequence) -> tuple[str, str]:
    """Prompt and response of a sequence as text."""
    ids, start = list(sequence.ids), sequence.prompt_length
    return str(base.tokenizer.decode(ids[:start])), str(base.tokenizer.decode(ids[start:]))


def under_base(base: LoadedBase, sequence: TokenSequence) -> float:
    with disabled(base.model):
        return log_probabilities(base.model, [sequence], base.device, 512)[0]


# Which objective


def test_each_kind_has_its_objective_and_all_keep_their_ids(base: LoadedBase) -> None:
    comment = {**COMMENT, "content": "too short"}
    examples = [
        example(5),
        example(3, objective="paired_preference", rejected="port 80"),
        example(9, objective="unpaired_preference", value=-1.0),
        example(2, objective="reward_weighted", value=3.0),
        example(4, objective="hindsight", messages=[{"role": "user", "content": "what?"}, comment]),
        example(7, role="holdout"),
    ]
    lessons = prepared(base, examples)

    assert {number: lesson.objective for number, lesson in lessons.main.items()} == {
        5: "supervised",
        3: "paired_preference",
        9: "unpaired_preference",
        2: "reward_weighted",
        4: "supervised",
        7: "supervised",
    }
    assert list(lessons.main) == [5, 3, 9, 2, 4, 7]
    assert [lessons.extra, lessons.left_out, lessons.without_extra] == [(), (), ()]
    assert said(base, lessons.main[5].sequence)[1] == "port 8000<|im_end|>"


def test_preferences_refer_to_the_base_and_not_to_the_parent(base: LoadedBase) -> None:
    examples = [
        example(1, objective="paired_preference", rejected="port 80"),
        example(2, objective="unpaired_preference", value=-1.0, role="holdout"),
    ]
    before = {name: tensor.clone() for name, tensor in adapter_state(base.model).items()}
    lessons = prepared(base, examples).main
    pair, down = lessons[1], lessons[2]

    assert pair.rejected is not None
    assert pair.reference == pytest.approx(under_base(base, pair.sequence), abs=1e-3)
    assert pair.rejected_reference == pytest.approx(under_base(base, pair.rejected), abs=1e-3)
    assert down.reference == pytest.approx(under_base(base, down.sequence), abs=1e-3)
    parent = log_probabilities(base.model, [pair.sequence], base.device, 512)[0]
    assert abs(parent - pair.reference) > 0.01
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter_state(base.model).items())


def test_a_down_rated_answer_may_be_unlearned_token_by_token(base: LoadedBase) -> None:
    """The token that ends the turn is not among them: a model that unlearns it never stops."""
    lesson = prepared(
        base, [example(1, objective="unpaired_preference", value=-1.0)], rating_objective="unlikelihood"
    ).main[1]

    assert lesson.objective == "unlikelihood"
    assert said(base, lesson.sequence)[1] == "port 8000"


def test_the_answer_that_a_correction_replaces_teaches_besides(base: LoadedBase) -> None:
    corrected = example(1, rejected="port 80 of course")
    judging = example(2, role="holdout", rejected="port 80")
    none, paired, unlikely = (
        prepared(base, [corrected, judging], rejected_objective=objective)
        for objective in ("none", "paired_preference", "unlikelihood")
    )

    assert none.extra == ()
    assert [one.lesson.objective for one in (*paired.extra, *unlikely.extra)] == ["paired_preference", "unlikelihood"]
    assert [(one.id, one.role) for one in (*paired.extra, *unlikely.extra)] == [(1, "train")] * 2
    assert paired.main == unlikely.main == none.main
    assert paired.extra[0].lesson.rejected_reference < 0.0


def test_what_a_wrong_answer_shares_with_the_right_one_is_not_wrong(base: LoadedBase) -> None:
    corrected = example(1, target="run selflearn rollback", rejected="run selflearn version")
    (extra,) = prepared(base, [corrected], rejected_objective="unlikelihood").extra
    prompt, response = said(base, extra.lesson.sequence)

    assert prompt.endswith("run selflearn")
    assert response.strip() == "version"


@pytest.mark.parametrize(
    ("rejected", "reason"),
    [
        ("run selflearn", "same_answer"),
        ("run selflearn rollback", "same_answer"),
        ("a " * 60, "too_long"),
        (" ", "empty"),
    ],
)
def test_a_rejected_answer_that_does_not_fit_costs_only_its_own_lesson(
    base: LoadedBase, rejected: str, reason: str
) -> None:
    corrected = example(1, target="run selflearn rollback", rejected=rejected)
    lessons = prepared(base, [corrected], rejected_objective="unlikelihood", max_length=60)

    assert lessons.main[1].objective == "supervised"
    assert [lessons.extra, lessons.left_out] == [(), ()]
    assert [(one.id, one.reason) for one in lessons.without_extra] == [(1, reason)]


@pytest.mark.parametrize(
    ("unfit", "reason"),
    [
        ({"target": "long " * 60}, "too_long"),
        ({"objective": "paired_preference", "rejected": "long " * 60}, "too_long"),
        ({"objective": "paired_preference", "rejected": "port 8000 "}, "same_answer"),
        ({"objective": "paired_preference", "rejected": None}, "empty"),
        ({"target": " \n"}, "empty"),
    ],
)
def test_an_example_that_does_not_fit_is_left_out_with_the_reason(
    base: LoadedBase, unfit: dict[str, Any], reason: str
) -> None:
    lessons = prepared(base, [example(1, **unfit), example(2)], max_length=60)

    assert list(lessons.main) == [2]
    assert [(one.id, one.role, one.reason) for one in lessons.left_out] == [(1, "train", reason)]
    assert (lessons.left_out[0].tokens > 60) == (reason == "too_long")


def test_a_chat_that_the_template_rejects_is_left_out(base: LoadedBase) -> None:
    base.tokenizer.chat_template = STRICT
    twice = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    lessons = prepared(base, [example(1, messages=twice), example(2)])

    assert list(lessons.main) == [2]
    assert lessons.left_out[0].reason == "template"
    assert "must alternate" in lessons.left_out[0].detail


# Hindsight


def test_a_comment_stands_after_the_question(base: LoadedBase) -> None:
    messages = [{"role": "user", "content": "what is the port?"}, {**COMMENT, "content": "say it shorter"}]
    prompt, response = said(
        base, prepared(base, [example(1, messages=messages, objective="hindsight")]).main[1].sequence
    )

    assert prompt.index("what is the port?<|im_end|>") < prompt.index("system\nsay it shorter<|im_end|>")
    assert response == "port 8000<|im_end|>"


@pytest.mark.parametrize("template", [STRICT, DEAF])
@pytest.mark.parametrize("question", ["what is the port?", [{"type": "text", "text": "what is the port?"}]])
def test_a_comment_joins_the_question_where_the_template_does_not_take_it(
    base: LoadedBase, template: str, question: Any
) -> None:
    base.tokenizer.chat_template = template
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": question},
        {**COMMENT, "content": "say it shorter"},
    ]
    lessons = prepared(base, [example(1, messages=messages, objective="hindsight")])
    prompt, _ = said(base, lessons.main[1].sequence)

    assert "user\nwhat is the port?\n\nsay it shorter<|im_end|>" in prompt
    assert messages[-1]["content"] == "say it shorter"


# Rewards and ratings


def test_rewards_weigh_among_those_of_their_source(base: LoadedBase) -> None:
    """One key rewards from 0 to 1, the other from 0 to 100: none of them drowns the other."""
    rewards = [("a", 0.0), ("a", 1.0), ("b", 0.0), ("b", 100.0), ("c", -5.0)]
    examples = [
        example(number, objective="reward_weighted", source=source, value=value)
        for number, (source, value) in enumerate(rewards, 1)
    ]
    values = [lesson.value for lesson in prepared(base, examples).main.values()]

    assert values[:2] == pytest.approx(values[2:4])
    assert values[0] < 1.0 < values[1]
    assert values[4] == 1.0
    sharper = [lesson.value for lesson in prepared(base, examples, reward_temperature=0.5).main.values()]
    assert sharper[1] > values[1]


def test_rewards_that_judge_do_not_move_what_trains(base: LoadedBase) -> None:
    trains = [example(n, objective="reward_weighted", value=float(n)) for n in (1, 2)]
    judges = [example(n, objective="reward_weighted", value=10.0 * n, role="holdout") for n in (3, 4)]

    alone, together = prepared(base, trains).main, prepared(base, [*trains, *judges]).main
    assert [together[n].value for n in (1, 2)] == [alone[n].value for n in (1, 2)]
    assert together[3].value < 1.0 < together[4].value


def test_unpaired_lessons_that_train_get_a_response_to_another_prompt(base: LoadedBase) -> None:
    examples = [
        example(1, "what is the port?", "port 80", objective="unpaired_preference", value=-1.0),
        example(2, "what is the port?", "port 81", objective="unpaired_preference", value=-1.0),
        example(3, "how do i roll back?", "run it", objective="unpaired_preference", value=-1.0),
        example(4, "who?", "me", objective="unpaired_preference", value=-1.0, role="holdout"),
    ]
    lessons = prepared(base, examples).main

    first = lessons[1].baseline
    assert first is not None
    assert said(base, first)[0] == said(base, lessons[1].sequence)[0]
    assert said(base, first)[1] == said(base, lessons[3].sequence)[1]
    assert lessons[1].baseline_reference == pytest.approx(under_base(base, first), abs=1e-3)
    assert lessons[4].baseline is None
    assert prepared(base, examples[:2]).main[1].baseline is None


def test_desirable_and_undesirable_ones_are_balanced(base: LoadedBase) -> None:
    signs = (1.0, -1.0, -1.0, -1.0)
    examples = [example(n, f"question {n}", objective="unpaired_preference", value=v) for n, v in enumerate(signs)]
    values = [lesson.value for lesson in prepared(base, examples).main.values()]

    assert values == pytest.approx([2.0, -2 / 3, -2 / 3, -2 / 3])


# Self-distillation


def test_the_teacher_of_a_correction_is_the_base_that_knows_it(base: LoadedBase) -> None:
    examples = [example(1), example(2, role="replay"), example(3, role="holdout"), example(4, synthetic=True)]
    lessons = prepared(base, examples, correction_objective="self_distillation")
    lesson = lessons.main[1]

    assert [one.objective for one in lessons.main.values()] == ["self_distillation", "self_distillation", "supervised"]
    assert [one.lesson.objective for one in lessons.extra] == ["supervised"]
    assert lesson.teacher is not None
    assert len(lesson.teacher.ids) == lesson.sequence.response_length
    with disabled(base.model):
        untold = Lesson("supervised", lesson.sequence)
        loss = measured_losses(base.model, [untold, lesson], LearningSettings(), base.device)
    assert loss[1] > 0.01  # it reads more than the student does


def test_a_correction_that_is_too_long_to_be_told_stays_supervised(base: LoadedBase) -> None:
    lessons = prepared(base, [example(1)], correction_objective="self_distillation", max_length=40)

    assert lessons.main[1].objective == "supervised"
    assert lessons.main[1].teacher is None
    assert [(one.id, one.reason) for one in lessons.without_extra] == [(1, "too_long")]


def test_the_teacher_takes_templates_in_which_roles_must_alternate(base: LoadedBase) -> None:
    base.tokenizer.chat_template = STRICT
    lessons = prepared(base, [example(1)], correction_objective="self_distillation")

    assert lessons.main[1].objective == "self_distillation"


def test_synthetic_examples_only_train(base: LoadedBase) -> None:
    lessons = prepared(
        base, [example(1), example(1, "which port is it?", synthetic=True), example(1, target=" ", synthetic=True)]
    )

    assert [(one.id, one.role, one.lesson.objective) for one in lessons.extra] == [(1, "train", "supervised")]
    assert said(base, lessons.main[1].sequence)[0] != said(base, lessons.extra[0].lesson.sequence)[0]
    assert lessons.left_out == ()  # the real one is not: it must not go to quarantine
    assert [(one.id, one.reason) for one in lessons.without_extra] == [(1, "empty")]
