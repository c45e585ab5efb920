"""Choosing tokens: as a plain, slow sampler would, whoever else is in the batch."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from selflearn.errors import BadRequest
from selflearn.serving import Sampling
from selflearn.serving.sampling import LEAST_LOGPROB, RowSampler, Sampled, sample

EDGE = 1e-5  # how far rounding in fp32 may move a boundary between two tokens


def shifted(logits: Sequence[float], sampling: Sampling, answer: Sequence[int]) -> list[float]:
    """Logits with bias and penalties, by OpenAI's formula."""
    bias, counts = dict(sampling.logit_bias), Counter(answer)
    return [
        value
        + bias.get(token, 0.0)
        - sampling.frequency_penalty * counts[token]
        - sampling.presence_penalty * (counts[token] > 0)
        for token, value in enumerate(logits)
    ]


def distribution(logits: Sequence[float], temperature: float, top_p: float) -> list[float]:
    """The chance of each token: the smallest set of most probable ones that makes up top-p, and their equals."""
    highest = max(logits)
    weights = [math.exp((value - highest) / temperature) for value in logits]
    total = math.fsum(weights)
    probabilities = [weight / total for weight in weights]
    covered, cutoff = 0.0, 0.0
    for probability in sorted(probabilities, reverse=True):
        cutoff = probability
        covered += probability
        if covered >= top_p:
            break
    kept = [probability if probability >= cutoff * (1 - 1e-9) else 0.0 for probability in probabilities]
    total = math.fsum(kept)
    return [probability / total for probability in kept]


def token_at(chances: Sequence[float], point: float) -> int:
    """The token at which the running sum of the chances passes ``point``."""
    passed, last = 0.0, 0
    for token, chance in enumerate(chances):
        passed += chance
        if chance > 0.0:
            last = token
        if passed > point and chance > 0.0:
            return token
    return last


def acceptable(logits: Sequence[float], sampling: Sampling, point: float) -> set[int]:
    """What the slow sampler chooses, also when rounding moves what it compares by a hair."""
    edges = (-EDGE, 0.0, EDGE)
    chances = [distribution(logits, sampling.temperature, min(1.0, sampling.top_p + edge)) for edge in edges]
    return {token_at(entry, point + edge) for entry in chances for edge in edges}


def rows_of(*samplings: Sampling, vocabulary: int, seed: int = 0) -> list[RowSampler]:
    return [RowSampler(sampling, vocabulary, random.Random(seed)) for sampling in samplings]


def tokens_of(sampled: Sequence[Sampled]) -> list[int]:
    return [entry.token_id for entry in sampled]


def random_logits(rows: int, vocabulary: int, *, spread: float = 3.0, seed: int = 0) -> Tensor:
    return spread * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


samplings = st.builds(
    Sampling,
    temperature=st.floats(0.05, 2.0),
    top_p=st.floats(0.01, 1.0),
    presence_penalty=st.floats(-2.0, 2.0),
    frequency_penalty=st.floats(-2.0, 2.0),
    logit_bias=st.lists(st.tuples(st.integers(0, 11), st.floats(-100, 100)), max_size=3).map(tuple),
)


@given(
    logits=st.lists(st.floats(-10.0, 10.0, width=32), min_size=12, max_size=12),
    sampling=samplings,
    answer=st.lists(st.integers(0, 11), max_size=8),
    seed=st.integers(0, 1000),
)
def test_a_token_is_drawn_as_a_slow_sampler_draws_it(
    logits: list[float], sampling: Sampling, answer: list[int], seed: int
) -> None:
    row = rows_of(sampling, vocabulary=12, seed=seed)[0]
    for token in answer:
        row.advance(token)
    chosen = sample(torch.tensor([logits]), [row])[0].token_id
    assert chosen in acceptable(shifted(logits, sampling, answer), sampling, random.Random(seed).random())


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("top_p", [0.3, 0.95, 0.9999, 1.0])
def test_a_large_vocabulary_is_no_different(spread: float, top_p: float) -> None:
    """From a nucleus of one token to one that is nearly everything."""
    logits = random_logits(6, 3000, spread=spread)
    sampling = Sampling(0.8, top_p)
    rows = [RowSampler(sampling, 3000, random.Random(seed)) for seed in range(6)]
    for number, chosen in enumerate(tokens_of(sample(logits, rows))):
        assert chosen in acceptable(logits[number].tolist(), sampling, random.Random(number).random())


