"""Choosing tokens: one for each row of logits, as each row's request asks for.

Rows that only want their argmax cost one pass over the logits, whatever else is in the batch. What a row draws depends
on its own logits and its own random numbers, never on the rows beside it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from selflearn.errors import BadRequest
from selflearn.serving.engine import Sampling, TokenLogprobs

if TYPE_CHECKING:
    from selflearn.serving.grammar import Matcher

#: Below this, dividing by the temperature would leave fp32; the answer is the argmax anyway.
GREEDY_BELOW = 1e-4
LEAST = -1e30  # stands for NaN and for what is impossible to the model, where nothing else is left to choose
LEAST_LOGPROB = -9999.0  # what OpenAI answers for a token that is very unlikely; minus infinity is not JSON
FIRST_LOOK = 1024  # tokens that nearly always hold the whole nucleus
BLOCK = 128  # logits that a draw adds up before it looks at each


@dataclass(frozen=True, slots=True)
class Sampled:
    """A row's next token. ``failure`` says why its grammar leaves it none; the token means nothing then."""

    token_id: int
    logprobs: TokenLogprobs | None = None
    failure: str | None = None


class RowSampler:
    """How the tokens of one answer are chosen, and what of it has a bearing on the next one.

    ``source`` gives the random numbers of a request without a seed. Raises ``BadRequest`` for a bias on a token that
    does not exist.
    """

    def __init__(
        self, sampling: Sampling, vocabulary_size: int, source: random.Random, matcher: Matcher | None = None
    ) -> None:
        self.sampling = sampling
        self.matcher = matcher
        self._vocabulary_size = vocabulary_size
        # as text: as a number, a seed and its negative are one
        self._source = source if sampling.seed is None else random.Random(str(sampling.seed))
        self._bias = dict(sampling.logit_bias)
        self._counts: Counter[int] = Counter()
        self._offsets: Tensor | None = None
        self._penalised = bool(sampling.presence_penalty or sampling.frequency_penalty)
        self.greedy = sampling.temperature < GREEDY_BELOW or sampling.top_p <= 0.0
        self.shifted = self._penalised or bool(self._bias)
        self.plain = self.greedy and not self.shifted and sampling.logprobs is None and matcher is None
        unknown = [token for token in self._bias if not 0 <= token < vocabulary_size]
        if unknown:
            message = f"logit_bias names token {unknown[0]}; the model's tokens are 0 to {vocabulary_size - 1}."
            raise BadRequest(message, param="logit_bias", code="bad_token")

    @property
    def finished(self) -> bool:
        """Whether the answer is complete in its grammar."""
        return self.matcher is not None and self.matcher.finished

    def point(self) -> float:
        """The next random number, at least 0 and less than 1. A token that is drawn takes exactly one."""
        return self._source.random()

    def offsets(self, device: torch.device) -> Tensor:
        """What bias and penalties add to the logits, [vocabulary] in fp32. It grows with the answer."""
        if self._offsets is None:
            self._offsets = torch.zeros(self._vocabulary_size, dtype=torch.float32, device=device)
            for token_id in {*self._bias, *self._counts}:
                self._offsets[token_id] = self._offset(token_id)
        return self._offsets

    def advance(self, token_id: int) -> None:
        """Notes the token that was chosen."""
        if self._penalised:
            self._counts[token_id] += 1
            if self._offsets is not None:
                self._offsets[token_id] = self._offset(token_id)
        if self.matcher is not None:
            self.matcher.advance(token_id)

    def _offset(self, token_id: int) -> float:
        count = self._counts[token_id]
        presence = self.sampling.presence_penalty if count else 0.0
        return self._bias.get(token_id, 0.0) - presence - self.sampling.frequency_penalty * count


def sample(logits: Tensor, rows: Sequence[RowSampler]) -> list[Sampled]:
    """The next token of every row, which is told of it. ``logits`` is [rows, vocabulary], and stays as it is.

    A logit that is not a number counts as the least of all.
    """
    special = [number for number, row in enumerate(rows) if not row.plain]
    if not special:
        return [Sampled(token) for token in _best(logits)]
    if len(special) == len(rows):
        return _sample_special(logits, rows)
    found = dict(zip(special, _sample_special(logits[special], [rows[number] for number in special]), strict=True))
    plain = [number for number, row in enumerate(rows) if row.plain]
    found |= {number: Sampled(token) for number, token in zip(plain, _best(logits[plain]), strict=True)}
    return [found[number] for number in range(len(rows))]


