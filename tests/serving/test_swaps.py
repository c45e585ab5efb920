"""Version after version under load: nothing fails, nothing is mixed, and what has gone leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from selflearn.errors import SelflearnError
from selflearn.models.base import LoadedBase
from selflearn.serving import Engine, Generation, TokenRequest, Traffic

SWAPS = 50
CLIENTS = 8
MakeRequest = Callable[..., TokenRequest]


async def answer_of(traffic: Traffic, request: TokenRequest) -> tuple[int, str]:
    async with await traffic.chat(request) as answer:
        return answer.version, "".join([chunk.text async for chunk in answer])


@dataclass
class Storm:
    """Clients that stream without a pause, and what they got: answers by version, and what was wrong with them."""

    traffic: Traffic
    make_request: MakeRequest
    expected: dict[int, str]  # by the version's remainder
    answers: Counter[int] = field(default_factory=Counter)
    mixed: int = 0
    failures: list[SelflearnError] = field(default_factory=list)
    over: bool = False

    async def client(self) -> None:
        while not self.over:
            try:
                version, text = await answer_of(self.traffic, self.make_request(length=16))
            except SelflearnError as error:
                self.failures.append(error)
                continue
            self.answers[version] += 1
            self.mixed += text != self.expected[version % 2]


async def test_fifty_swaps_under_load_fail_and_mix_nothing(
    base: LoadedBase,
    engine: Engine,
    adapter_directory: Path,
    other_adapter_directory: Path,
    make_request: MakeRequest,
) -> None:
    traffic = Traffic(base.tokenizer, drain_seconds=30.0)
    directories = (other_adapter_directory, adapter_directory)
    expected = {}
    for version in (2, 1):
        await traffic.swap(engine.open_generation(version, directories[version % 2]))
        expected[version % 2] = (await answer_of(traffic, make_request(length=16)))[1]
    assert expected[0] != expected[1]
    storm = Storm(traffic, make_request, expected)
    clients = [asyncio.create_task(storm.client()) for _ in range(CLIENTS)]
    first_answers = []
    for version in range(3, 3 + SWAPS):
        generation = await asyncio.to_thread(engine.open_generation, version, directories[version % 2])
        started = time.monotonic()
        await traffic.swap(generation)
        async with await traffic.chat(make_request(length=4)) as answer:
            await anext(answer)
            assert answer.version == version
            first_answers.append(time.monotonic() - started)
    storm.over = True
    await asyncio.gather(*clients)
    await traffic.close()
    assert (storm.failures, storm.mixed) == ([], 0)
    assert storm.answers.total() > SWAPS
    assert len(storm.answers) > SWAPS / 2
    assert sorted(first_answers)[SWAPS // 2] < 2.0


async def test_memory_of_drained_versions_is_given_back(
    base: LoadedBase, engine: Engine, adapter_directory: Path, make_request: MakeRequest
) -> None:
    traffic = Traffic(base.tokenizer)
    opened: list[weakref.ref[Generation]] = []

    async def serve(version: int) -> int:
        """Serves a version, asks it, and returns the bytes of all tensors when the one before the last has gone."""
        generation = engine.open_generation(version, adapter_directory if version else None)
        opened.append(weakref.ref(generation))
        await traffic.swap(generation)
        del generation
        await answer_of(traffic, make_request())
        await asyncio.gather(*traffic._retiring)
        await asyncio.sleep(0)
        gc.collect()
        tensors = [found for found in gc.get_objects() if isinstance(found, torch.Tensor)]
        return sum(tensor.nbytes for tensor in tensors)

    sizes = [await serve(version) for version in range(10)]
    one = (adapter_directory / "adapter_model.safetensors").stat().st_size
    assert max(sizes[3:]) - sizes[3] < one, sizes

    def alive() -> list[int]:
        gc.collect()
        return [number for number, reference in enumerate(opened) if reference() is not None]

    for _ in range(100):  # a thread that closed one may hold it a moment longer
        if alive() == [8, 9]:
            break
        await asyncio.sleep(0.05)
    assert alive() == [8, 9]
    await traffic.close()
