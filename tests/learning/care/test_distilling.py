from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from selflearn.config import LearningSettings
from selflearn.errors import ModelError, NotEnoughExamples, SelflearnError
from selflearn.learning.care.distilling import (
    Distillation,
    Material,
    _backward,
    _Softened,
    answered,
    check_vocabulary,
    distil,
    taught,
)
from selflearn.learning.care.exporting import save_model
from selflearn.models.adapter import probe_logits
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.chat import encode_example
from selflearn.models.forward import TokenSequence
from tests.architectures import tiny_model as tiny_architecture
from tests.conftest import tiny_tokenizer
from tests.learning.care.architectures import VOCABULARY, adapt

OPTIONS = Distillation(steps=60, batch_size=8, learning_rate=3e-3, held_back=0.25)
WORDS = ("port", "daemon", "version", "dog", "fox", "water", "Paris", "model")


def _save_student(directory: Path, vocabulary: int = VOCABULARY, dtype: torch.dtype = torch.float32) -> None:
    """One layer, half as wide as the teacher, with another chat template."""
    model = tiny_architecture("llama", vocabulary=vocabulary, layers=1, positions=256, spread=0.15)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    save_model(model.to(dtype), tokenizer, directory)  # type: ignore[arg-type, unused-ignore]


@pytest.fixture(scope="module")
def teacher(tiny_model: Path) -> LoadedBase:
    base = load_base(tiny_model, device="cpu", dtype="float32")
    adapt(base.model, spread=0.1)
    return base


@pytest.fixture(scope="module")
def sequences(teacher: LoadedBase) -> list[TokenSequence]:
    pairs = [
        encode_example(
            teacher.tokenizer,
            [{"role": "user", "content": f"where is the {one}?"}],
            " and ".join([f"the {other} is here"] * (1 + number % 3)),
        )
        for number, one in enumerate(WORDS)
        for other in WORDS
    ]
    return [TokenSequence(tuple(ids), length) for ids, length in pairs]


@pytest.fixture
def student_directory(tmp_path: Path) -> Path:
    _save_student(tmp_path / "student")
    return tmp_path / "student"


def _load(directory: Path) -> LoadedBase:
    return load_base(directory, device="cpu", dtype="float32")


def _distilled(
    teacher: LoadedBase, student: LoadedBase, sequences: list[TokenSequence], options: Distillation, **given: Any
) -> tuple[float, float]:
    return distil(student, taught(teacher, student, sequences, options), options, save_as=torch.float32, **given)


def test_the_student_comes_close_to_the_teacher(
    teacher: LoadedBase, sequences: list[TokenSequence], student_directory: Path, tmp_path: Path
) -> None:
    student = _load(student_directory)
    losses: list[float] = []
    before, after = _distilled(teacher, student, sequences, OPTIONS, on_step=lambda step, loss: losses.append(loss))
    assert after < 0.2 * before
    assert len(losses) == OPTIONS.steps
    assert losses[-1] < 0.2 * losses[0]
    assert not any(parameter.requires_grad for parameter in student.model.parameters())
    save_model(student.model, teacher.tokenizer, tmp_path / "distilled")
    again = _load(tmp_path / "distilled")
    assert torch.equal(probe_logits(again.model, [1, 2, 3]), probe_logits(student.model, [1, 2, 3]))
    assert again.tokenizer.chat_template == teacher.tokenizer.chat_template
    assert isinstance(AutoModelForCausalLM.from_pretrained(str(tmp_path / "distilled")), LlamaForCausalLM)


