"""The engine alone, without HTTP, keys, recording and metrics: what the daemon's own work is measured against.

It lives in a process of its own, as the daemon does, and is told over its standard input what to generate.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

from selflearn.cli.load import Sample, closed_loop, question
from selflearn.cli.serve import SPIN_COUNT
from selflearn.config import ServingSettings, Settings
from selflearn.daemon.engines import running_engine
from selflearn.models.chat import encode_prompt, stop_ids
from selflearn.serving import Sampling, TokenChunk, TokenRequest
from tests.benchmarks.peers import Contender
from tests.benchmarks.processes import dies_with_us

NAME = "bare engine"
Stream = Callable[[int, int], AsyncGenerator[TokenChunk, None]]


@contextlib.contextmanager
def bare_engine(model: Path, log: Path, *, dtype: str, device: str) -> Iterator[Contender]:
    """The embedded engine with the defaults of the product, serving the base."""
    settings = ServingSettings(model=str(model), dtype=dtype, device=device)
    command = dies_with_us([sys.executable, "-m", "tests.benchmarks.bare", settings.model_dump_json()])
    with log.open("ab") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            bufsize=1,
            env={"GOMP_SPINCOUNT": SPIN_COUNT, **os.environ},  # as 'selflearn serve' has it
        )
    try:
        _read(process, log)  # it is ready
        yield Contender(NAME, lambda *load: _measure(process, log, load), process.pid)
    finally:
        process.kill()
        process.communicate()


def _measure(process: subprocess.Popen[str], log: Path, load: tuple[int, ...]) -> list[Sample]:
    assert process.stdin is not None
    process.stdin.write(json.dumps(load) + "\n")
    return [Sample(**{**found, "arrivals": tuple(found["arrivals"])}) for found in _read(process, log)]


def _read(process: subprocess.Popen[str], log: Path) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the bare engine ended; see {log}")
    return json.loads(line)


def main() -> None:
    """The other side: serves until its standard input ends."""
    asyncio.run(_serve(ServingSettings.model_validate_json(sys.argv[1])))


async def _serve(settings: ServingSettings) -> None:
    import torch

    from selflearn.models.base import load_base

    torch.set_num_threads(1)  # as the daemon: the engine's own thread takes all cores
    base = load_base(Path(settings.model), device=settings.device, dtype=settings.dtype)
    ends = stop_ids(base.tokenizer, base.model)
    async with running_engine(Settings(serving=settings), Path(), base) as engine:
        generation = await asyncio.to_thread(engine.open_generation, 0, None)
        gc.freeze()

        def stream(number: int, tokens: int) -> AsyncGenerator[TokenChunk, None]:
            prompt = encode_prompt(base.tokenizer, [{"role": "user", "content": question(number)}])
            return generation.stream(TokenRequest(str(number), tuple(prompt), tokens, Sampling(temperature=0.0), ends))

        print("true", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            samples = await _load(stream, *json.loads(line))
            kept = ("sent", "ended", "arrivals", "tokens", "error")
            print(json.dumps([{name: getattr(sample, name) for name in kept} for sample in samples]), flush=True)
        await generation.close(0.0)


async def _load(stream: Stream, clients: int, requests: int, tokens: int, first: int) -> list[Sample]:
    async def ask(number: int) -> Sample:
        sent = time.perf_counter()
        arrivals: list[float] = []
        generated = 0
        async for chunk in stream(number, tokens):
            arrivals.append(time.perf_counter())
            generated += len(chunk.token_ids)
        return Sample(sent, time.perf_counter(), tuple(arrivals), generated)

    return await closed_loop([ask] * clients, lambda number: number < requests, first)


if __name__ == "__main__":
    main()
