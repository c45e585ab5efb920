"""The command line in this process, with what it printed and the exit code it ended with."""

from __future__ import annotations

import io
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch

from selflearn.cli.main import main
from selflearn.learning.anchors import anchors_for
from selflearn.learning.cache import cache_directory
from selflearn.models.base import LoadedBase, load_base
from tests.api.server import Running, make_adapter, running_server
from tests.stores import Bench, registered


@pytest.fixture
def bench(bench: Bench) -> Bench:
    """The state directory of the command, after the first start of a daemon."""
    return registered(bench)


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int
    out: str
    err: str


class Terminal(io.StringIO):
    """Standard input at which somebody sits and types."""

    def isatty(self) -> bool:
        return True


class Command(Protocol):
    def __call__(self, *arguments: Any) -> Outcome: ...


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs ``selflearn ARGUMENTS`` in an empty directory; no daemon listens at the default address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("SELFLEARN_SERVING__PORT", str(probe.getsockname()[1]))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: Any) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["selflearn", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        code = ended.value.code
        return Outcome(code if isinstance(code, int) else 0, printed.out, printed.err)

    return run


@pytest.fixture(scope="module")
def running(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A real server that serves the base; a module's tests share it."""
    torch.set_num_threads(1)
    base = load_base(tiny_model, device="cpu", dtype="float32")
    adapter = make_adapter(base, tmp_path_factory.mktemp("adapter"))
    with running_server(base, adapter, tmp_path_factory.mktemp("state")) as server:
        server.serve(0)
        yield server


@pytest.fixture(scope="session")
def anchors_kept(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache with the tiny model's answers to the anchors, made once."""
    cache = tmp_path_factory.mktemp("cache")
    anchors_for(load_base(tiny_model, device="cpu", dtype="float32"), cache)
    return cache


@pytest.fixture
def base(
    tiny_model: Path, state: Path, bench: Bench, anchors_kept: Path, monkeypatch: pytest.MonkeyPatch
) -> LoadedBase:
    """The tiny model, served by the state directory of the command."""
    loaded = load_base(tiny_model, device="cpu", dtype="float32")
    shutil.copytree(anchors_kept, cache_directory(state, loaded.sha256))
    for name, value in (("MODEL", str(tiny_model)), ("DTYPE", "float32"), ("DEVICE", "cpu")):
        monkeypatch.setenv(f"SELFLEARN_SERVING__{name}", value)
    return loaded
