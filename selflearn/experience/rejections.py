"""Rejections: user turns that say that the answer before them was wrong or missed the question.

Rules on words, in English, German, French and Spanish. They look at what a sentence *begins* with, because "my teacher
says that's wrong" and "translate: that's wrong" speak of something else; and at the question and the answer, because
"not the planet" rejects an answer about a planet. When in doubt a turn does not reject: a false alarm teaches against a
good answer, a miss costs nothing. ``python -m tests.benchmarks.implicit`` measures both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from selflearn.experience import rejection_words as words
from selflearn.experience.texts import normalise

#: So many sentences at the beginning of a turn are looked at: whoever rejects an answer says so first.
_SENTENCES: Final = 2
#: What comes later in a turn is a text to work on, not a word about the answer.
_MAX_CHARACTERS: Final = 2000
#: A bare contrast ("the metal, not the planet") has at most so many words; longer ones are requests.
_CONTRAST_WORDS: Final = 9

_CODE: Final = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_QUOTED_LINE: Final = re.compile(r"^\s*>.*$", re.MULTILINE)
_QUOTED: Final = re.compile(r"\"[^\"]*\"|“[^”]*”|„[^“”\"]*[“”\"]|«[^»]*»|(?<!\w)'[^']*'(?!\w)")
_NUMBERED: Final = re.compile(r"\bno\.?\s*(?=\d)", re.IGNORECASE)
_SENTENCE: Final = re.compile(r"(?:[^.!?…\n]|\.(?=\d))+[.!?…]*")
_WORD: Final = re.compile(r"\w+")

_WRONG: Final = re.compile(words.LEAD + words.WRONG)
_NO: Final = re.compile(words.NO)
_CONTRASTS: Final = tuple(re.compile(f"{words.LEAD}(?:{pattern})") for pattern in words.CONTRASTS)
_MISSES: Final = tuple(re.compile(f"{words.LEAD}(?:{pattern})") for pattern in words.MISSES)
_OTHER_NUMBER: Final = re.compile(words.LEAD + words.NUMBER)
_QUESTION: Final = re.compile(words.QUESTION)
_OWN_MISTAKE: Final = re.compile(words.OWN_MISTAKE)
_PRAISE: Final = re.compile(words.PRAISE)
_THANKS: Final = re.compile(rf"\b{words.THANKS}\b")
_FRIENDLY: Final = re.compile(rf"\b{words.FRIENDLY}\b")
_TASK: Final = re.compile(words.TASK)
_WANTS_TEXT: Final = re.compile(words.WANTS_TEXT)
_COMMON: Final = frozenset(words.COMMON.split())


def rejection(question: str, answer: str, turn: str) -> str | None:
    """The sentence in which a user turn rejects the answer to a question; None if the turn does not reject it."""
    if _WANTS_TEXT.search(answer[-_MAX_CHARACTERS:].casefold()):
        return None
    asked = "?" in answer  # then "no" may reply to it
    for sentence in _opening(turn):
        if not _speaks_of_something_else(sentence):
            if _WRONG.match(sentence) or _lacks(sentence, question, answer):
                return sentence
            if not asked and _NO.match(sentence) and not _FRIENDLY.search(sentence):
                return sentence
        if _THANKS.search(sentence):
            return None  # what follows thanks is another matter
    return None


def _opening(turn: str) -> Iterator[str]:
    """The first sentences of a turn as comparisons see them, without what it quotes and what a task is about."""
    text = _NUMBERED.sub("number ", turn[:_MAX_CHARACTERS].replace("’", "'"))
    text = _QUOTED.sub(" … ", _QUOTED_LINE.sub("", _CODE.sub("", text)))
    if task := _TASK.match(text.casefold()):
        text = text[: task.end()]
    told = [normalise(sentence) for sentence in _SENTENCE.findall(text) if _WORD.search(sentence)]
    yield from told[:_SENTENCES]


def _speaks_of_something_else(sentence: str) -> bool:
    asks = sentence.endswith("?") or _QUESTION.match(sentence) is not None
    return asks or _OWN_MISTAKE.search(sentence) is not None or _PRAISE.search(sentence) is not None


def _lacks(sentence: str, question: str, answer: str) -> bool:
    """Whether a sentence says that the answer has something else than what was asked for."""
    given, asked_for = _words(answer), _words(question)
    if len(sentence.split()) <= _CONTRAST_WORDS:
        for found in _matches(_CONTRASTS, sentence):
            wanted = _WORD.findall(found["wanted"] or "")[-1:]
            if found["found"] in given - asked_for or asked_for.intersection(wanted):
                return True
        number = _OTHER_NUMBER.fullmatch(sentence)
        if number and number["number"] not in answer and re.search(r"\d", answer):
            return True
    return any(found["wanted"] in asked_for for found in _matches(_MISSES, sentence))


def _matches(patterns: Iterable[re.Pattern[str]], sentence: str) -> Iterator[re.Match[str]]:
    return (found for pattern in patterns if (found := pattern.fullmatch(sentence)))


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(normalise(text))) - _COMMON
