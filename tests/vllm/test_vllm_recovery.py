"""A vLLM that dies: what is in it fails, nothing of it stays, and what was loaded comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest

from selflearn.errors import EngineUnavailable
from selflearn.models.base import LoadedBase
from tests.daemons import free_port
from tests.processes import children, group_members
from tests.serving.contract import Subject, answer, until
from tests.vllm.conftest import CONTEXT, running_engine
from tests.vllm.server import START_SECONDS, start_vllm

# httpcore leaves the socket of a connection that was refused to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

LORA = ("--enable-lora", "--max-loras", "2", "--max-lora-rank", "8", "--dtype", "float32")
SIZES = ("--max-model-len", str(CONTEXT), "--kv-cache-memory-bytes", "4000000")


async def test_it_is_started_again_with_all_that_it_had_loaded(
    base: LoadedBase, adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    with running_engine(base, tmp_path) as engine:
        subject = Subject(engine, adapters, base.tokenizer, tmp_path)
        async with subject.serving(0) as served, subject.serving(1) as adapted:
            expected = [(await answer(one, subject.request())).tokens for one in (served, adapted)]
            names, keeper = set(engine.server.client.models()), engine.server.process_id
            assert keeper is not None
            in_flight = asyncio.create_task(answer(adapted, subject.request(length=480)))
            await until(lambda: adapted.running == 1)
            (first_process,) = children(keeper)
            os.kill(first_process, signal.SIGKILL)
            with pytest.raises(EngineUnavailable):
                await in_flight
            await until(lambda: not group_members(keeper))
            for away in (served, adapted):
                assert away.alive
                with pytest.raises(EngineUnavailable, match="expected back"):
                    await answer(away, subject.request())
            with pytest.raises(EngineUnavailable):
                engine.open_generation(2, adapters[1])
            await until(lambda: engine.server.up, START_SECONDS)
            assert [(await answer(one, subject.request())).tokens for one in (served, adapted)] == expected
            assert set(engine.server.client.models()) & names == {"selflearn-base"}
        last = engine.server.process_id
    assert last is not None
    assert not group_members(last)


async def test_somebody_elses_server_may_be_started_anew(
    base: LoadedBase, adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    port = free_port()
    with contextlib.ExitStack() as running:
        first = running.enter_context(contextlib.ExitStack())
        first.enter_context(start_vllm(base.path, port, arguments=(*LORA, *SIZES)))
        engine = running.enter_context(running_engine(base, tmp_path, vllm_url=f"http://127.0.0.1:{port}/v1/"))
        subject = Subject(engine, adapters, base.tokenizer, tmp_path)
        async with subject.serving(1) as adapted:
            expected = (await answer(adapted, subject.request())).tokens
            await asyncio.to_thread(first.close)
            await until(lambda: not engine.server.up)
            with pytest.raises(EngineUnavailable):
                await answer(adapted, subject.request())
            again = start_vllm(base.path, port, arguments=(*LORA, *SIZES))
            await asyncio.to_thread(running.enter_context, again)
            await until(lambda: engine.server.up)
            assert (await answer(adapted, subject.request())).tokens == expected
