"""What every engine must do, as checks that run on any of them: the embedded one, and a real vLLM."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from selflearn.errors import BadRequest, EngineError, ProofFailed, VersionDamaged
from selflearn.models.adapter import WEIGHTS_FILE
from selflearn.serving import Constraint, Engine, Generation, Sampling, TokenChunk, TokenLogprobs, TokenRequest

PROBE_FILE = "probe.safetensors"
PROMPTS = ("what is the port?", "how do i roll back", "water boils at", "the quick brown fox")
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"sure": {"type": "boolean"}, "digit": {"enum": [1, 2, 3]}},
        "required": ["sure", "digit"],
        "additionalProperties": False,
    }
)


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine and what its checks need: two versions that answer differently, and the base's tokenizer.

    Its generations take 512 tokens in a request. ``scratch`` is an empty directory for damaged copies.
    """

    engine: Engine
    adapters: tuple[Path, Path]
    tokenizer: Any
    scratch: Path

    @contextlib.asynccontextmanager
    async def serving(self, version: int = 0) -> AsyncIterator[Generation]:
        """Version 0 is the base; 1 and 2 are the adapters."""
        directory = self.adapters[version - 1] if version else None
        generation = await asyncio.to_thread(self.engine.open_generation, version, directory)
        try:
            yield generation
        finally:
            await generation.close(0.0)

    def request(
        self,
        text: str = PROMPTS[0],
        length: int = 12,
        *,
        stop_ids: tuple[int, ...] = (),
        temperature: float = 0.0,
        **sampling: Any,
    ) -> TokenRequest:
        ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return TokenRequest("request", ids, length, Sampling(temperature, **sampling), stop_ids)

    def constrained(self, kind: Any, value: str) -> TokenRequest:
        end = int(self.tokenizer.eos_token_id)
        return self.request(length=200, stop_ids=(end,), temperature=1.0, seed=1, constraint=Constraint(kind, value))

    def damaged(self) -> Path:
        """A copy of version 1 that may be spoilt."""
        return Path(shutil.copytree(self.adapters[0], self.scratch / "damaged"))


@dataclass(frozen=True, slots=True)
class Told:
    """A whole answer."""

    tokens: list[int]
    reason: str | None
    chunks: list[TokenChunk]

    @property
    def logprobs(self) -> list[TokenLogprobs]:
        return [entry for chunk in self.chunks for entry in chunk.logprobs]


async def answer(generation: Generation, request: TokenRequest) -> Told:
    chunks = [chunk async for chunk in generation.stream(request)]
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    return Told([token for chunk in chunks for token in chunk.token_ids], chunks[-1].finish_reason, chunks)


async def a_greedy_answer_alone_is_always_the_same(subject: Subject) -> None:
    async with subject.serving() as generation:
        for prompt in PROMPTS[:2]:
            request = subject.request(prompt, 20)
            first = await answer(generation, request)
            assert len(first.tokens) == 20
            assert first.reason == "length"
            assert (await answer(generation, request)).tokens == first.tokens


async def tokens_come_as_they_are_made(subject: Subject) -> None:
    async with subject.serving() as generation:
        told = await answer(generation, subject.request(length=16))
    assert len(told.chunks) > 8
    assert all(chunk.token_ids for chunk in told.chunks)


async def a_stop_token_ends_the_answer_and_belongs_to_it(subject: Subject) -> None:
    async with subject.serving(1) as generation:
        tokens = (await answer(generation, subject.request(length=10))).tokens
        stop = tokens[4]
        told = await answer(generation, subject.request(length=10, stop_ids=(stop, 0)))
    assert told.tokens == tokens[: tokens.index(stop) + 1]
    assert told.reason == "stop"


async def no_other_token_ends_it(subject: Subject) -> None:
    end = int(subject.tokenizer.eos_token_id)
    async with subject.serving() as generation:
        told = await answer(generation, subject.request(length=5, logit_bias=((end, 100.0),)))
    assert told.tokens == [end] * 5
    assert told.reason == "length"


