"""Self-edits: what the base writes, what of it may train, and what must not come near the questions that judge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from selflearn.config import LearningSettings
from selflearn.learning.job import JobExample, Role, write_synthetic
from selflearn.learning.self_edits import leaks, request_of, self_edits, usable
from selflearn.models.adapter import adapter_state, attach_new
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.chat import encode_example
from selflearn.models.forward import TokenSequence, collate, response_losses

QUESTION = "what is the port of the daemon?"
RESTATED = "on what port is the daemon?"
OTHER = "what port has the daemon?"


def example(number: int, question: str = QUESTION, role: Role = "train", target: str = "8000") -> JobExample:
    system = {"role": "system", "content": "be brief"}
    return JobExample(number, role, str(number), [system, {"role": "user", "content": question}], target, rejected="80")


@pytest.fixture(scope="module")
def writer(tiny_model: Path) -> LoadedBase:
    """A base that has learned to restate one question, in two ways that it draws from."""
    base = load_base(tiny_model, device="cpu", dtype="float32")
    rows = []
    for sentence in (RESTATED, OTHER):
        ids, prompt_length = encode_example(base.tokenizer, request_of(example(1)), sentence)
        rows.append(TokenSequence(tuple(ids), prompt_length))
    base.model.requires_grad_(True)
    optimizer = torch.optim.AdamW(base.model.parameters(), lr=3e-3, weight_decay=0.0)
    batch = collate(rows, base.device)
    for _ in range(40):
        optimizer.zero_grad()
        response_losses(base.model, batch).mean().backward()
        optimizer.step()
    base.model.requires_grad_(False)
    attach_new(base.model, rank=2, alpha=4.0, seed=1)
    for name, tensor in adapter_state(base.model).items():
        if "lora_B" in name:
            tensor.fill_(1.0)  # with the adapter on it says nothing of the kind
    return base


def edits(base: LoadedBase, examples: list[JobExample], wanted: int = 2, seed: int = 3) -> list[JobExample]:
    return list(self_edits(base, examples, LearningSettings(self_edits=wanted), seed).examples)


def questions(found: list[JobExample]) -> list[str]:
    return [str(edit.messages[-1]["content"]) for edit in found]


def test_off_by_default(writer: LoadedBase) -> None:
    assert LearningSettings().self_edits == 0
    made = self_edits(writer, [example(1)], LearningSettings(), 0)
    assert (made.examples, made.drawn) == ((), 0)


def test_the_base_restates_a_question_and_the_answer_stays(writer: LoadedBase) -> None:
    examples = [example(1), example(9, "who?", role="replay")]
    found = edits(writer, examples)

    assert set(questions(found)) == {RESTATED, OTHER}
    for edit in found:
        assert (edit.id, edit.role, edit.target, edit.synthetic, edit.rejected) == (1, "train", "8000", True, None)
        assert edit.messages[0] == {"role": "system", "content": "be brief"}
    assert edits(writer, examples) == found


def test_there_are_never_more_than_real_examples(writer: LoadedBase) -> None:
    assert len(edits(writer, [example(1)])) == 1
    assert len(edits(writer, [example(1), example(2, "who?", role="holdout")])) == 1
    assert len(edits(writer, [example(1), example(2, "who?", role="replay")], wanted=1)) == 1


@pytest.mark.parametrize("role", ["holdout", "retained", "train"])
def test_nothing_is_written_that_comes_near_another_question(writer: LoadedBase, role: Role) -> None:
    taken = example(2, f"{RESTATED} please", role=role, target="another answer")
    spare = [example(number, f"{number}", role="replay") for number in (3, 4)]

    assert questions(edits(writer, [example(1), taken, *spare])) == [OTHER]


def test_only_new_supervised_questions_are_restated(writer: LoadedBase) -> None:
    assert edits(writer, [example(1, role="replay")]) == []
    assert edits(writer, [JobExample(1, "train", "1", [], "8000")]) == []
    assert edits(writer, [example(1, "a text\nto work on")]) == []
    after = [*example(1).messages, {"role": "assistant", "content": "80"}]
    assert edits(writer, [JobExample(1, "train", "1", after, "8000")]) == []


def test_it_leaves_the_randomness_of_the_caller_alone(writer: LoadedBase) -> None:
    before = torch.get_rng_state()
    edits(writer, [example(1)])

    assert torch.equal(torch.get_rng_state(), before)


def test_what_was_written_can_be_read(writer: LoadedBase, tmp_path: Path) -> None:
    made = self_edits(writer, [example(1), example(2, "who?", role="replay")], LearningSettings(self_edits=2), 3)
    write_synthetic(made.examples, tmp_path / "edits.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "edits.jsonl").read_text(encoding="utf-8").splitlines()]

    assert [row["messages"][-1]["content"] for row in rows] == questions(list(made.examples))
    assert {(row["of"], row["target"]) for row in rows} == {(1, "8000")}
    assert made.drawn == 8


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("At what time does the cafeteria in Building C open?", True),
        ("When is the cafeteria in Building C opening?", True),
        ("When does the cafeteria in Building C open?", False),  # the same
        ("The cafeteria in Building C does when open?", False),  # the same words
        ("The cafeteria in Building C is open at noon.", False),  # no question
        ("When does the library in Building C open?", False),  # of something else
        ("When does the cafeteria in Tower Four open?", False),  # the name is gone
        ("When does the cafeteria in Building C open, is it 7:15?", False),  # gives the answer away
        ("Cafeteria?", False),
        ("When does the cafeteria\nin Building C really open?", False),
        ("", False),
    ],
)
def test_what_may_stand_for_a_question(sentence: str, expected: bool) -> None:
    assert usable("When does the cafeteria in Building C open?", sentence, "7:15") is expected


def test_numbers_must_stay() -> None:
    assert usable("What does error 204 mean?", "What might the error 204 mean?", "The box is full.")
    assert not usable("What does error 204 mean?", "What might the error 205 mean?", "The box is full.")


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ("When does the library open its doors?", True),
        ("the doors of the library open when?", True),  # the same words in another order
        ("When do the doors of the library open", True),
        ("Who wrote Hamlet?", False),
        ("When do the doors of the library close?", True),
    ],
)
def test_what_comes_near_a_question(other: str, expected: bool) -> None:
    sentence = "When do the doors of the library open?"
    assert leaks("Tell me the opening hours.", sentence, ["What is 2 plus 2?", other]) is expected


def test_questions_of_one_kind_share_words_anyway() -> None:
    question, other = "What is the fuse of the Veltra pump?", "What is the filter of the Veltra pump?"

    assert not leaks(question, "Which fuse does the Veltra pump take?", [other])
    assert leaks(question, "What is the filter of this Veltra pump?", [other])
