from __future__ import annotations

import asyncio
import gc
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file

from selflearn.errors import BadRequest, EngineError, ProofFailed, VersionDamaged
from selflearn.models.adapter import WEIGHTS_FILE, attach_saved
from selflearn.models.base import LoadedBase
from selflearn.models.views import view_of
from selflearn.serving import Generation, TokenRequest
from selflearn.serving.cache import BLOCK_TOKENS
from selflearn.serving.loop import FAILURES_IN_A_ROW
from selflearn.serving.transformers_engine import (
    PROBE_FILE,
    EngineOptions,
    TransformersEngine,
    TransformersGeneration,
)

Opener = Callable[[int, Path | None], TransformersGeneration]
MakeRequest = Callable[..., TokenRequest]


async def _collect(generation: Generation, request: TokenRequest) -> tuple[list[int], str | None]:
    tokens: list[int] = []
    reason = None
    async for chunk in generation.stream(request):
        assert reason is None
        tokens.extend(chunk.token_ids)
        reason = chunk.finish_reason
    return tokens, reason


def _argmax(model: Any, request: TokenRequest) -> list[int]:
    """The plain library's greedy answer, as the oracle."""
    output = model.generate(
        torch.tensor([request.prompt_ids]),
        do_sample=False,
        max_new_tokens=request.max_new_tokens,
        eos_token_id=list(request.stop_ids) or None,
        pad_token_id=0,
    )
    tokens: list[int] = output[0, len(request.prompt_ids) :].tolist()
    return tokens


def _scheduler_of(engine: TransformersEngine) -> Any:
    return engine._running_loop()._scheduler


async def _until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)


async def test_versions_answer_side_by_side_each_with_its_own_adapter(
    base: LoadedBase,
    open_generation: Opener,
    adapter_directory: Path,
    other_adapter_directory: Path,
    make_request: MakeRequest,
) -> None:
    directories = [None, adapter_directory, other_adapter_directory]
    generations = [open_generation(version, directory) for version, directory in enumerate(directories)]
    request = make_request(length=24)
    answers = await asyncio.gather(*(_collect(generation, request) for generation in generations * 2))
    for version, directory in enumerate(directories):
        model: Any = view_of(base.model)
        if directory is not None:
            attach_saved(model, directory)
        assert answers[version] == answers[version + 3] == (_argmax(model, request), "length")
    assert len({tuple(tokens) for tokens, _ in answers}) == 3
    assert [generation.version for generation in generations] == [0, 1, 2]


async def test_greedy_beside_sampled_is_the_argmax(
    base: LoadedBase, open_generation: Opener, make_request: MakeRequest
) -> None:
    generation = open_generation(0, None)
    prompts = ["what is the port?", "how do i roll back", "water boils", "the quick brown fox", "dog", "a b c d e f"]
    greedy = [make_request(prompt, length=20) for prompt in prompts]
    sampled = [make_request(prompt, length=20, temperature=1.5, top_p=0.9) for prompt in prompts]
    mixed = [request for pair in zip(greedy, sampled, strict=True) for request in pair]
    answers = await asyncio.gather(*(_collect(generation, request) for request in mixed))
    for index, request in enumerate(greedy):
        assert answers[2 * index] == (_argmax(view_of(base.model), request), "length")
    assert all(len(tokens) == 20 for tokens, _ in answers)
    again = await asyncio.gather(*(_collect(generation, request) for request in sampled))
    assert [tokens for tokens, _ in again] != [tokens for tokens, _ in answers[1::2]]


async def test_tokens_come_one_by_one(open_generation: Opener, make_request: MakeRequest) -> None:
    chunks = [chunk async for chunk in open_generation(0, None).stream(make_request(length=8))]
    assert sum(len(chunk.token_ids) for chunk in chunks) == 8
    assert len(chunks) > 4
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]


async def test_a_stop_token_ends_the_answer(open_generation: Opener, make_request: MakeRequest) -> None:
    generation = open_generation(0, None)
    tokens, _ = await _collect(generation, make_request(length=10))
    stop = tokens[4]
    expected = tokens[: tokens.index(stop) + 1]
    assert await _collect(generation, make_request(length=10, stop_ids=(stop,))) == (expected, "stop")


async def test_a_long_prompt_is_read_in_pieces(base: LoadedBase, make_request: MakeRequest) -> None:
    options = EngineOptions(cache_tokens=1024, max_concurrent_requests=2, step_tokens=16, threads=1)
    with closing(TransformersEngine(base, options)) as engine:
        request = make_request("the quick brown fox jumps over the lazy dog " * 8, length=6)
        assert len(request.prompt_ids) > 64
        generation = engine.open_generation(0, None)
        assert (await _collect(generation, request))[0] == _argmax(view_of(base.model), request)


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_leaving_frees_the_place(
    engine: TransformersEngine, open_generation: Opener, make_request: MakeRequest, how: str
) -> None:
    generation = open_generation(0, None)
    request = make_request(length=400)
    if how == "close":
        stream = generation.stream(request)
        await anext(stream)
        assert generation.running == 1
        await stream.aclose()
    else:
        task = asyncio.create_task(_collect(generation, request))
        await _until(lambda: bool(_scheduler_of(engine).busy))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert generation.running == 0
    await _until(lambda: not _scheduler_of(engine).busy)
    assert engine._running_loop()._pool.free == 64
    capacity = make_request(length=512 - len(request.prompt_ids))
    assert len((await asyncio.wait_for(_collect(generation, capacity), 60))[0]) == capacity.max_new_tokens