def _best(logits: Tensor) -> list[int]:
    # torch's argmax takes five times as long as its max, on bf16 on the CPU
    best = logits.max(dim=-1)
    tokens: list[int] = torch.where(best.values.isnan(), -1, best.indices).tolist()
    return [int(_finite(logits[row]).argmax()) if token < 0 else token for row, token in enumerate(tokens)]


def _finite(logits: Tensor) -> Tensor:
    """A copy in fp32, within bounds that no temperature takes out of it."""
    return logits.to(torch.float32, copy=True).nan_to_num_(nan=LEAST).clamp_(LEAST, -LEAST)


def _sample_special(logits: Tensor, rows: Sequence[RowSampler]) -> list[Sampled]:
    values = _finite(logits)
    raw = _Raw(values, rows)
    _shift(values, rows)
    failures = _mask(values, rows)
    tokens = _choose(values, rows)
    entries = raw.entries(logits, tokens)
    return [_note(*row) for row in zip(rows, tokens, entries, failures, strict=True)]


def _note(row: RowSampler, token: int, logprobs: TokenLogprobs | None, failure: str | None) -> Sampled:
    if failure is None:
        row.advance(token)
        failure = None if row.matcher is None else row.matcher.failure
    return Sampled(token, logprobs, failure)


def _shift(values: Tensor, rows: Sequence[RowSampler]) -> None:
    for number, row in enumerate(rows):
        if row.shifted:
            values[number] += row.offsets(values.device)


def _mask(values: Tensor, rows: Sequence[RowSampler]) -> list[str | None]:
    """Makes impossible what the rows' grammars exclude; returns why a row has nothing left, by row."""
    failures: list[str | None] = [None] * len(rows)
    for number, row in enumerate(rows):
        if row.matcher is None:
            continue
        words = row.matcher.mask()
        failures[number] = row.matcher.failure
        if row.matcher.failure is None:
            bits = np.unpackbits(words.view(np.uint8), count=values.shape[1], bitorder="little")
            excluded = torch.from_numpy(bits == 0).to(values.device)
            values[number].masked_fill_(excluded, -torch.inf)
    return failures


def _choose(values: Tensor, rows: Sequence[RowSampler]) -> list[int]:
    """Token ids, each that of a finite value if there is one. ``values`` are used up."""
    drawn = [number for number, row in enumerate(rows) if not row.greedy]
    if not drawn:
        return _best(values)
    if len(drawn) == len(rows):
        return _draw_tokens(values, rows)
    tokens = dict(zip(drawn, _draw_tokens(values[drawn], [rows[number] for number in drawn]), strict=True))
    greedy = [number for number, row in enumerate(rows) if row.greedy]
    tokens |= zip(greedy, _best(values[greedy]), strict=True)
    return [tokens[number] for number in range(len(rows))]


def _draw_tokens(values: Tensor, rows: Sequence[RowSampler]) -> list[int]:
    temperatures = torch.tensor([[row.sampling.temperature] for row in rows], device=values.device)
    points = torch.tensor([row.point() for row in rows], dtype=torch.float64, device=values.device)
    probabilities = values.div_(temperatures).softmax(dim=-1)
    keep_nucleus(probabilities, [row.sampling.top_p for row in rows])
    tokens: list[int] = draw(probabilities, points).tolist()
    return tokens


def keep_nucleus(probabilities: Tensor, top_p: Sequence[float]) -> None:
    """Puts 0 for all but the most probable tokens of each row, which make up its ``top_p``.

    ``probabilities`` is [rows, vocabulary] in fp32, each row adding up to 1. Tokens as probable as the last that is
    kept are kept as well, so that the order among equals has no influence.
    """
    narrowed = [number for number, share in enumerate(top_p) if share < 1.0]
    if not narrowed:
        return
    shares = torch.tensor([top_p[number] for number in narrowed], dtype=torch.float64, device=probabilities.device)
    considered = probabilities if len(narrowed) == len(probabilities) else probabilities[narrowed]
    below = torch.nextafter(_cutoffs(considered, shares), torch.zeros(1, device=probabilities.device))
    # a row at a time is a quarter of the time of one comparison of them all
    for number, threshold in zip(narrowed, below.tolist(), strict=True):
        functional.threshold(probabilities[number], threshold, 0.0, inplace=True)