@pytest.mark.parametrize(("vocabulary", "top_p", "limit"), [(8, 1.0, 24.3), (8, 0.8, 24.3), (300, 1.0, 381.0)])
def test_tokens_come_as_often_as_they_should(vocabulary: int, top_p: float, limit: float) -> None:
    """Chi-square; ``limit`` is passed by chance once in a thousand seeds, and the seed is fixed."""
    logits = random_logits(1, vocabulary, spread=1.0)
    source = random.Random(20)
    rows = [RowSampler(Sampling(0.9, top_p), vocabulary, source) for _ in range(1000)]
    counts = Counter(token for _ in range(20) for token in tokens_of(sample(logits.expand(1000, -1), rows)))
    chances = distribution(logits[0].tolist(), 0.9, top_p)
    assert {token for token in counts if chances[token] == 0.0} == set()
    expected = {token: 20_000 * chance for token, chance in enumerate(chances) if chance}
    assert sum((counts[token] - count) ** 2 / count for token, count in expected.items()) < limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(1e-5), Sampling(0.0, 0.5, 7), Sampling(1.0, 0.0)])
def test_without_temperature_it_is_the_argmax(dtype: torch.dtype, sampling: Sampling) -> None:
    logits = random_logits(5, 1000).to(dtype)
    assert tokens_of(sample(logits, rows_of(*[sampling] * 5, vocabulary=1000))) == logits.argmax(dim=-1).tolist()


def test_the_logits_stay_as_they_are() -> None:
    logits = random_logits(3, 200)
    before = logits.clone()
    samplings = Sampling(0.5, 0.9, presence_penalty=1.0), Sampling(0.0, logprobs=3), Sampling(logit_bias=((1, 5.0),))
    sample(logits, rows_of(*samplings, vocabulary=200))
    assert torch.equal(logits, before)


MIXED = (
    Sampling(0.0),
    Sampling(1.0, 1.0, 1),
    Sampling(0.7, 0.9, 2, logprobs=3),
    Sampling(0.0, logprobs=2),
    Sampling(1.3, 0.5, 3, presence_penalty=0.5, frequency_penalty=0.3),
    Sampling(0.0, frequency_penalty=1.0),
    Sampling(1.0, 1.0, 4, logit_bias=((5, 4.0), (6, -100.0))),
)


def answer_of(number: int, batch: Sequence[int]) -> list[int]:
    """Twenty tokens of the request ``number`` of ``MIXED``, decoded beside the others of ``batch``."""
    rows = {entry: RowSampler(MIXED[entry], 300, random.Random()) for entry in batch}
    found = []
    for step in range(20):
        logits = random_logits(len(MIXED), 300, spread=1.5, seed=step).bfloat16()
        sampled = sample(logits[list(batch)], list(rows.values()))
        found.append(sampled[list(batch).index(number)].token_id)
    return found


@pytest.mark.parametrize("number", range(len(MIXED)))
def test_an_answer_with_a_seed_does_not_depend_on_its_batch(number: int) -> None:
    alone = answer_of(number, [number])
    assert answer_of(number, range(len(MIXED))) == alone
    assert answer_of(number, [number, (number + 3) % len(MIXED)]) == alone


def test_each_seed_has_an_answer_of_its_own() -> None:
    def answer(seed: int) -> list[int]:
        rows = rows_of(Sampling(seed=seed), vocabulary=50)
        return [tokens_of(sample(torch.zeros(1, 50), rows))[0] for _ in range(12)]

    assert answer(1) == answer(1)
    assert len({tuple(answer(seed)) for seed in (-2, -1, 0, 1, 2, 2**63 - 1)}) == 6