def test_the_same_seed_gives_the_same_student(
    teacher: LoadedBase, sequences: list[TokenSequence], student_directory: Path
) -> None:
    short = replace(OPTIONS, steps=4)
    found = []
    for options in (short, short, replace(short, seed=1)):
        student = _load(student_directory)
        _distilled(teacher, student, sequences, options)
        found.append(probe_logits(student.model, [1, 2, 3]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_loss_is_hintons(
    teacher: LoadedBase, sequences: list[TokenSequence], student_directory: Path, temperature: float
) -> None:
    """Against the definition: over the teacher's 64 likeliest tokens and all others as one, below that over all."""
    student = _load(student_directory)
    options = replace(OPTIONS, temperature=temperature)
    lessons = list(taught(teacher, student, sequences, options).train[:6])
    student.model.requires_grad_(True)
    softened = _Softened(student.model, temperature)
    found = _backward(softened, lessons, temperature, LearningSettings(batch_tokens=64), student.device)
    whole, merged = [], []
    for lesson in lessons:
        ids, start = torch.tensor([lesson.sequence.ids]), lesson.sequence.prompt_length
        p, q = (
            (model(input_ids=ids).logits[0, start - 1 : -1].detach() / temperature).log_softmax(-1)
            for model in (teacher.model, student.model)
        )
        whole.append((p.exp() * (p - q)).sum(-1))
        top = p.argsort(dim=-1, descending=True)[:, :64]
        p_top, q_top = p.gather(1, top).exp(), q.gather(1, top).exp()
        p_all = torch.cat([p_top, 1.0 - p_top.sum(1, keepdim=True)], dim=1)
        q_all = torch.cat([q_top, 1.0 - q_top.sum(1, keepdim=True)], dim=1)
        merged.append((p_all * (p_all / q_all).log()).sum(1))
    assert found == pytest.approx(temperature**2 * float(torch.cat(merged).mean()), rel=1e-3)
    assert found < temperature**2 * float(torch.cat(whole).mean())
    assert all(parameter.grad is not None for parameter in student.model.parameters())


def test_micro_batches_do_not_change_the_gradient(
    teacher: LoadedBase, sequences: list[TokenSequence], student_directory: Path
) -> None:
    gradients = []
    for budget in (64, 4096):
        student = _load(student_directory)
        lessons = taught(teacher, student, sequences, OPTIONS).train[:8]
        student.model.requires_grad_(True)
        _backward(_Softened(student.model, 2.0), lessons, 2.0, LearningSettings(batch_tokens=budget), student.device)
        gradients.append([parameter.grad for parameter in student.model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_what_is_held_back_is_seen_by_nobody(
    teacher: LoadedBase, sequences: list[TokenSequence], student_directory: Path
) -> None:
    material = taught(teacher, _load(student_directory), sequences, OPTIONS)
    assert (len(material.train), len(material.held_back)) == (48, 16)
    assert not {one.sequence for one in material.train} & {one.sequence for one in material.held_back}
    hot = taught(teacher, _load(student_directory), sequences, replace(OPTIONS, temperature=5.0))
    assert [one.sequence for one in hot.held_back] == [one.sequence for one in material.held_back]
    same = zip(hot.held_back, material.held_back, strict=True)
    assert all(torch.equal(a.teacher.log_probs, b.teacher.log_probs) for a, b in same if a.teacher and b.teacher)
    with pytest.raises(NotEnoughExamples, match="1 sequences"):
        taught(teacher, _load(student_directory), sequences[:1], OPTIONS)


def test_the_divergence_after_is_that_of_the_rounded_weights(
    teacher: LoadedBase, sequences: list[TokenSequence], student_directory: Path
) -> None:
    short = replace(OPTIONS, steps=2)
    student = _load(student_directory)
    material = taught(teacher, student, sequences, short)
    _, after = distil(student, material, short, save_as=torch.bfloat16)
    assert student.model.dtype == torch.bfloat16
    measured, _ = distil(
        student, Material(material.train, material.held_back), replace(short, steps=0), save_as=torch.bfloat16
    )
    assert measured == after


def test_the_teacher_answers_until_it_stops(teacher: LoadedBase) -> None:
    shares: list[float] = []
    found = answered(teacher, ["what is the port?", "who runs over the lazy dog?"], shares.append)
    assert [0 < one.response_length <= 48 for one in found] == [True, True]
    assert shares == [1.0]


def test_a_student_of_another_vocabulary_is_refused(teacher: LoadedBase, tmp_path: Path) -> None:
    _save_student(tmp_path / "student")
    student = _load(tmp_path / "student")
    check_vocabulary(teacher, student)
    student.tokenizer.add_tokens(["<another>"])
    with pytest.raises(ModelError, match="1 tokens differ"):
        check_vocabulary(teacher, student)
    _save_student(tmp_path / "narrow", vocabulary=100)
    with pytest.raises(ModelError, match="logits for 100 tokens"):
        check_vocabulary(teacher, _load(tmp_path / "narrow"))


def test_a_teacher_with_more_logits_than_the_student_is_cut(
    teacher: LoadedBase, sequences: list[TokenSequence], tmp_path: Path
) -> None:
    _save_student(tmp_path / "wide", vocabulary=VOCABULARY + 8)
    wide, narrow = _load(tmp_path / "wide"), _load(tmp_path / "wide")
    narrow.model.config.vocab_size = 50
    ids = [one.teacher.ids for one in taught(wide, narrow, sequences, OPTIONS).train if one.teacher]
    assert max(int(each.max()) for each in ids) < 50
    before, after = _distilled(teacher, wide, sequences, replace(OPTIONS, steps=5))
    assert after < before


def test_a_rate_that_breaks_it_is_told(
    teacher: LoadedBase, sequences: list[TokenSequence], student_directory: Path
) -> None:
    student = _load(student_directory)
    student.model.get_parameter("model.norm.weight").data.fill_(float("nan"))
    with pytest.raises(SelflearnError, match="in step 1; nothing was saved"):
        _distilled(teacher, student, sequences, OPTIONS)
