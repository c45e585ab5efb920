"""Which engine serves, as the settings say, from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from selflearn.config import Settings
from selflearn.learning.cache import cache_directory
from selflearn.serving import Engine

if TYPE_CHECKING:
    from selflearn.models.base import LoadedBase
    from selflearn.serving.transformers_engine import TransformersEngine
    from selflearn.serving.vllm_engine import VLLMEngine


@contextlib.asynccontextmanager
async def running_engine(settings: Settings, state: Path, base: LoadedBase) -> AsyncIterator[Engine]:
    """The engine; in the end its threads and processes are gone. A vLLM server of our own starts and ends with it."""
    engine: VLLMEngine | TransformersEngine
    if settings.serving.engine == "vllm":
        engine = await asyncio.to_thread(_vllm, settings, state, base)
    else:
        engine = _transformers(settings, base)
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.close)


def _vllm(settings: Settings, state: Path, base: LoadedBase) -> VLLMEngine:
    from selflearn.models.base import context_length
    from selflearn.models.chat import probe_ids
    from selflearn.models.record import recorded_base
    from selflearn.serving.vllm_engine import VLLMEngine
    from selflearn.serving.vllm_launch import highest_rank, make_server

    serving, ids = settings.serving, probe_ids(base.tokenizer)
    learning = settings.learning
    rank = highest_rank(state, learning.max_rank if learning.orthogonal_weight > 0.0 else learning.rank)
    server = make_server(serving, base.path, state, context=context_length(base.model), rank=rank)
    cache = cache_directory(state, base.sha256)
    recorded = recorded_base(base.path, ids, cache, device=str(base.device), dtype=serving.dtype)
    engine = VLLMEngine(server, ids, recorded, places=serving.max_concurrent_requests)
    server.start()
    return engine


def _transformers(settings: Settings, base: LoadedBase) -> TransformersEngine:
    from selflearn.serving.transformers_engine import EngineOptions, TransformersEngine

    serving = settings.serving
    options = EngineOptions(
        cache_tokens=serving.cache_tokens,
        max_concurrent_requests=serving.max_concurrent_requests,
        step_tokens=serving.step_tokens,
        threads=serving.threads,
        prefix_cache=serving.prefix_cache,
        fused=serving.fused,
        take_weights=True,
    )
    return TransformersEngine(base, options)