def _cutoffs(probabilities: Tensor, shares: Tensor) -> Tensor:
    """The probability [rows] of the last token that it takes to make up each row's share (fp64, less than 1)."""
    cutoffs = probabilities.amax(dim=-1)
    open_rows = (cutoffs < shares).nonzero().squeeze(-1)  # the others' best token makes it up alone
    for count in (min(FIRST_LOOK, probabilities.shape[1]), probabilities.shape[1]):
        if not len(open_rows):
            break
        wanted = shares[open_rows].unsqueeze(-1)
        greatest = _greatest(probabilities[open_rows], count)
        sums = greatest.double().cumsum(dim=-1)  # in one step, with a dtype, it takes five times as long
        last = (sums < wanted).sum(dim=-1, keepdim=True).clamp_(max=count - 1)
        cutoffs[open_rows] = greatest.gather(1, last).squeeze(-1)
        open_rows = open_rows[sums[:, -1] < shares[open_rows]]
    return cutoffs


def _greatest(probabilities: Tensor, count: int) -> Tensor:
    """The ``count`` greatest of each row, in descending order."""
    if probabilities.device.type != "cpu":
        return probabilities.topk(count).values
    # numpy selects and sorts with vector instructions: three times as fast as torch's topk, thirty times as its sort
    rest = probabilities.shape[1] - count
    rows = probabilities.numpy()  # one at a time stays in the processor's cache
    greatest = [np.sort(np.partition(row, rest)[rest:] if rest else row)[::-1] for row in rows]
    return torch.from_numpy(np.stack(greatest))


def draw(weights: Tensor, points: Tensor) -> Tensor:
    """Index of one entry of each row of ``weights`` [rows, n], with a chance in proportion to its weight.

    It is the entry at which the running sum passes ``points`` [rows] (fp64, from 0 to less than 1) of the whole sum.
    """
    short = -weights.shape[1] % BLOCK
    padded = (functional.pad(weights, (0, short)) if short else weights).view(len(weights), -1, BLOCK)
    sums = padded.sum(dim=-1).double()
    ends = sums.cumsum(dim=-1)
    block = _first_above(ends, points * ends[:, -1])
    start = (ends - sums).gather(1, block.unsqueeze(-1)).squeeze(-1)
    within = padded[torch.arange(len(weights), device=weights.device), block].double().cumsum(dim=-1)
    return block * BLOCK + _first_above(within, points * ends[:, -1] - start)


def _first_above(ends: Tensor, targets: Tensor) -> Tensor:
    """Where the running sums ``ends`` first exceed the targets: never at an entry that adds nothing.

    Rounding can put a target outside the sums; it counts as their first or their last then.
    """
    last = torch.nextafter(ends[:, -1], torch.zeros_like(targets))
    inside = torch.minimum(targets.clamp_min(0.0), last)
    return torch.searchsorted(ends, inside.unsqueeze(-1), right=True).squeeze(-1)


class _Raw:
    """Log-probabilities of the model itself, for the rows that want them: taken before anything changes the logits."""

    def __init__(self, values: Tensor, rows: Sequence[RowSampler]) -> None:
        self._counts = [row.sampling.logprobs for row in rows]
        self._wanting = [number for number, count in enumerate(self._counts) if count is not None]
        if self._wanting:
            wanted = values[self._wanting]
            self._normaliser = wanted.logsumexp(dim=-1, keepdim=True)
            most = max(count for count in self._counts if count is not None)
            self._top = wanted.topk(min(most, values.shape[1]))

    def entries(self, logits: Tensor, tokens: list[int]) -> list[TokenLogprobs | None]:
        """One per row, None where the row wants none. ``logits`` are the model's, ``tokens`` what was chosen."""
        entries: list[TokenLogprobs | None] = [None] * len(tokens)
        if not self._wanting:
            return entries
        chosen = [tokens[number] for number in self._wanting]
        values = torch.cat((_finite(logits[self._wanting, chosen]).unsqueeze(-1), self._top.values), dim=-1)
        logprobs = values.sub_(self._normaliser).clamp_min_(LEAST_LOGPROB).tolist()
        found = zip(self._wanting, chosen, logprobs, self._top.indices.tolist(), strict=True)
        for number, token, (logprob, *top_logprobs), top in found:
            pairs = tuple(zip(top, top_logprobs, strict=True))[: self._counts[number]]
            entries[number] = TokenLogprobs(token, logprob, pairs)
        return entries
