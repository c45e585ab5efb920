"""Collapse: how uniform, how repetitive and how varied answers are. A model that lost its language shows here first."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def repetition(token_ids: Sequence[int], n: int = 4) -> float:
    """The share of n-grams of one answer that occurred in it before, in [0, 1]: seq-rep-n of Welleck et al., 2020.

    1 − |distinct n-grams| / |n-grams|; 0 for an answer of fewer than ``n`` tokens, which has none.
    """
    grams = _n_grams(token_ids, n)
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(answers: Sequence[Sequence[int]], n: int = 2) -> float:
    """The distinct n-grams of all ``answers`` together over their number, in [0, 1]: distinct-n of Li et al., 2016.

    Falls when a model says the same to everybody, which no single answer shows. NaN where no answer has ``n`` tokens.
    """
    grams = [gram for answer in answers for gram in _n_grams(answer, n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def mean_entropy(logits: Tensor) -> float:
    """The mean Shannon entropy of next-token distributions, in nats; ``logits`` is [tokens, vocabulary].

    Near 0 for a model that is sure of every token, log(vocabulary) for one that knows nothing. NaN for no tokens, and
    where a logit is NaN or every one of a token is infinite.
    """
    if not len(logits):
        return math.nan
    log_probs = logits.detach().float().log_softmax(dim=-1)
    probs = log_probs.exp()
    # a token that a mask excludes has probability 0 and adds nothing; 0 × −∞ would be NaN
    summands = (probs * log_probs).masked_fill(probs == 0.0, 0.0)
    return float(-summands.sum(dim=-1).mean())


def _n_grams(token_ids: Sequence[int], n: int) -> list[tuple[int, ...]]:
    if n < 1:
        raise ValueError(f"n-grams of {n} tokens were asked for; expected at least 1")
    return [tuple(token_ids[start : start + n]) for start in range(len(token_ids) - n + 1)]
