"""Rows to measure with: what is taken, and what is told of the rest."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from selflearn.experience.transfer.importing import read_lines
from selflearn.experience.transfer.references import ReferenceRows, read_references
from tests.rows import chat


def read(*rows: Any, most: int = 100) -> ReferenceRows:
    lines = b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)
    return read_references(read_lines(io.BytesIO(lines), 10_000), most)


def test_the_last_answer_is_the_reference() -> None:
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "a?"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "b?"},
        {"role": "assistant", "content": "B"},
    ]
    found = read({"messages": turns}, {"prompt": "c?", "completion": " C "})

    assert [reference.target for reference in found.references] == ["B", "C"]
    assert [len(reference.messages) for reference in found.references] == [4, 1]
    assert not found.rejected


@pytest.mark.parametrize("answer", [2, "C", "c", "Paris"])
def test_the_right_choice_by_index_letter_or_text(answer: int | str) -> None:
    row = {"question": "Capital of France?", "choices": ["Rome", "Oslo", "Paris"], "answer": answer}
    (question,) = read(row).questions

    assert (question.answer, question.choices[2]) == (2, "Paris")
    assert question.messages == ({"role": "user", "content": "Capital of France?"},)


def test_a_text_comes_before_a_letter() -> None:
    (question,) = read({"question": "Which grade?", "choices": ["B", "A"], "answer": "A"}).questions

    assert question.answer == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8"),
        ({"text": "x"}, "no known format"),
        ({"messages": [{"role": "user", "content": "a?"}]}, "no answer"),
        ({"prompt": "a?", "chosen": "A", "rejected": "B"}, "format preference"),
        ({"question": "a?", "choices": ["A"], "answer": 0}, "choices"),
        ({"question": "a?", "choices": ["A", "B"], "answer": 2}, "none of the 2 choices"),
        ({"question": "a?", "choices": ["A", "B"], "answer": -1}, "none of the 2 choices"),
        ({"question": "a?", "choices": ["A", "A"], "answer": 0}, "same as another"),
        ({"choices": ["A", "B"], "answer": 0}, "either a question or messages"),
        ({"question": "a?", "choices": ["A", "B"]}, "answer"),
    ],
)
def test_a_bad_line_is_told_and_the_rest_goes_on(row: Any, reason: str) -> None:
    found = read(chat("a?", "A"), b"", row, chat("b?", "B"))

    assert [reference.line for reference in found.references] == [1, 4]
    ((error),) = found.rejected
    assert error.line == 3
    assert reason in error.reason


def test_no_more_rows_than_wanted_are_read() -> None:
    found = read(chat("a?", "A"), chat("b?", "B"), b"{", most=2)

    assert (len(found.references), found.rejected) == (2, ())
