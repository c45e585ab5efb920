"""Who trains: selflearn, TRL's SFTTrainer, a plain PEFT loop; each in a process of its own that waits for its turn."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.processes import dies_with_us

OURS = "selflearn"
PEERS = Path(__file__).with_name("update_peers.py")


@dataclass(frozen=True, slots=True)
class Task:
    """What a contender is told. ``options`` are of TRL's SFTConfig, or settings of selflearn's learning section."""

    kind: str
    model: str
    data: str
    work: str
    dtype: str
    device: str
    threads: int
    batch_size: int
    rank: int
    learning_rate: float
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the data, in seconds; memory in bytes is the process's highest so far."""

    seconds: float
    peak: int
    device_peak: int


@dataclass(frozen=True, slots=True)
class Contender:
    """A process that trains when asked to."""

    name: str
    process: subprocess.Popen[str]
    log: Path

    def train(self) -> Pass:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended. Its last words:\n{self.log.read_text()[-2000:]}")
        return Pass(**json.loads(line))


@contextlib.contextmanager
def contender(name: str, task: Task, python: str | None = None) -> Iterator[Contender]:
    """``python`` is the interpreter of a peer; ours has none."""
    program = [sys.executable, "-m", "tests.benchmarks.update_ours"] if python is None else [python, str(PEERS)]
    log = Path(task.work) / f"{name.replace(' ', '-')}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            dies_with_us([*program, json.dumps(asdict(task))]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            bufsize=1,
        )
    try:
        yield Contender(name, process, log)
    finally:
        process.kill()
        process.communicate()


def turns(contenders: Sequence[Contender], rounds: int) -> Iterator[tuple[int, Contender]]:
    """Every contender in every round, in the opposite order each time."""
    for number in range(rounds):
        for each in contenders if number % 2 == 0 else reversed(contenders):
            yield number, each
