"""The servers that are measured beside each other, each started as its makers say, all with one model and one type.

A server that is not being measured stands still: the kernel stops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from selflearn.cli.load import Sample, Target, stream_load
from tests.benchmarks.processes import started
from tests.daemons import Daemon, Lab, free_port
from tests.vllm.server import MODEL as VLLM_MODEL
from tests.vllm.server import start_vllm

OURS = "selflearn"
TRANSFORMERS = "transformers serve"
VLLM = "vLLM"
START_SECONDS = 600.0
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
CONTEXT = 2048
CACHE_BYTES = 1 << 30  # more than 32 clients need

#: Asks so many questions with so many clients: (clients, requests, tokens, number of the first question).
Measure = Callable[[int, int, int, int], list[Sample]]


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that answers. ``pid`` is how to stop it: a process, or a group if negative."""

    name: str
    measure: Measure
    pid: int


def target_of(daemon: Daemon, key: str) -> Target:
    return Target(daemon.url, "selflearn", {"authorization": f"Bearer {key}"})


def over_http(name: str, target: Target, pid: int) -> Contender:
    def measure(clients: int, requests: int, tokens: int, first: int) -> list[Sample]:
        load = stream_load(target, clients=clients, requests=requests, tokens=tokens, first=first)
        return asyncio.run(load)

    return Contender(name, measure, pid)


@dataclass(frozen=True, slots=True)
class Keys:
    """A key file of a daemon's own, and the operator's key in it."""

    file: Path
    operator: str
    teacher: str
    client: str

    @classmethod
    def make(cls, file: Path) -> Keys:
        keys = {role: f"sl-{secrets.token_urlsafe(32)}" for role in ("operator", "teacher", "client")}
        lines = [f"{role} {role} sha256:{hashlib.sha256(key.encode()).hexdigest()}\n" for role, key in keys.items()]
        file.touch(mode=0o600)
        file.write_text("".join(lines), "utf-8")
        return cls(file, **keys)


@contextlib.contextmanager
def our_daemon(lab: Lab, state: Path, settings: Mapping[str, str]) -> Iterator[tuple[Daemon, Keys]]:
    """A daemon with keys, recording and metrics, and with the defaults of the product but for ``settings``."""
    keys = Keys.make(state / "keys")
    defaults = {"SERVING__THREADS": "0", "API__KEYS_FILE": str(keys.file)}
    try:
        with lab.daemon(state, key=keys.operator, **{**defaults, **settings}) as daemon:
            yield daemon, keys
    except Exception as error:
        error.add_note(f"The daemon's log ends with:\n{_tail(state.with_name(f'{state.name}.daemon.log'))}")
        raise


@contextlib.contextmanager
def transformers_serve(model: Path, cache: Path, log: Path, *, dtype: str, device: str) -> Iterator[Contender]:
    """``transformers serve --continuous-batching`` of the transformers that is installed here."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [
        str(_transformers_environment(cache)),
        *("-m", "transformers.cli.transformers", "serve", str(model), "--continuous-batching"),
        *("--dtype", dtype, "--device", device, "--host", "127.0.0.1", "--port", str(port)),
    ]
    with started(command, log, {"HF_HUB_OFFLINE": "1"}) as process:
        _await_health(url, process, log)
        yield over_http(TRANSFORMERS, Target(url, str(model)), -process.pid)


@contextlib.contextmanager
def vllm_serve(model: Path, environment: Path, log: Path, *, dtype: str) -> Iterator[Contender]:
    """vLLM from the virtual environment ``environment``, with as many threads as OMP_NUM_THREADS says."""
    port = free_port()
    arguments = ("--dtype", dtype, "--max-model-len", str(CONTEXT), "--kv-cache-memory-bytes", str(CACHE_BYTES))
    with start_vllm(model, port, environment, arguments=arguments, log=log) as process:
        yield over_http(VLLM, Target(f"http://127.0.0.1:{port}", VLLM_MODEL), -process.pid)


def _transformers_environment(cache: Path) -> Path:
    """The interpreter of an environment that has what is installed here, and what the server needs on top of it."""
    environment = cache / "transformers-serve"
    python = environment / "bin" / "python"
    if not (environment / "made").exists():
        _run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(environment))
        site = environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", str(python))
        _run(*pip, "install", "--constraint", str(CONSTRAINTS), "transformers[serving]")
        (environment / "made").touch()
    return python


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _await_health(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when the server answers; a server that ends or takes too long is a ``RuntimeError``."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", timeout=5.0, trust_env=False).status_code == 200:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{url} was not ready; its log ends with:\n{_tail(log)}")
        time.sleep(0.2)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text("utf-8", errors="replace").splitlines()[-15:])


def default_cache() -> Path:
    """Where environments of peers are kept between measurements."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "selflearn-benchmarks"
