"""Tokens to text, as they come: no half characters, no stop tokens, no stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

REPLACEMENT = "\ufffd"  # what a decoder shows for the first bytes of a character that is not complete yet


class Detokenizer:
    """Turns one answer's tokens into text, incrementally.

    The pieces put together are the decoded tokens up to the first stop token or stop string (which is left out), else
    all of them. ``stopped`` says that a stop string was found.
    """

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int] = (), stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = frozenset(stop_ids)
        self._stop = tuple(text for text in stop if text)
        self._ids: list[int] = []
        self._prefix = 0  # from here on tokens are decoded: some that were shown, for the context of spaces
        self._shown = 0  # tokens whose text is out
        self._held = ""  # text that may be the beginning of a stop string
        self.stopped = False

    def push(self, token_ids: Sequence[int]) -> str:
        """Takes new tokens and returns the text that is certain by now."""
        self._ids.extend(token for token in token_ids if token not in self._stop_ids)
        return self._release(self._decode(final=False), final=False)

    def finish(self) -> str:
        """Returns what was held back; the answer is over."""
        return self._release(self._decode(final=True), final=True)

    def _decode(self, *, final: bool) -> str:
        before = self._text(self._ids[self._prefix : self._shown])
        after = self._text(self._ids[self._prefix :])
        if len(after) <= len(before) or (after.endswith(REPLACEMENT) and not final):
            return ""
        self._prefix, self._shown = self._shown, len(self._ids)
        return after[len(before) :]

    def _text(self, token_ids: list[int]) -> str:
        text = self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def _release(self, new: str, *, final: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [position for position in (text.find(stop) for stop in self._stop) if position >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = 0 if final else max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