def test_a_token_takes_one_random_number_and_an_argmax_none() -> None:
    source, twin = random.Random(5), random.Random(5)
    rows = [RowSampler(sampling, 50, source) for sampling in (Sampling(), Sampling(0.0), Sampling(0.7, 0.4))]
    for _ in range(3):
        sample(random_logits(3, 50), rows)
    assert source.random() == [twin.random() for _ in range(7)][-1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_bias_of_a_hundred_forces_or_bans(temperature: float) -> None:
    logits = random_logits(1, 40)
    best = int(logits.argmax())
    forced = rows_of(Sampling(temperature, logit_bias=((7, 100.0),)), vocabulary=40)
    banned = rows_of(Sampling(temperature, logit_bias=((best, -100.0),)), vocabulary=40)
    assert {tokens_of(sample(logits, forced))[0] for _ in range(40)} == {7}
    assert best not in {tokens_of(sample(logits, banned))[0] for _ in range(40)}


@pytest.mark.parametrize("token", [-1, 40])
def test_a_bias_on_a_token_that_does_not_exist_is_refused(token: int) -> None:
    with pytest.raises(BadRequest, match="0 to 39") as refused:
        rows_of(Sampling(logit_bias=((token, 1.0),)), vocabulary=40)
    assert refused.value.param == "logit_bias"


def test_penalties_grow_with_the_answer() -> None:
    """Presence counts once, frequency every time."""
    logits = torch.tensor([[3.0, 2.0, 0.0]])
    presence = rows_of(Sampling(0.0, presence_penalty=1.5), vocabulary=3)
    frequency = rows_of(Sampling(0.0, frequency_penalty=0.7), vocabulary=3)
    assert [tokens_of(sample(logits, presence))[0] for _ in range(5)] == [0, 1, 0, 0, 0]
    assert [tokens_of(sample(logits, frequency))[0] for _ in range(6)] == [0, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logprobs_are_those_of_the_model(dtype: torch.dtype) -> None:
    """Neither temperature nor penalties nor bias are in them."""
    logits = random_logits(3, 500).to(dtype)
    samplings = (
        Sampling(0.5, 0.9, presence_penalty=1.0, logit_bias=((3, 5.0),), logprobs=5),
        Sampling(0.0, logprobs=0),
        Sampling(0.0, logprobs=20),
    )
    expected = torch.log_softmax(logits.float(), dim=-1)
    for number, chosen in enumerate(sample(logits, rows_of(*samplings, vocabulary=500))):
        found, count = chosen.logprobs, samplings[number].logprobs or 0
        assert found is not None
        assert found.token_id == chosen.token_id
        assert found.logprob == pytest.approx(float(expected[number, chosen.token_id]), abs=1e-5)
        assert len(found.top) == count
        for (token, logprob), best in zip(found.top, expected[number].topk(count).values.tolist(), strict=True):
            assert logprob == pytest.approx(best, abs=1e-5)
            assert logprob == pytest.approx(float(expected[number, token]), abs=1e-5)


def test_there_are_no_more_alternatives_than_tokens() -> None:
    found = sample(random_logits(1, 6), rows_of(Sampling(0.0, logprobs=20), vocabulary=6))[0].logprobs
    assert found is not None
    assert len(found.top) == 6


def test_an_impossible_token_has_a_logprob_that_json_can_say() -> None:
    logits = torch.tensor([[0.0, -torch.inf, torch.nan]])
    found = sample(logits, rows_of(Sampling(0.0, logprobs=3), vocabulary=3))[0].logprobs
    assert found is not None
    assert [logprob for _, logprob in found.top] == [0.0, LEAST_LOGPROB, LEAST_LOGPROB]


BROKEN = (
    ([math.nan, 1.0, math.nan, 0.5], {1, 3}),
    ([math.nan] * 4, {0, 1, 2, 3}),
    ([-math.inf] * 4, {0, 1, 2, 3}),
    ([math.nan, -math.inf, -5.0, math.nan], {2}),
    ([math.nan, 1.0, math.inf, 2.0], {2}),
    ([3e38, -3e38, 0.0, math.nan], {0}),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("logits", "possible"), BROKEN)
def test_what_is_not_a_number_is_never_chosen(dtype: torch.dtype, logits: list[float], possible: set[int]) -> None:
    samplings = (
        Sampling(0.0),
        Sampling(),
        Sampling(0.001, 0.9),
        Sampling(0.0, logprobs=2),
        Sampling(1.0, 0.5, presence_penalty=1.0),
    )
    sampled = sample(torch.tensor([logits] * 5, dtype=dtype), rows_of(*samplings, vocabulary=4))
    assert set(tokens_of(sampled)) <= possible
    assert all(math.isfinite(entry.logprobs.logprob) for entry in sampled if entry.logprobs)


def test_a_broken_row_leaves_the_others_alone() -> None:
    logits = random_logits(3, 100)
    logits[1] = torch.nan
    chosen = tokens_of(sample(logits, rows_of(*[Sampling(0.0)] * 3, vocabulary=100)))
    assert [chosen[0], chosen[2]] == logits[[0, 2]].argmax(dim=-1).tolist()


def test_nothing_to_choose_is_nothing_chosen() -> None:
    assert sample(torch.zeros(0, 10), []) == []
