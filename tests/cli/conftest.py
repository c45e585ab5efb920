"""The command line in this process, with what it printed and the exit code it ended with."""

from __future__ import annotations

import io
import json
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
from selflearn.versions.alarms import raise_alarm
from tests.api.server import Running, make_adapter, running_server
from tests.rows import chat, question
from tests.stores import LEARNER, Bench, registered
from tests.versions.candidates import promote_new


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


@pytest.fixture
def names(bench: Bench, state: Path, tmp_path: Path, command: Command) -> dict[str, Any]:
    """Two versions, a refused update, an alarm, an answer, a file to import and a key file."""
    first, second = promote_new(bench, state, 0), promote_new(bench, state, 100)
    for number in range(12):
        bench.correct(f"question {300 + number}", f"answer {number}")
    refused = bench.begin_update()
    bench.refuse(refused)
    interaction = bench.interaction()
    bench.feedback(interaction, "rating", value=-1.0)
    detail = {"reason": "more was said against it", "before": 0.02, "after": 0.2}
    given: dict[str, Any] = {"learner": LEARNER, "version": second, "detail": detail, "at": bench.now()}
    bench.store.write(lambda it: raise_alarm(it, signal="negative_feedback", action="none", **given))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(chat(question(n), "The miller.")) + "\n" for n in range(3)), encoding="utf-8")
    assert command("keys", "add", "ann", "--role", "client", "--keys-file", tmp_path / "keys").code == 0
    (state / "models" / "tiny").mkdir(parents=True)
    (state / "models" / "tiny" / "config.json").write_text("{}")
    places = {"rows": rows, "away": tmp_path}
    return {"first": first, "second": second, "refused": refused, "interaction": interaction, **places}


def filled(words: str, **given: Any) -> list[str]:
    """The words of a command, with what stands for ``{name}``."""
    return [word.format(**given) for word in words.split()]
