"""A real vLLM on the CPU over a tiny model in fp32, started once; run by ``make test-vllm``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selflearn.config import ServingSettings
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.chat import probe_ids
from selflearn.models.record import recorded_base
from selflearn.serving.vllm_engine import VLLMEngine
from selflearn.serving.vllm_launch import make_server
from tests.conftest import make_tiny_model
from tests.serving.conftest import write_adapter
from tests.vllm.server import VENV

CONTEXT = 512
RANK = 4
PLACES = 4


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with heads as wide as vLLM's attention on the CPU wants them."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_model(directory, head_dim=32)
    return directory


@pytest.fixture(scope="session")
def base(tiny_model: Path) -> LoadedBase:
    return load_base(tiny_model, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def adapters(base: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two versions as a worker leaves them, which answer differently."""
    first, second = (write_adapter(base, tmp_path_factory.mktemp("version"), seed=seed) for seed in (1, 2))
    return first, second


@contextlib.contextmanager
def running_engine(base: LoadedBase, state: Path, **settings: Any) -> Iterator[VLLMEngine]:
    """An engine as the daemon makes it, with a server of its own unless ``vllm_url`` names one."""
    serving = ServingSettings(
        engine="vllm",
        dtype="float32",
        cache_tokens=4096,
        max_concurrent_requests=PLACES,
        threads=1,
        vllm_command=str(VENV / "bin" / "vllm"),
        **settings,
    )
    server = make_server(serving, base.path, state, context=CONTEXT, rank=RANK)
    ids = probe_ids(base.tokenizer)
    recorded = recorded_base(base.path, ids, state / "cache", device="cpu", dtype="float32")
    engine = VLLMEngine(server, ids, recorded, places=PLACES)
    server.start()
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="session")
def engine(base: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMEngine]:
    with running_engine(base, tmp_path_factory.mktemp("state")) as running:
        yield running
