"""Tokens to text, as they come: no half characters, no stop tokens, no stop strings."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from selflearn.serving.engine import TokenLogprobs

REPLACEMENT = "\ufffd"  # what a decoder shows for the first bytes of a character that is not complete yet


class Detokenizer:
    """Turns one answer's tokens into text, incrementally.

    The pieces put together are the decoded tokens up to the first stop token or stop string (which is left out), else
    all of them. ``stopped`` says that a stop string was found.
    """

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int] = (), stop: Sequence[str] = ()) -> None:
        self._text = _decoder(tokenizer)
        self._stop_ids = frozenset(stop_ids)
        self._stop = tuple(text for text in stop if text)
        self._ids: list[int] = []
        self._prefix = 0  # from here on tokens are decoded: some that were shown, for the context of spaces
        self._shown = 0  # tokens whose text is out
        self._held = ""  # text that may be the beginning of a stop string
        self._released = 0  # characters that are out
        self._logprobs = _Ledger()
        self.stopped = False

    def push(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> str:
        """Takes new tokens (with one entry each in ``logprobs``, or none) and returns the text that is certain."""
        if logprobs:
            return "".join(map(self._push_one, logprobs))
        self._ids.extend(token for token in token_ids if token not in self._stop_ids)
        return self._release(self._decode(final=False), final=False)

    def finish(self) -> str:
        """Returns what was held back; the answer is over."""
        text = self._release(self._decode(final=True), final=True)
        self._logprobs.decoded(self._released)
        return text

    def take_logprobs(self) -> tuple[TokenLogprobs, ...]:
        """The entries of the tokens whose text came out since the last call; stop tokens have none."""
        return self._logprobs.take(self._released, final=self.stopped)

    def _push_one(self, entry: TokenLogprobs) -> str:
        """One token at a time, so that each entry knows where its text begins and ends."""
        if entry.token_id in self._stop_ids or self.stopped:
            return ""
        self._ids.append(entry.token_id)
        self._logprobs.add(entry)
        new = self._decode(final=False)
        if self._shown == len(self._ids):
            self._logprobs.decoded(self._released + len(self._held) + len(new))
        return self._release(new, final=False)

    def _decode(self, *, final: bool) -> str:
        if self._shown == len(self._ids):
            return ""
        before = self._text(self._ids[self._prefix : self._shown])
        after = self._text(self._ids[self._prefix :])
        if len(after) <= len(before) or (after.endswith(REPLACEMENT) and not final):
            return ""
        self._prefix, self._shown = self._shown, len(self._ids)
        return after[len(before) :]

    def _release(self, new: str, *, final: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [position for position in (text.find(stop) for stop in self._stop) if position >= 0]
        if found:
            self.stopped, self._held = True, ""
            text = text[: min(found)]
        else:
            keep = 0 if final else max((_overlap(text, stop) for stop in self._stop), default=0)
            self._held = text[len(text) - keep :]
            text = text[: len(text) - keep]
        self._released += len(text)
        return text


class _Ledger:
    """Which characters of the text each token's entry belongs to."""

    def __init__(self) -> None:
        self._open: list[TokenLogprobs] = []  # of tokens that end within a character
        self._placed: deque[tuple[int, int, TokenLogprobs]] = deque()  # first character, one after the last
        self._end = 0

    def add(self, entry: TokenLogprobs) -> None:
        self._open.append(entry)

    def decoded(self, end: int) -> None:
        """The text of all tokens so far ends at ``end``."""
        self._placed.extend((self._end, end, entry) for entry in self._open)
        self._open.clear()
        self._end = end

    def take(self, released: int, *, final: bool) -> tuple[TokenLogprobs, ...]:
        """Entries whose text is out; when ``final``, also that of a token of which only the beginning is."""
        taken = []
        while self._placed:
            start, end, entry = self._placed[0]
            if end > released and not (final and start < released):
                break
            self._placed.popleft()
            taken.append(entry)
        return tuple(taken)


def _decoder(tokenizer: Any) -> Callable[[list[int]], str]:
    """Token ids to text without special tokens; past what is around a fast tokenizer it takes half the time."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return functools.partial(backend.decode, skip_special_tokens=True)
    return functools.partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
