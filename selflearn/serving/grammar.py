"""Constrained decoding: which tokens an answer may go on with so that it stays within a grammar. Made by llguidance.

A grammar is compiled once, off the token path, and kept for the next request that wants the same. Each request walks
through it with a matcher of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import llguidance.hf
import llguidance.numpy
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from selflearn.errors import BadRequest
from selflearn.serving.engine import Constraint

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions
    from transformers import PreTrainedTokenizerBase

KEPT_GRAMMARS = 32  # compiled ones, the last used; each is small until answers have walked through it
WORD_BITS = 32

# A space after a comma or a colon is the model's choice, since both ways are common in what it has read; no other
# whitespace, because a model that is not sure goes on with it for ever. A schema can't ask for more of it either.
_COMPACT: JsonCompileOptions = {
    "whitespace_flexible": False,
    "whitespace_pattern": "",
    "item_separator": ", ?",
    "key_separator": ": ?",
}


class Grammars:
    """Compiles constraints for one tokenizer. ``vocabulary_size`` is the number of the model's logits."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary_size: int) -> None:
        self._tokenizer: Any = tokenizer
        self._vocabulary_size = vocabulary_size
        self._building = threading.Lock()
        self._built: LLTokenizer | None = None
        self._compiled = lru_cache(maxsize=KEPT_GRAMMARS)(self._compile)

    def compile(self, constraint: Constraint) -> Grammar:
        """The grammar of a constraint. May take a second the first time, milliseconds after that; from any thread.

        Raises ``BadRequest`` for a constraint that is malformed or uses what llguidance does not know.
        """
        return self._compiled(constraint)

    def _compile(self, constraint: Constraint) -> Grammar:
        tokenizer = self._tokens()
        try:
            definition = _definition(constraint)
        except ValueError as error:
            raise _refusal(str(error)) from error
        # Its error messages are for users; with the parser's state in them they would be pages long.
        limits = LLParserLimits(verbose_errors=False)
        matcher = LLMatcher(tokenizer, definition, log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # the first mask is the slowest one, and each copy knows it already
        if matcher.is_error():
            raise _refusal(matcher.get_error())
        return Grammar(matcher, tokenizer.vocab_size, self._vocabulary_size)

    def _tokens(self) -> LLTokenizer:
        with self._building:
            if self._built is None:
                try:
                    self._built = llguidance.hf.from_tokenizer(self._tokenizer)
                except ValueError as error:
                    message = f"This model's tokenizer can't follow a format: {error}. Ask for plain text."
                    raise BadRequest(message, param="response_format", code="unsupported_parameter") from error
            return self._built


class Grammar:
    """One compiled constraint."""

    def __init__(self, beginning: LLMatcher, known_tokens: int, vocabulary_size: int) -> None:
        self._beginning = beginning
        self._known_tokens = known_tokens
        self._vocabulary_size = vocabulary_size

    def matcher(self, stop_ids: Collection[int]) -> Matcher:
        """A new walk through the grammar, from its beginning. From any thread."""
        return Matcher(self._beginning.deep_copy(), self._known_tokens, self._vocabulary_size, frozenset(stop_ids))


class Matcher:
    """Where one answer is in its grammar. Belongs to the engine's thread.

    Once ``failure`` says why, there is no way on: the grammar grew beyond the library's limits, or no token fits.
    """

    def __init__(self, matcher: LLMatcher, known_tokens: int, vocabulary_size: int, stop_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._stop_ids = {token_id for token_id in stop_ids if token_id < vocabulary_size}
        self._known_words = _words(known_tokens)
        # A model can have more logits than its tokenizer has tokens, or fewer; nothing stands behind the extra ones.
        self._mask_words = _words(vocabulary_size)
        self._last_word = np.uint32((1 << (vocabulary_size - 1) % WORD_BITS + 1) - 1)
        self._buffer: NDArray[np.int32] = np.zeros((1, max(self._known_words, self._mask_words)), dtype=np.int32)
        self.failure: str | None = None

    @property
    def finished(self) -> bool:
        """Whether the grammar is at its end: only a stop token may follow."""
        return self.failure is None and self._matcher.is_stopped()

    def mask(self) -> NDArray[np.int32]:
        """The tokens that may come next: bit i of word w for token 32 w + i, as many words as all logits need.

        Stop tokens are among them exactly where the grammar may end. It is valid until the next call.
        """
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._buffer[:, : self._known_words])
        mask = self._buffer[0, : self._mask_words]
        mask.view(np.uint32)[-1] &= self._last_word
        self._set_stops(mask.view(np.uint32), self._matcher.is_accepting())
        if self._matcher.is_error():
            self.failure = self._matcher.get_error()
        elif not mask.any():
            self.failure = "no token of the model fits"
        return mask

    def advance(self, token_id: int) -> None:
        """Notes the token that was chosen; what follows a stop token is of no interest."""
        if token_id not in self._stop_ids and not self._matcher.consume_token(token_id):
            self.failure = self._matcher.get_error()

    def _set_stops(self, mask: NDArray[np.uint32], allowed: bool) -> None:
        for token_id in self._stop_ids:
            bit = np.uint32(1 << token_id % WORD_BITS)
            if allowed:
                mask[token_id // WORD_BITS] |= bit
            else:
                mask[token_id // WORD_BITS] &= ~bit


def _words(tokens: int) -> int:
    return -(-tokens // WORD_BITS)


def _definition(constraint: Constraint) -> str:
    if constraint.kind == "json_schema":
        return LLMatcher.grammar_from_json_schema(constraint.value, overrides=_COMPACT)
    makers: Mapping[str, Any] = {"regex": LLMatcher.grammar_from_regex, "lark": LLMatcher.grammar_from_lark}
    return str(makers[constraint.kind](constraint.value))


def _refusal(reason: str) -> BadRequest:
    message = f"The answer can't be held to this format; change or simplify it. llguidance says: {reason.strip()}"
    return BadRequest(message, param="response_format", code="invalid_schema")