async def test_more_requests_than_the_cache_can_hold_all_finish(base: LoadedBase, make_request: MakeRequest) -> None:
    """Eight begin, the cache has room for two at full length: the youngest start over, and nobody's answer changes."""
    options = EngineOptions(cache_tokens=128, max_concurrent_requests=8, threads=1)
    with closing(TransformersEngine(base, options)) as engine:
        generation = engine.open_generation(0, None)
        requests = [make_request("dog", length=60 + index) for index in range(12)]
        tasks = [asyncio.create_task(_collect(generation, request)) for request in requests]
        await _until(lambda: generation.waiting > 0)
        for task in tasks[1::3]:
            task.cancel()
        done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
        expected = _argmax(view_of(base.model), requests[-1])
        for index, result in enumerate(done):
            if index % 3 == 1:
                assert isinstance(result, asyncio.CancelledError)
            else:
                assert not isinstance(result, BaseException)
                assert result[0] == expected[: 60 + index]
        assert generation.running == generation.waiting == 0
        assert engine._running_loop()._pool.free == 8


async def test_an_equal_beginning_is_read_once(base: LoadedBase, make_request: MakeRequest) -> None:
    request = make_request("the quick brown fox jumps over the lazy dog " * 4, length=6)
    expected = _argmax(view_of(base.model), request)
    for shared in (True, False):
        options = EngineOptions(cache_tokens=1024, max_concurrent_requests=2, prefix_cache=shared, threads=1)
        with closing(TransformersEngine(base, options)) as engine:
            generation = engine.open_generation(0, None)
            counted = _count_tokens(engine)
            assert (await _collect(generation, request))[0] == expected
            first = counted.pop()
            assert (await _collect(generation, request))[0] == expected
            assert first == len(request.prompt_ids) + 5
            again = counted.pop() - 5
            assert again <= BLOCK_TOKENS if shared else again == len(request.prompt_ids)


def _count_tokens(engine: TransformersEngine) -> list[int]:
    """Lets the engine count the tokens that go through the model; reading the last entry begins the next."""
    runner: Any = engine._runner
    run = runner.run
    counted: list[int] = []

    def counting(pieces: Any, cache: Any) -> Any:
        counted[:] = [sum(counted) + sum(piece.count for piece in pieces)]
        return run(pieces, cache)

    runner.run = counting
    return counted


async def test_what_can_never_fit_is_refused(open_generation: Opener, make_request: MakeRequest) -> None:
    generation = open_generation(0, None)
    prompt = len(make_request().prompt_ids)
    assert generation.capacity == 512
    with pytest.raises(BadRequest, match="at most 512 fit") as caught:
        generation.check(make_request(length=513 - prompt))
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(BadRequest, match="at least 1"):
        await _collect(generation, make_request(length=0))
    with pytest.raises(BadRequest, match="0 prompt tokens"):
        await _collect(generation, TokenRequest("r", (), 5))
    with pytest.raises(BadRequest, match="outside the vocabulary"):
        await _collect(generation, TokenRequest("r", (10**9,), 5))
    assert len((await _collect(generation, make_request()))[0]) == 12


async def test_the_cache_can_be_filled_to_the_last_token(base: LoadedBase, make_request: MakeRequest) -> None:
    options = EngineOptions(cache_tokens=64, max_concurrent_requests=2, threads=1)
    with closing(TransformersEngine(base, options)) as engine:
        generation = engine.open_generation(0, None)
        assert generation.capacity == 64
        request = make_request("dog", length=64 - len(make_request("dog").prompt_ids))
        assert len((await asyncio.wait_for(_collect(generation, request), 30))[0]) == request.max_new_tokens


async def test_a_step_that_fails_fails_its_requests_alone(base: LoadedBase, make_request: MakeRequest) -> None:
    with closing(TransformersEngine(base, EngineOptions(cache_tokens=1024, threads=1))) as engine:
        generation = engine.open_generation(0, None)
        run = _break(engine)
        with pytest.raises(EngineError, match="out of luck"):
            await _collect(generation, make_request())
        assert generation.alive
        engine._runner.run = run  # type: ignore[method-assign]
        assert len((await _collect(generation, make_request()))[0]) == 12


