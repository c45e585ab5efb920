from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from selflearn.errors import BadRequest, EngineError, NotFound, Overloaded
from selflearn.models.base import LoadedBase
from selflearn.serving import TextChunk, TokenRequest, Traffic
from selflearn.serving.transformers_engine import TransformersGeneration

Opener = Callable[[int, Path | None], TransformersGeneration]
MakeRequest = Callable[..., TokenRequest]


@pytest.fixture
async def traffic(base: LoadedBase) -> AsyncIterator[Traffic]:
    made = Traffic(base.tokenizer, max_waiting=2, drain_seconds=30.0)
    yield made
    await made.close()


async def _text(traffic: Traffic, request: TokenRequest, version: int | None = None) -> tuple[str, int, TextChunk]:
    text = ""
    async with await traffic.chat(request, version=version) as answer:
        async for chunk in answer:
            text += chunk.text
    return text, answer.version, chunk


async def _retired(traffic: Traffic) -> None:
    await asyncio.wait_for(asyncio.gather(*traffic._retiring), 30)


async def _begun(traffic: Traffic) -> None:
    for _ in range(1000):
        if traffic.running:
            return
        await asyncio.sleep(0.01)
    pytest.fail("no request began")


async def test_text_of_the_tokens(
    base: LoadedBase, traffic: Traffic, open_generation: Opener, make_request: MakeRequest
) -> None:
    generation = open_generation(0, None)
    await traffic.swap(generation)
    request = make_request(length=15)
    tokens = [token async for chunk in generation.stream(request) for token in chunk.token_ids]
    text, version, last = await _text(traffic, request)
    assert text == base.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert (version, last.completion_tokens, last.finish_reason) == (0, 15, "length")
    assert traffic.answers == traffic.running == traffic.waiting == 0


async def test_a_stop_string_ends_answer_and_request(
    traffic: Traffic, open_generation: Opener, make_request: MakeRequest
) -> None:
    await traffic.swap(open_generation(0, None))
    text, _, _ = await _text(traffic, make_request(length=60))
    stop = text[20:23]
    async with await traffic.chat(make_request(length=400), stop=[stop]) as answer:
        chunks = [chunk async for chunk in answer]
    assert "".join(chunk.text for chunk in chunks) == text.partition(stop)[0]
    assert chunks[-1].finish_reason == "stop"
    assert traffic.running == 0


async def test_a_swap_leaves_requests_where_they_began(
    traffic: Traffic, open_generation: Opener, adapter_directory: Path, make_request: MakeRequest
) -> None:
    old, new = open_generation(0, None), open_generation(1, adapter_directory)
    await traffic.swap(old)
    expected, _, _ = await _text(traffic, make_request(length=200))
    begun = await traffic.chat(make_request(length=200))
    text = (await anext(begun)).text
    not_begun = await traffic.chat(make_request(length=200))
    await traffic.swap(new)
    other, version, _ = await _text(traffic, make_request(length=200))
    assert version == 1
    assert other != expected
    for answer, before in ((begun, text), (not_begun, "")):
        async with answer:
            assert answer.version == 0
            assert before + "".join([chunk.text async for chunk in answer]) == expected
    assert (await _text(traffic, make_request(length=200), version=0))[:2] == (expected, 0)


async def test_old_versions_leave_when_nobody_is_in_them(
    traffic: Traffic, open_generation: Opener, adapter_directory: Path, make_request: MakeRequest
) -> None:
    generations = [open_generation(0, None), *(open_generation(number, adapter_directory) for number in (1, 2))]
    await traffic.swap(generations[0])
    answer = await traffic.chat(make_request(length=100))
    await traffic.swap(generations[1])
    assert traffic.residents == (0, 1)
    await traffic.swap(generations[2])
    assert traffic.residents == (1, 2)
    assert traffic.resident(0) is None
    await asyncio.sleep(0.1)
    assert generations[0].alive
    async with answer:
        assert sum([len(chunk.text) async for chunk in answer]) > 0
    await _retired(traffic)
    assert not generations[0].alive
    with pytest.raises(NotFound, match="Version 0 is not loaded; loaded are 1, 2"):
        await traffic.chat(make_request(), version=0)
    await traffic.swap(generations[1])  # a rollback to what is still there
    assert traffic.current is generations[1]
    assert traffic.residents == (1, 2)
    assert (await _text(traffic, make_request()))[1] == 1


async def test_a_pinned_version_stays(
    traffic: Traffic, open_generation: Opener, adapter_directory: Path, make_request: MakeRequest
) -> None:
    await traffic.swap(open_generation(1, adapter_directory))
    await traffic.add(open_generation(0, None))
    await traffic.swap(open_generation(2, adapter_directory))
    await traffic.swap(open_generation(3, adapter_directory))
    assert traffic.residents == (0, 2, 3)
    assert (await _text(traffic, make_request(), version=0))[1] == 0


async def test_too_many_are_told_so(traffic: Traffic, open_generation: Opener, make_request: MakeRequest) -> None:
    generation = open_generation(0, None)
    with pytest.raises(Overloaded, match="still being loaded"):
        await traffic.chat(make_request())
    await traffic.swap(generation)
    answers = [await traffic.chat(make_request()) for _ in range(generation.places + 2)]
    with pytest.raises(Overloaded, match="max_waiting_requests"):
        await traffic.chat(make_request())
    await answers[0].aclose()
    await answers[0].aclose()
    answers[0] = await traffic.chat(make_request())
    with pytest.raises(Overloaded):
        await traffic.chat(make_request())
    for answer in answers:
        await answer.aclose()
    assert traffic.answers == 0


async def test_a_request_that_never_fits_takes_no_place(
    traffic: Traffic, open_generation: Opener, make_request: MakeRequest
) -> None:
    await traffic.swap(open_generation(0, None))
    with pytest.raises(BadRequest):
        await traffic.chat(make_request(length=10_000))
    assert traffic.answers == 0


async def test_a_client_that_goes_away_frees_its_place(
    traffic: Traffic, open_generation: Opener, make_request: MakeRequest
) -> None:
    await traffic.swap(open_generation(0, None))
    task = asyncio.create_task(_text(traffic, make_request(length=400)))
    await _begun(traffic)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert traffic.answers == traffic.running == 0


async def test_closing_finishes_what_runs_and_takes_no_more(
    base: LoadedBase, open_generation: Opener, make_request: MakeRequest
) -> None:
    traffic = Traffic(base.tokenizer, drain_seconds=30.0)
    generation = open_generation(0, None)
    await traffic.swap(generation)
    running = asyncio.create_task(_text(traffic, make_request(length=60)))
    await _begun(traffic)
    closing = asyncio.create_task(traffic.close())
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="shutting down"):
        await traffic.chat(make_request())
    assert (await running)[2].completion_tokens == 60
    await closing
    assert not generation.alive
    assert not [thread for thread in threading.enumerate() if "_run_generation_loop" in thread.name]
    with pytest.raises(Overloaded, match="shutting down"):
        await traffic.swap(generation)


async def test_the_drain_time_is_a_bound(base: LoadedBase, open_generation: Opener, make_request: MakeRequest) -> None:
    traffic = Traffic(base.tokenizer, drain_seconds=0.05)
    await traffic.swap(open_generation(0, None))
    running = asyncio.create_task(_text(traffic, make_request(length=480)))
    await _begun(traffic)
    await traffic.close()
    with pytest.raises(EngineError):
        await running
