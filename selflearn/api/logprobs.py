"""Log-probabilities in the two shapes that OpenAI's interface has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from selflearn.models.vocabulary import Vocabulary
from selflearn.serving import TokenLogprobs

LEAST = -9999.0  # what stands for minus infinity, which JSON has not


def entries(vocabulary: Vocabulary, logprobs: Iterable[TokenLogprobs]) -> list[dict[str, Any]]:
    """``[{"token", "logprob", "bytes", "top_logprobs": [{"token", "logprob", "bytes"}]}]``, for chats and Responses."""
    return [
        {
            **_entry(vocabulary, one.token_id, one.logprob),
            "top_logprobs": [_entry(vocabulary, number, logprob) for number, logprob in one.top],
        }
        for one in logprobs
    ]


def legacy(vocabulary: Vocabulary, logprobs: Iterable[TokenLogprobs], wanted: int, offset: int) -> dict[str, Any]:
    """The lists of legacy completions.

    ``wanted`` alternatives were asked for; the chosen token is always among them. ``offset`` is where in the text
    (prompt left out) the first of these tokens begins.
    """
    shape: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for one in logprobs:
        text, logprob = vocabulary.token(one.token_id)[0], max(one.logprob, LEAST)
        top: dict[str, float] = {}
        for number, value in (*one.top[:wanted], (one.token_id, one.logprob)):
            top.setdefault(vocabulary.token(number)[0], max(value, LEAST))  # of tokens with the same text the best
        shape["tokens"].append(text)
        shape["token_logprobs"].append(logprob)
        shape["top_logprobs"].append(top)
        shape["text_offset"].append(offset)
        offset += len(text)
    return {**shape, "top_logprobs": shape["top_logprobs"] if wanted else None}


def _entry(vocabulary: Vocabulary, number: int, logprob: float) -> dict[str, Any]:
    text, raw = vocabulary.token(number)
    return {"token": text, "logprob": max(logprob, LEAST), "bytes": list(raw)}
