"""Self-edits: a correction's question restated by the base model itself, so that not one phrasing alone is learned.

SEAL (Zweiger et al., 2025) lets a model write its own training data. Here it writes further questions only: the answer
stays the correction's own, word for word, so that nothing false can be taught but by a question that means something
else. What is written is filtered, marked synthetic, and never more than there are real examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Final

import torch

from selflearn.config import LearningSettings
from selflearn.experience.curation.near_duplicates import alike
from selflearn.experience.texts import content_text, normalise, question_of
from selflearn.learning.anchors import generate
from selflearn.learning.job import JobExample
from selflearn.models.adapter import disabled
from selflearn.models.base import LoadedBase
from selflearn.models.chat import encode_prompt, stop_ids

#: So many sentences are drawn for each restatement wanted: most do not pass.
DRAWN: Final = 4
#: Longer questions are texts to work on, which have no other phrasing.
MAX_CHARACTERS: Final = 240
MAX_TOKENS: Final = 48
#: Restatements that share so much of their words with what judges would let it be learned by heart.
MAX_OVERLAP: Final = 0.5
_BATCH: Final = 16
#: Words of so many letters say what is asked for; their first letters stand for all their forms.
_LONG: Final = 6
_STEM: Final = 4
_SHOTS: Final = (
    ("When does the library open?", "At what time does the library open its doors?"),
    ("How do I cancel my order?", "What must I do to call my order off?"),
    ("Who wrote the play Hamlet?", "The play Hamlet was written by whom?"),
    ("Where is the main office?", "Can you tell me where I find the main office?"),
)


@dataclass(frozen=True, slots=True)
class SelfEdits:
    """``examples`` are synthetic, each with the id of the example that it restates; ``drawn`` counts all sentences."""

    examples: tuple[JobExample, ...]
    drawn: int


def self_edits(base: LoadedBase, examples: Sequence[JobExample], settings: LearningSettings, seed: int) -> SelfEdits:
    """Restates each new supervised example of ``examples`` up to ``settings.self_edits`` times, by the base itself.

    ``examples`` are all that the update knows, in any role: nothing is written that comes near a question of another
    one, above all not of one that judges. The same by ``seed`` on one machine.
    """
    restated = [example for example in examples if settings.self_edits and _can_be_restated(example)]
    if not restated:
        return SelfEdits((), 0)
    drawn = _sentences(base, restated, DRAWN * settings.self_edits, seed)
    fit = [_fitting(example, drawn[index], examples)[: settings.self_edits] for index, example in enumerate(restated)]
    limit = sum(1 for example in examples if example.role in ("train", "replay") and not example.synthetic)
    in_turn = [edit for round_ in zip_longest(*fit) for edit in round_ if edit is not None]
    return SelfEdits(tuple(in_turn[:limit]), sum(len(sentences) for sentences in drawn))


def usable(question: str, sentence: str, answer: str) -> bool:
    """Whether a sentence may stand for a question, as far as that can be seen without understanding it.

    It is one line of similar length that ends as the question does, not the same words in another order, and keeps the
    numbers, the names and the longer words (by their stems); at most half of it is new. It does not say the answer.
    """
    sentence = sentence.strip()
    ours, theirs = _words(question), _words(sentence)
    if "\n" in sentence or ours == theirs or not 0.5 * len(question) <= len(sentence) <= 2.5 * len(question):
        return False
    if _mark(question) != _mark(sentence) or not _names(question) <= theirs:
        return False
    stems = {word[:_STEM] for word in theirs}
    if any(word[:_STEM] not in stems for word in ours if len(word) >= _LONG) or 2 * len(theirs - ours) > len(theirs):
        return False
    said = normalise(answer).strip(".!")
    return said in normalise(question) or said not in normalise(sentence)


def leaks(question: str, sentence: str, others: Iterable[str]) -> bool:
    """Whether a restatement of ``question`` comes near one of these other questions.

    It does as a near duplicate, or if it shares much of its words with one, and more than ``question`` itself does:
    questions of one kind share many anyway.
    """
    for other in others:
        overlap = _overlap(sentence, other)
        if alike(sentence, other, MAX_OVERLAP) or (overlap >= MAX_OVERLAP and overlap > _overlap(question, other)):
            return True
    return False


def _overlap(a: str, b: str) -> float:
    """Jaccard similarity of the words."""
    ours, theirs = _words(a), _words(b)
    return len(ours & theirs) / max(1, len(ours | theirs))


def _can_be_restated(example: JobExample) -> bool:
    if example.role != "train" or example.objective != "supervised" or example.synthetic or not example.messages:
        return False
    last = example.messages[-1]
    return last.get("role") == "user" and isinstance(last.get("content"), str) and _short(last["content"])


def _short(question: str) -> bool:
    return 0 < len(question.strip()) <= MAX_CHARACTERS and "\n" not in question.strip()


@torch.no_grad()
def _sentences(base: LoadedBase, examples: Sequence[JobExample], count: int, seed: int) -> list[list[str]]:
    """``count`` sentences for each example, drawn from the base."""
    stops = stop_ids(base.tokenizer, base.model)
    prompts = [encode_prompt(base.tokenizer, request_of(example)) for example in examples]
    found: list[list[str]] = []
    on_gpu = [base.device] if base.device.type == "cuda" else []
    with disabled(base.model), torch.random.fork_rng(devices=on_gpu):
        torch.manual_seed(seed)
        for start in range(0, len(prompts), _BATCH):
            answers = generate(
                base.model,
                prompts[start : start + _BATCH],
                MAX_TOKENS,
                stops,
                base.device,
                do_sample=True,
                temperature=0.8,
                top_p=0.95,
                num_return_sequences=count,
            )
            texts = [str(base.tokenizer.decode(answer, skip_special_tokens=True)).strip() for answer in answers]
            found += [texts[at : at + count] for at in range(0, len(texts), count)]
    return found


def request_of(example: JobExample) -> list[dict[str, str]]:
    """The chat that asks the base to restate an example's question, by examples: small models follow no instruction."""
    shots = ((f"Ask the same in other words: {question}", restated) for question, restated in _SHOTS)
    turns = [
        turn
        for asked, restated in shots
        for turn in ({"role": "user", "content": asked}, {"role": "assistant", "content": restated})
    ]
    question = content_text(example.messages[-1]).strip()
    return [*turns, {"role": "user", "content": f"Ask the same in other words: {question}"}]


