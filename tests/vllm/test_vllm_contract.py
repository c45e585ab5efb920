from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from selflearn.errors import ProofFailed
from selflearn.models.base import LoadedBase
from selflearn.serving.vllm_engine import VLLMEngine
from selflearn.serving.vllm_launch import RESIDENT_ADAPTERS
from tests.serving.contract import CONTRACT, Subject, answer, until


@pytest.fixture
def subject(engine: VLLMEngine, base: LoadedBase, adapters: tuple[Path, Path], tmp_path: Path) -> Subject:
    return Subject(engine, adapters, base.tokenizer, tmp_path)


@pytest.mark.parametrize("holds", CONTRACT, ids=lambda check: check.__name__)
async def test_vllm(holds: Callable[[Subject], Awaitable[None]], subject: Subject) -> None:
    await holds(subject)


async def test_an_answer_that_is_left_is_not_made(subject: Subject, engine: VLLMEngine) -> None:
    async with subject.serving(1) as generation:
        before = _metric(engine, "generation_tokens_total")
        for _ in range(3):
            stream = generation.stream(subject.request(length=480))
            await anext(stream)
            await stream.aclose()
        assert len((await answer(generation, subject.request())).tokens) == 12
        await until(lambda: _metric(engine, "num_requests_running") == 0)
        assert _metric(engine, "generation_tokens_total") - before < 480


async def test_the_base_stays_itself_when_every_slot_is_taken(subject: Subject) -> None:
    async with contextlib.AsyncExitStack() as opened:
        for number in range(RESIDENT_ADAPTERS):
            await opened.enter_async_context(subject.serving(1 + number % 2))
        base, first, second = [await opened.enter_async_context(subject.serving(version)) for version in (0, 1, 2)]
        request = subject.request(length=30)
        alone = [(await answer(one, request)).tokens for one in (base, first, second)]
        for _ in range(5):
            together = await asyncio.gather(*(answer(one, request) for one in (base, first, second)))
            assert [told.tokens for told in together] == alone


async def test_a_name_is_never_used_again_and_nothing_stays_loaded(subject: Subject, engine: VLLMEngine) -> None:
    names = set()
    for _ in range(3):
        async with subject.serving(1):
            (name,) = set(engine.server.client.models()) - {"selflearn-base"}
            assert name.startswith("selflearn-v000001-")
            names.add(name)
    assert len(names) == 3
    assert set(engine.server.client.models()) == {"selflearn-base"}


async def test_a_refused_version_is_not_left_loaded(subject: Subject, engine: VLLMEngine) -> None:
    directory = subject.damaged()
    (directory / "probe.safetensors").write_bytes((subject.adapters[1] / "probe.safetensors").read_bytes())
    with pytest.raises(ProofFailed):
        engine.open_generation(1, directory)
    assert set(engine.server.client.models()) == {"selflearn-base"}


def _metric(engine: VLLMEngine, name: str) -> float:
    text = engine.server.client._http.get("/metrics").text
    (line,) = [line for line in text.splitlines() if line.startswith(f"vllm:{name}{{")]
    return float(line.split()[-1])
