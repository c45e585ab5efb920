"""An engine over the tiny model in fp32, where a batch gives the same bits as a request alone."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from selflearn.models.adapter import attach_new, factors, lora_layers, probe_logits, save_adapter
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.chat import probe_ids
from selflearn.models.views import view_of
from selflearn.serving import Sampling, TokenRequest
from selflearn.serving.transformers_engine import (
    PROBE_FILE,
    EngineOptions,
    TransformersEngine,
    TransformersGeneration,
)

Opener = Callable[[int, Path | None], TransformersGeneration]


@pytest.fixture(scope="session")
def base(tiny_model: Path) -> LoadedBase:
    return load_base(tiny_model, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def engine(base: LoadedBase) -> TransformersEngine:
    gc.collect()
    gc.freeze()  # the library collects garbage whenever a generation closes; the imported modules need no second look
    return TransformersEngine(base, EngineOptions(cache_tokens=1024, max_concurrent_requests=4, threads=1))


@pytest.fixture(scope="session")
def adapter_directory(base: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a worker leaves: an adapter that changes the answers, and its probe."""
    return write_adapter(base, tmp_path_factory.mktemp("version"), seed=1)


@pytest.fixture(scope="session")
def other_adapter_directory(base: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes the answers in another way."""
    return write_adapter(base, tmp_path_factory.mktemp("other"), seed=2)


def write_adapter(base: LoadedBase, directory: Path, seed: int) -> Path:
    """Writes an adapter of random numbers and its probe; returns the directory."""
    model = view_of(base.model)
    attach_new(model, rank=4, alpha=8.0, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in lora_layers(model).values():
        factors(layer)[1].data.normal_(0.0, 0.3, generator=generator)
    save_adapter(model, directory)
    save_file({"logits": probe_logits(model, probe_ids(base.tokenizer))}, str(directory / PROBE_FILE))
    return directory


@pytest.fixture
async def open_generation(engine: TransformersEngine) -> AsyncIterator[Opener]:
    """Opens generations that are closed when the test is over."""
    opened: list[TransformersGeneration] = []

    def open_one(version: int, directory: Path | None) -> TransformersGeneration:
        opened.append(engine.open_generation(version, directory))
        return opened[-1]

    yield open_one
    for generation in opened:
        await generation.close(0.0)


@pytest.fixture
def make_request(base: LoadedBase) -> Callable[..., TokenRequest]:
    """Requests that never stop before their length, unless they are told to."""

    def make(
        text: str = "what is the port?",
        *,
        length: int = 12,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop_ids: tuple[int, ...] = (),
    ) -> TokenRequest:
        ids = tuple(base.tokenizer(text, add_special_tokens=False)["input_ids"])
        return TokenRequest("request", ids, length, Sampling(temperature, top_p), stop_ids)

    return make
