"""Servers to test against."""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from selflearn.models.base import LoadedBase, load_base
from tests.api.server import Running, make_adapter, running_server
from tests.conftest import TOOL_TEMPLATE


@pytest.fixture(scope="session")
def base(tiny_model: Path) -> LoadedBase:
    torch.set_num_threads(1)
    return load_base(tiny_model, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def adapter(base: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def running(base: LoadedBase, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that serves the base; a module's tests share it."""
    with running_server(base, adapter, tmp_path_factory.mktemp("state")) as server:
        server.serve(0)
        yield server


@pytest.fixture(scope="module")
def calling(base: LoadedBase, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose model knows tools; a module's tests share it."""
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.chat_template = TOOL_TEMPLATE
    able = dataclasses.replace(base, tokenizer=tokenizer)
    with running_server(able, adapter, tmp_path_factory.mktemp("state")) as server:
        server.serve(0)
        yield server


@pytest.fixture
def start(base: LoadedBase, adapter: Path, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts servers of the test's own, with their own settings."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(running_server(base, adapter, tmp_path / "state", **options))


@pytest.fixture
def pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        yield threads
