from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selflearn.errors import BadRequest, EngineError, NotFound, Overloaded, QueueFull
from selflearn.models.base import LoadedBase
from selflearn.serving import Generation, TextChunk, TokenRequest, Traffic
from selflearn.serving.traffic import takes_part

Opener = Callable[[int, Path | None], Generation]
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


async def test_too_many_are_told_so(
    traffic: Traffic, open_generation: Opener, adapter_directory: Path, make_request: MakeRequest
) -> None:
    generation = open_generation(0, None)
    with pytest.raises(Overloaded, match="still being loaded"):
        await traffic.chat(make_request())
    await traffic.swap(generation)
    answers = [await traffic.chat(make_request()) for _ in range(generation.places + 2)]
    with pytest.raises(QueueFull, match="max_waiting_requests"):
        await traffic.chat(make_request())
    await answers[0].aclose()
    await answers[0].aclose()
    answers[0] = await traffic.chat(make_request())
    await traffic.swap(open_generation(1, adapter_directory))  # those before it still have their places
    with pytest.raises(QueueFull):
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


# The canary


def names(version: int, share: float, count: int, *, inside: bool) -> list[str]:
    """So many conversations that a canary with this share answers, or that it doesn't."""
    found = (name for name in map(str, range(10_000)) if takes_part(name, version, share) is inside)
    return [next(found) for _ in range(count)]


@given(st.text(min_size=1), st.integers(1, 2**53), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_conversation_keeps_its_side_when_the_share_grows(name: str, version: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert takes_part(name, version, low) <= takes_part(name, version, high)
    assert not takes_part(name, version, 0.0)
    assert takes_part(name, version, 1.0)
    assert not takes_part("", version, 1.0)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_the_share_is_met_and_another_version_has_other_conversations(share: float) -> None:
    count = 20_000
    sides = [[takes_part(f"conversation {number}", version, share) for number in range(count)] for version in (7, 8)]
    spread = 5 * (share * (1 - share) / count) ** 0.5
    for side in sides:
        assert abs(sum(side) / count - share) < spread
    both = sum(map(all, zip(*sides, strict=True))) / count
    assert abs(both - share**2) < spread


async def test_a_canary_answers_its_conversations_alone(
    traffic: Traffic, open_generation: Opener, adapter_directory: Path, make_request: MakeRequest
) -> None:
    await traffic.swap(open_generation(0, None))
    await traffic.set_canary(open_generation(5, adapter_directory), 0.3)
    assert (traffic.canary_share, traffic.residents) == (0.3, (0, 5))

    async def ask(conversation: str, version: int | None = None) -> tuple[int, str]:
        async with await traffic.chat(make_request(), version=version, conversation=conversation) as answer:
            assert [chunk async for chunk in answer]
            return answer.version, answer.track

    for name in names(5, 0.3, 2, inside=True):
        assert [await ask(name) for _ in range(3)] == [(5, "canary")] * 3
        assert await ask(name, version=0) == (0, "pinned")
    for name in [*names(5, 0.3, 2, inside=False), ""]:
        assert [await ask(name) for _ in range(3)] == [(0, "stable")] * 3
    assert await ask("", version=5) == (5, "pinned")
    (grown,) = (name for name in names(5, 0.9, 1, inside=True))
    canary = traffic.canary
    assert canary is not None
    await traffic.set_canary(canary, 0.9)
    assert await ask(grown) == (5, "canary")


async def test_the_end_of_a_canary_lets_its_answers_finish(
    traffic: Traffic, open_generation: Opener, adapter_directory: Path, make_request: MakeRequest
) -> None:
    canary = open_generation(5, adapter_directory)
    await traffic.swap(open_generation(0, None))
    await traffic.set_canary(canary, 0.5)
    (name,) = names(5, 0.5, 1, inside=True)
    answer = await traffic.chat(make_request(length=40), conversation=name)
    await traffic.end_canary()
    await traffic.end_canary()
    assert (traffic.canary, traffic.canary_share, traffic.residents) == (None, 0.0, (0,))
    async with await traffic.chat(make_request(), conversation=name) as other:
        assert (other.version, other.track) == (0, "stable")
    async with answer:
        assert [chunk async for chunk in answer][-1].completion_tokens == 40
    assert answer.version == 5
    await _retired(traffic)
    assert not canary.alive


async def test_a_promoted_canary_goes_on_and_the_version_before_stays(
    traffic: Traffic, open_generation: Opener, adapter_directory: Path, make_request: MakeRequest
) -> None:
    canary = open_generation(5, adapter_directory)
    await traffic.swap(open_generation(0, None))
    await traffic.set_canary(canary, 0.5)
    with pytest.raises(ValueError, match="version 0 answers everyone"):
        await traffic.set_canary(traffic.resident(0), 0.5)  # type: ignore[arg-type]
    await traffic.swap(canary)
    assert (traffic.current, traffic.canary, traffic.canary_share) == (canary, None, 0.0)
    assert traffic.residents == (0, 5)
    assert (await _text(traffic, make_request()))[1] == 5


async def test_a_dead_canary_leaves_its_conversations_to_what_is_served(
    traffic: Traffic, open_generation: Opener, adapter_directory: Path, make_request: MakeRequest
) -> None:
    canary = open_generation(5, adapter_directory)
    await traffic.swap(open_generation(0, None))
    await traffic.set_canary(canary, 0.5)
    await canary.close(0.0)
    async with await traffic.chat(make_request(), conversation=names(5, 0.5, 1, inside=True)[0]) as answer:
        assert (answer.version, answer.track) == (0, "stable")
        assert [chunk async for chunk in answer]
    replacement = open_generation(5, adapter_directory)
    await traffic.swap(replacement)
    assert (traffic.current, traffic.canary, traffic.residents) == (replacement, None, (0, 5))


async def test_one_canary_takes_the_place_of_another(
    traffic: Traffic, open_generation: Opener, adapter_directory: Path
) -> None:
    first, second = open_generation(5, adapter_directory), open_generation(6, adapter_directory)
    await traffic.swap(open_generation(0, None))
    await traffic.set_canary(first, 0.5)
    await traffic.set_canary(second, 0.2)
    await _retired(traffic)
    assert (first.alive, traffic.canary, traffic.canary_share) == (False, second, 0.2)
    await traffic.close()
    assert not second.alive
    with pytest.raises(Overloaded, match="shutting down"):
        await traffic.set_canary(second, 0.2)


async def test_one_version_at_a_time_visits(
    traffic: Traffic, open_generation: Opener, adapter_directory: Path, make_request: MakeRequest
) -> None:
    one, two, three = (open_generation(number, adapter_directory) for number in (1, 2, 3))
    await traffic.swap(open_generation(0, None))
    await traffic.visit(one)
    await traffic.visit(one)
    assert (await _text(traffic, make_request(), version=1))[1] == 1
    assert (await _text(traffic, make_request()))[1] == 0
    await traffic.visit(two)
    await _retired(traffic)
    assert (traffic.residents, one.alive) == ((0, 2), False)
    await traffic.swap(three)
    assert list(traffic.residents) == [0, 2, 3]  # what was served before stays beside it
    await traffic.swap(two)
    assert list(traffic.residents) == [2, 3]  # served now; the place of a visitor is free
    await traffic.visit(open_generation(1, adapter_directory))
    assert list(traffic.residents) == [1, 2, 3]