async def leaving_frees_the_place(subject: Subject) -> None:
    async with subject.serving() as generation:
        for _ in range(3):
            streams = [generation.stream(subject.request(length=480)) for _ in range(generation.places)]
            await asyncio.gather(*(anext(stream) for stream in streams))
            assert generation.running == generation.places
            await asyncio.gather(*(stream.aclose() for stream in streams))
            assert generation.running == 0
        task = asyncio.create_task(answer(generation, subject.request(length=480)))
        await until(lambda: generation.running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert generation.running == 0
        assert len((await answer(generation, subject.request())).tokens) == 12


async def more_requests_than_places_all_finish(subject: Subject) -> None:
    async with subject.serving() as generation:
        requests = [subject.request(prompt, 30 + index) for index, prompt in enumerate(3 * PROMPTS)]
        assert len(requests) > 2 * generation.places
        tasks = [asyncio.create_task(answer(generation, request)) for request in requests]
        await until(lambda: generation.waiting > 0)
        told = await asyncio.gather(*tasks)
        assert [len(one.tokens) for one in told] == [request.max_new_tokens for request in requests]
        assert generation.running == generation.waiting == 0


async def a_seed_repeats_an_answer_in_any_company(subject: Subject) -> None:
    async with subject.serving() as generation:
        seeded = [subject.request(length=16, temperature=1.5, seed=seed) for seed in (7, 8)]
        alone = [(await answer(generation, request)).tokens for request in seeded]
        others = [subject.request(prompt, 20, temperature=1.0) for prompt in PROMPTS[1:3]]
        together = await asyncio.gather(*(answer(generation, request) for request in [*others, *seeded]))
    assert [told.tokens for told in together[2:]] == alone
    assert alone[0] != alone[1]


async def without_a_seed_answers_differ(subject: Subject) -> None:
    async with subject.serving() as generation:
        request = subject.request(length=16, temperature=1.5)
        assert (await answer(generation, request)).tokens != (await answer(generation, request)).tokens


async def a_small_top_p_leaves_the_best_token_alone(subject: Subject) -> None:
    async with subject.serving() as generation:
        greedy = (await answer(generation, subject.request())).tokens
        assert (await answer(generation, subject.request(temperature=1.0, top_p=1e-4))).tokens == greedy


async def penalties_keep_it_from_repeating_itself(subject: Subject) -> None:
    async with subject.serving() as generation:
        plain = (await answer(generation, subject.request(length=40))).tokens
        assert len(set(plain)) < 20  # a random model repeats itself
        for request in (
            subject.request(length=40, presence_penalty=2.0),
            subject.request(length=40, frequency_penalty=2.0),
        ):
            assert len(set((await answer(generation, request)).tokens)) > len(set(plain))
        encouraged = (await answer(generation, subject.request(length=40, frequency_penalty=-2.0))).tokens
        assert len(set(encouraged)) <= len(set(plain))


async def a_bias_forces_and_forbids(subject: Subject) -> None:
    async with subject.serving() as generation:
        plain = (await answer(generation, subject.request())).tokens
        forced = await answer(generation, subject.request(logit_bias=((77, 100.0),)))
        assert set(forced.tokens) == {77}
        forbidden = await answer(generation, subject.request(logit_bias=((plain[0], -100.0),)))
        assert plain[0] not in forbidden.tokens


async def logprobs_are_those_of_the_model(subject: Subject) -> None:
    async with subject.serving(1) as generation:
        told = await answer(generation, subject.request(length=6, logprobs=5))
        assert [entry.token_id for entry in told.logprobs] == told.tokens
        for entry in told.logprobs:
            values = [logprob for _, logprob in entry.top]
            assert len(values) == 5
            assert values == sorted(values, reverse=True)
            assert entry.top[0] == (entry.token_id, entry.logprob)
            assert entry.logprob < 0
        hot = await answer(
            generation, subject.request(length=1, temperature=2.0, seed=3, logprobs=5, logit_bias=((77, 100.0),))
        )
        assert hot.tokens == [77]
        assert [token for token, _ in hot.logprobs[0].top] == [token for token, _ in told.logprobs[0].top]
        assert hot.logprobs[0].logprob < told.logprobs[0].logprob
        alone = await answer(generation, subject.request(length=2, logprobs=0))
        assert [entry.top for entry in alone.logprobs] == [(), ()]
        assert not (await answer(generation, subject.request(length=2))).logprobs


async def a_constraint_shapes_the_answer(subject: Subject) -> None:
    async with subject.serving(1) as generation:
        text = await _text(subject, generation, subject.constrained("json_schema", SCHEMA))
        found = json.loads(text)
        assert set(found) == {"sure", "digit"}
        assert found["digit"] in (1, 2, 3)
        text = await _text(subject, generation, subject.constrained("regex", "v[0-9]{3}-(yes|no)"))
        assert re.fullmatch("v[0-9]{3}-(yes|no)", text)
        lark = 'start: "call " arguments\narguments: %json {"type": "array", "items": {"enum": [7]}, "minItems": 1}'
        text = await _text(subject, generation, subject.constrained("lark", lark))
        assert set(json.loads(text.removeprefix("call "))) == {7}


async def a_constraint_that_means_nothing_is_the_clients_mistake(subject: Subject) -> None:
    async with subject.serving() as generation:
        for kind, value in (("regex", "("), ("json_schema", '{"type": "nothing"}'), ("lark", "start: (")):
            with pytest.raises(BadRequest):
                await answer(generation, subject.constrained(kind, value))
        assert len((await answer(generation, subject.request())).tokens) == 12


async def versions_answer_at_once_and_never_mix(subject: Subject) -> None:
    async with subject.serving(0) as base, subject.serving(1) as first, subject.serving(2) as second:
        generations = (base, first, second)
        assert [generation.version for generation in generations] == [0, 1, 2]
        requests = [subject.request(prompt, 16) for prompt in PROMPTS]
        alone = [[(await answer(one, request)).tokens for request in requests] for one in generations]
        for index in range(len(requests)):
            assert len({tuple(answers[index]) for answers in alone}) == 3
        together = await asyncio.gather(*(answer(one, request) for one in generations for request in requests))
        assert [told.tokens for told in together] == [tokens for answers in alone for tokens in answers]


async def a_version_opened_again_is_the_same(subject: Subject) -> None:
    async with subject.serving(1) as generation:
        before = (await answer(generation, subject.request())).tokens
    async with subject.serving(2) as generation:
        assert (await answer(generation, subject.request())).tokens != before
    async with subject.serving(1) as generation:
        assert (await answer(generation, subject.request())).tokens == before


async def closing_lets_answers_finish(subject: Subject) -> None:
    async with subject.serving(1) as generation:
        task = asyncio.create_task(answer(generation, subject.request(length=60)))
        await until(lambda: generation.running == 1)
        await generation.close(30.0)
        assert len((await task).tokens) == 60
        assert not generation.alive
        with pytest.raises(EngineError):
            generation.check(subject.request())


async def closing_at_once_fails_what_is_left(subject: Subject) -> None:
    async with subject.serving() as other, subject.serving(1) as generation:
        tasks = [asyncio.create_task(answer(generation, subject.request(length=480))) for _ in range(3)]
        await until(lambda: generation.running == 3)
        beside = asyncio.create_task(answer(other, subject.request(length=40)))
        await generation.close(0.0)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [EngineError] * 3
        assert generation.running == 0
        assert len((await beside).tokens) == 40


async def what_can_never_fit_is_refused(subject: Subject) -> None:
    async with subject.serving() as generation:
        prompt = len(subject.request().prompt_ids)
        generation.check(subject.request(length=512 - prompt))
        with pytest.raises(BadRequest, match="at most 512 fit") as caught:
            generation.check(subject.request(length=513 - prompt))
        assert caught.value.code == "context_length_exceeded"
        for request in (TokenRequest("r", (), 5), TokenRequest("r", (10**9,), 5), subject.request(length=0)):
            with pytest.raises(BadRequest):
                await answer(generation, request)
        assert len((await answer(generation, subject.request(length=512 - prompt))).tokens) == 512 - prompt


async def a_damaged_adapter_is_not_served(subject: Subject) -> None:
    directory = subject.damaged()
    (directory / WEIGHTS_FILE).write_bytes(b"not an adapter")
    with pytest.raises(VersionDamaged):
        await asyncio.to_thread(subject.engine.open_generation, 1, directory)
    with pytest.raises(VersionDamaged, match="no adapter directory"):
        await asyncio.to_thread(subject.engine.open_generation, 3, None)
    async with subject.serving(1) as generation:
        assert len((await answer(generation, subject.request())).tokens) == 12


async def what_does_not_answer_as_recorded_is_not_served(subject: Subject) -> None:
    directory = subject.damaged()
    tensors, recorded = load_file(directory / WEIGHTS_FILE), load_file(directory / PROBE_FILE)["logits"]

    async def refused(match: str) -> None:
        with pytest.raises(ProofFailed, match=match):
            await asyncio.to_thread(subject.engine.open_generation, 1, directory)

    save_file({name: tensor * 1.5 for name, tensor in tensors.items()}, directory / WEIGHTS_FILE)
    await refused("does not answer as recorded")
    save_file(tensors, directory / WEIGHTS_FILE)
    save_file({"logits": torch.full_like(recorded, float("nan"))}, directory / PROBE_FILE)
    await refused("does not answer as recorded")
    save_file({"logits": recorded.flip(0)}, directory / PROBE_FILE)
    await refused("does not answer as recorded")
    (directory / PROBE_FILE).unlink()
    await refused("proves nothing")


CONTRACT: tuple[Callable[[Subject], Awaitable[None]], ...] = (
    a_greedy_answer_alone_is_always_the_same,
    tokens_come_as_they_are_made,
    a_stop_token_ends_the_answer_and_belongs_to_it,
    no_other_token_ends_it,
    leaving_frees_the_place,
    more_requests_than_places_all_finish,
    a_seed_repeats_an_answer_in_any_company,
    without_a_seed_answers_differ,
    a_small_top_p_leaves_the_best_token_alone,
    penalties_keep_it_from_repeating_itself,
    a_bias_forces_and_forbids,
    logprobs_are_those_of_the_model,
    a_constraint_shapes_the_answer,
    a_constraint_that_means_nothing_is_the_clients_mistake,
    versions_answer_at_once_and_never_mix,
    a_version_opened_again_is_the_same,
    closing_lets_answers_finish,
    closing_at_once_fails_what_is_left,
    what_can_never_fit_is_refused,
    a_damaged_adapter_is_not_served,
    what_does_not_answer_as_recorded_is_not_served,
)


async def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.005)


async def _text(subject: Subject, generation: Generation, request: TokenRequest) -> str:
    told = await answer(generation, request)
    assert told.reason == "stop"
    return str(subject.tokenizer.decode([token for token in told.tokens if token not in request.stop_ids]))
