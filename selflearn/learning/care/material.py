"""What a version is evaluated on: texts with their right answers, questions with choices, the anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selflearn.experience import Example
from selflearn.experience.transfer.references import MultipleChoice, Reference
from selflearn.judging.choices import ChoiceQuestion
from selflearn.learning.anchors import Anchor, anchor_prompts
from selflearn.models.base import LoadedBase
from selflearn.models.chat import encode_example
from selflearn.models.forward import TokenSequence


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt with the answer that it is measured against, as text and as tokens."""

    messages: Sequence[Mapping[str, Any]]
    target: str
    sequence: TokenSequence


@dataclass(frozen=True, slots=True)
class Material:
    """``on`` names where it comes from: ``reserve``, ``anchors`` or ``data``. What was longer than
    ``learning.max_length`` tokens is not in it; ``left_out`` counts it.

    Only the anchors have what the base model thinks of them along.
    """

    on: str
    items: tuple[Item, ...] = ()
    questions: tuple[ChoiceQuestion, ...] = ()
    anchors: tuple[Anchor, ...] = ()
    left_out: int = 0

    @property
    def sequences(self) -> list[TokenSequence]:
        return [item.sequence for item in self.items]


def material_of(
    base: LoadedBase,
    on: str,
    rows: Sequence[Example | Reference],
    questions: Sequence[MultipleChoice],
    max_length: int,
) -> Material:
    """Texts and questions as tokens."""
    items = [_item(base, row) for row in rows]
    chosen = [_question(base, question) for question in questions]
    short = [item for item in items if len(item.sequence.ids) <= max_length]
    fit = [one for one in chosen if all(len(choice.ids) <= max_length for choice in one.choices)]
    left_out = len(items) + len(chosen) - len(short) - len(fit)
    return Material(on, tuple(short), tuple(fit), left_out=left_out)


def anchor_material(base: LoadedBase, anchors: Sequence[Anchor]) -> Material:
    """The anchors that only ever judge; the base model's own answers are what is measured against."""
    prompts = [row["prompt"] for row in anchor_prompts() if row["use"] == "judge"]
    items = [
        Item([{"role": "user", "content": prompt}], _text(base, anchor), anchor.sequence)
        for prompt, anchor in zip(prompts, anchors, strict=True)
    ]
    return Material("anchors", tuple(items), anchors=tuple(anchors))


def _item(base: LoadedBase, row: Example | Reference) -> Item:
    return Item(row.messages, row.target, _sequence(base, row.messages, row.target))


def _question(base: LoadedBase, question: MultipleChoice) -> ChoiceQuestion:
    choices = tuple(_sequence(base, question.messages, choice) for choice in question.choices)
    return ChoiceQuestion(choices, tuple(len(choice.encode()) for choice in question.choices), question.answer)


def _sequence(base: LoadedBase, messages: Sequence[Mapping[str, Any]], answer: str) -> TokenSequence:
    ids, length = encode_example(base.tokenizer, list(messages), answer)
    return TokenSequence(tuple(ids), length)


def _text(base: LoadedBase, anchor: Anchor) -> str:
    ids = list(anchor.sequence.ids[anchor.sequence.prompt_length :])
    return str(base.tokenizer.decode(ids, skip_special_tokens=True)).strip()