def _fitting(example: JobExample, sentences: Sequence[str], all_: Sequence[JobExample]) -> list[JobExample]:
    question = content_text(example.messages[-1]).strip()
    others = [question_of(other.messages) for other in all_ if other.id != example.id]
    kept: list[str] = []
    for sentence in sentences:
        new = all(_words(sentence) != _words(other) for other in kept)
        if new and usable(question, sentence, example.target) and not leaks(question, sentence, others):
            kept.append(sentence)
    return [_restated(example, sentence) for sentence in kept]


def _restated(example: JobExample, question: str) -> JobExample:
    messages: list[dict[str, Any]] = [*example.messages[:-1], {**example.messages[-1], "content": question}]
    return replace(example, messages=messages, rejected=None, synthetic=True)


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", normalise(text)))


def _names(text: str) -> frozenset[str]:
    """Words with a digit, and capitalised ones but for the first word and single letters, as comparisons see them."""
    words = re.findall(r"\w+", text)
    named = [word for word in words[1:] if word[:1].isupper() and len(word) > 1]
    return frozenset(normalise(word) for word in (*named, *(w for w in words if any(map(str.isdigit, w)))))


def _mark(text: str) -> str:
    """The mark that a sentence ends with, if any."""
    last = text.strip()[-1:]
    return "" if last.isalnum() else last