async def test_an_engine_that_keeps_failing_is_dead_and_is_replaced(
    base: LoadedBase, make_request: MakeRequest
) -> None:
    with closing(TransformersEngine(base, EngineOptions(cache_tokens=1024, threads=1))) as engine:
        generation = engine.open_generation(0, None)
        run = _break(engine)
        for _ in range(FAILURES_IN_A_ROW):
            with pytest.raises(EngineError, match="out of luck"):
                await _collect(generation, make_request())
        await _until(lambda: not generation.alive)
        with pytest.raises(EngineError, match="is not running"):
            await _collect(generation, make_request())
        engine._runner.run = run  # type: ignore[method-assign]
        assert len((await _collect(engine.open_generation(0, None), make_request()))[0]) == 12


def _break(engine: TransformersEngine) -> Any:
    """Makes every forward pass fail; returns what mends it."""
    runner: Any = engine._runner
    run = runner.run

    def broken(pieces: Any, cache: Any) -> Any:
        raise RuntimeError("out of luck")

    runner.run = broken
    return run


async def test_closing_lets_requests_finish(engine: TransformersEngine, make_request: MakeRequest) -> None:
    generation = engine.open_generation(0, None)
    running = asyncio.create_task(_collect(generation, make_request(length=40)))
    await _until(lambda: generation.running == 1)
    await generation.close(30.0)
    assert len((await running)[0]) == 40
    assert not generation.alive
    await generation.close(0.0)


async def test_closing_at_once_fails_what_is_left(
    engine: TransformersEngine, open_generation: Opener, make_request: MakeRequest
) -> None:
    other = open_generation(0, None)
    generation = engine.open_generation(0, None)
    tasks = [asyncio.create_task(_collect(generation, make_request(length=450))) for _ in range(6)]
    beside = asyncio.create_task(_collect(other, make_request()))
    await _until(lambda: bool(_scheduler_of(engine).busy))
    await generation.close(0.0)
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    assert all(isinstance(result, EngineError) for result in results)
    assert len((await beside)[0]) == 12


async def test_closing_gives_the_adapter_back(engine: TransformersEngine, adapter_directory: Path) -> None:
    generation = engine.open_generation(1, adapter_directory)
    adapters = cast("Any", engine._runner)._adapters
    tensor = weakref.ref(adapters[generation._owner][0]["mlp_in"].down)
    await generation.close(0.0)
    gc.collect()
    assert tensor() is None


def test_ending_the_engine_ends_its_thread(base: LoadedBase) -> None:
    before = set(threading.enumerate())
    engine = TransformersEngine(base, EngineOptions(cache_tokens=512, threads=1))
    generation = engine.open_generation(0, None)
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon
    engine.close()
    assert not thread.is_alive()
    assert not generation.alive


@pytest.fixture
def copied(adapter_directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapter_directory, tmp_path / "copied"))


def test_other_answers_than_recorded_are_not_served(engine: TransformersEngine, copied: Path) -> None:
    logits = load_file(str(copied / PROBE_FILE))["logits"]
    save_file({"logits": logits + torch.linspace(-1, 1, len(logits))}, str(copied / PROBE_FILE))
    with pytest.raises(ProofFailed, match="does not answer as recorded"):
        engine.open_generation(1, copied)
    save_file({"logits": torch.full_like(logits, float("nan"))}, str(copied / PROBE_FILE))
    with pytest.raises(ProofFailed, match="does not answer as recorded"):
        engine.open_generation(1, copied)
    (copied / PROBE_FILE).unlink()
    with pytest.raises(ProofFailed, match="proves nothing"):
        engine.open_generation(1, copied)


def test_a_changed_adapter_does_not_prove_itself(engine: TransformersEngine, copied: Path) -> None:
    tensors = load_file(str(copied / WEIGHTS_FILE))
    save_file({name: tensor * 1.5 for name, tensor in tensors.items()}, str(copied / WEIGHTS_FILE))
    with pytest.raises(ProofFailed):
        engine.open_generation(1, copied)


def test_a_damaged_adapter_is_named_and_leaves_no_thread(engine: TransformersEngine, copied: Path) -> None:
    before = threading.active_count()
    (copied / WEIGHTS_FILE).write_bytes(b"not an adapter")
    with pytest.raises(VersionDamaged, match=WEIGHTS_FILE):
        engine.open_generation(1, copied)
    with pytest.raises(VersionDamaged, match="no adapter directory"):
        engine.open_generation(3, None)
    assert threading.active_count() == before


def test_a_process_that_forgets_to_close_still_ends(tiny_model: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from selflearn.models.base import load_base\n"
        "from selflearn.serving.transformers_engine import EngineOptions, TransformersEngine\n"
        "engine = TransformersEngine(load_base(Path(sys.argv[1]), device='cpu'), EngineOptions(cache_tokens=512))\n"
        "generation = engine.open_generation(0, None)\n"
        "print(generation.alive, flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiny_model)], capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.strip() == b"True"
