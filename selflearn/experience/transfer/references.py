"""Reading: rows to measure a model with. Nothing of them is recorded, and none of them trains.

A row is a question with an answer to compare with (chat, completion or sharegpt, as imports read them: the last answer
counts), or a question with choices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import Field, ValidationError

from selflearn.experience.transfer.formats import Format, RowError, detect_format, offers_of, reason_of
from selflearn.experience.transfer.importing import Line, parse_line
from selflearn.experience.transfer.imports import LineError
from selflearn.experience.transfer.row_schemas import MAX_MESSAGES, Lenient, Turn

#: The formats whose rows have one answer that is meant to be right.
REFERENCE_FORMATS: Final[tuple[Format, ...]] = ("chat", "completion", "sharegpt")
MAX_CHOICES: Final = 64


@dataclass(frozen=True, slots=True)
class Reference:
    """A chat up to where the answer begins, and the answer that is expected."""

    line: int
    messages: tuple[Mapping[str, Any], ...]
    target: str


@dataclass(frozen=True, slots=True)
class MultipleChoice:
    """A chat up to where the answer begins, and answers of which the one with index ``answer`` is right."""

    line: int
    messages: tuple[Mapping[str, Any], ...]
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True, slots=True)
class ReferenceRows:
    """What a file holds, in its order, and what is wrong with its other lines."""

    references: tuple[Reference, ...]
    questions: tuple[MultipleChoice, ...]
    rejected: tuple[LineError, ...]


class ChoiceRow(Lenient):
    """``answer`` is the index of the right choice (from 0), its letter, or its text."""

    question: str | None = Field(None, min_length=1)
    messages: list[Turn] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    choices: list[str] = Field(min_length=2, max_length=MAX_CHOICES)
    answer: int | str


def read_references(lines: Iterable[Line], most: int) -> ReferenceRows:
    """Reads lines until ``most`` rows are taken; a line that is none is told with its number, and the rest goes on."""
    references, questions, rejected = list[Reference](), list[MultipleChoice](), list[LineError]()
    for number, line in lines:
        if line is not None and not line.strip():
            continue
        try:
            row = parse_line(line, first=number == 1)
            if isinstance(row, dict) and "choices" in row:
                questions.append(_question(number, row))
            else:
                references.append(_reference(number, row))
        except RowError as error:
            rejected.append(LineError(number, str(error)))
        if len(references) + len(questions) >= most:
            break
    return ReferenceRows(tuple(references), tuple(questions), tuple(rejected))


def _reference(number: int, row: Any) -> Reference:
    format_ = detect_format(row)
    if format_ not in REFERENCE_FORMATS:
        expected = ", ".join(REFERENCE_FORMATS)
        raise RowError(f"the row is in the format {format_}, which has no one right answer; expected {expected}")
    offer = offers_of(row, format_)[-1]
    return Reference(number, tuple(offer.messages), offer.target)


def _question(number: int, row: Any) -> MultipleChoice:
    try:
        read = ChoiceRow.model_validate(row)
    except ValidationError as error:
        raise RowError(reason_of(error)) from error
    if (read.question is None) == (read.messages is None):
        raise RowError("a row with choices has either a question or messages")
    if not all(choice.strip() for choice in read.choices) or len(set(read.choices)) < len(read.choices):
        raise RowError("a choice is empty, or the same as another one")
    messages = [turn.plain() for turn in read.messages or ()] or [{"role": "user", "content": read.question}]
    return MultipleChoice(number, tuple(messages), tuple(read.choices), _index(read))


def _index(row: ChoiceRow) -> int:
    if isinstance(row.answer, str) and row.answer in row.choices:
        return row.choices.index(row.answer)
    letter = row.answer.strip().upper() if isinstance(row.answer, str) else ""
    index = ord(letter) - ord("A") if len(letter) == 1 else row.answer
    if isinstance(index, int) and 0 <= index < len(row.choices):
        return index
    raise RowError(f"answer names none of the {len(row.choices)} choices; expected an index from 0, a letter or a text")
