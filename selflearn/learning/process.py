"""The daemon's side of the worker: start it, watch it, end it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selflearn.errors import WorkerFailed

POLL_SECONDS = 0.2
LOG_TAIL = 600
KERNEL_COUNTERS = Path("/proc/vmstat")
SPIN_COUNT = "1000"  # shorter than the daemon's own: the worker is the one that steps back
WORKER_ENVIRONMENT = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it, matrix products on a GPU are not deterministic
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The worker was ended on purpose."""


class Worker:
    """One worker process over one job folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = (folder / "worker.log").open("wb")
        self._kernel_kills = _kernel_kills()
        environment = {**WORKER_ENVIRONMENT, **os.environ, "GOMP_SPINCOUNT": SPIN_COUNT}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "selflearn.learning.worker", str(folder)],
            stdin=subprocess.PIPE,  # orders; its end of file tells the worker that the daemon is gone
            bufsize=0,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a Ctrl-C on the daemon's terminal is the daemon's to handle
        )
        self._cancelled = threading.Event()

    @property
    def process_id(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def cancel(self) -> None:
        """Asks :meth:`wait` to end the worker; returns at once."""
        self._cancelled.set()

    def pause(self) -> None:
        """Lets the training wait before its next step, until :meth:`resume`. Harmless when the worker has ended."""
        self._order(b"pause\n")

    def resume(self) -> None:
        self._order(b"resume\n")

    def wait(
        self,
        timeout_seconds: float,
        on_progress: Callable[[dict[str, Any]], None],
        on_look: Callable[[], None] = lambda: None,
    ) -> dict[str, Any] | Cancelled:
        """Blocks until the worker has reported or was cancelled; ``on_look`` is called every ``POLL_SECONDS``.

        Raises :class:`WorkerFailed` if it ran too long, pauses included, or, with the end of its log, if it left no
        usable report. There is no other rule for a worker that makes no progress: how long a step may take depends on
        the model and the machine, and a limit that fits all of them is no sharper than that on the whole.
        """
        deadline = time.monotonic() + timeout_seconds
        follow = _Follower(self.folder / "progress.jsonl")
        last: dict[str, Any] = {}
        try:
            while self.is_alive():
                if self._cancelled.wait(POLL_SECONDS):
                    return Cancelled()
                if time.monotonic() > deadline:
                    raise WorkerFailed(
                        f"The worker ran longer than {timeout_seconds:.0f} s and was killed{_where(last)}. Raise "
                        "learning.timeout_seconds, or lower learning.passes or learning.max_train_examples."
                    )
                for line in follow.new_lines():
                    on_progress(last := line)
                on_look()
            for line in follow.new_lines():
                on_progress(line)
            return self._report()
        finally:
            self.kill()

    def kill(self) -> None:
        """Ends the process, if it still runs, and reaps it."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._log.close()

    def _order(self, line: bytes) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError, ValueError):  # it ended, or was reaped, meanwhile
                self._process.stdin.write(line)

    def _report(self) -> dict[str, Any]:
        path = self.folder / "report.json"
        if not path.is_file():
            raise WorkerFailed(self._death())
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if "error" in report:
            raise WorkerFailed(str(report["error"]))
        return report

    def _death(self) -> str:
        """What is known of an end without a report."""
        code = self._process.returncode
        named = f" ({signal.Signals(-code).name})" if -code in set(signal.Signals) else ""
        told = f"The worker ended with code {code}{named} and left no report."
        if -code == signal.SIGKILL and _kernel_kills() > self._kernel_kills:
            told += (
                " Meanwhile the kernel killed a process because memory ran out. Lower learning.batch_tokens or "
                "learning.max_length, switch learning.gradient_checkpointing on, or give the machine more memory."
            )
        elif -code == signal.SIGKILL:
            told += " Somebody killed it: the kernel says nothing of too little memory."
        log = (self.folder / "worker.log").read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:].strip()
        return f"{told} The end of its log: {log}" if log else told


def _where(line: dict[str, Any]) -> str:
    """``, in the phase training, step 3 of 80``."""
    if not line:
        return ", before it said anything"
    step = f", step {line['step']} of {line['steps']}" if "steps" in line else ""
    return f", in the phase {line['phase']}{step}"


def _kernel_kills() -> int:
    """How many processes the kernel has killed for want of memory since it started; 0 where it does not say."""
    try:
        words = KERNEL_COUNTERS.read_text(encoding="ascii").split()
    except OSError:
        return 0
    return int(words[words.index("oom_kill") + 1]) if "oom_kill" in words else 0


class _Follower:
    """Reads the complete lines that were appended to a file since the last look."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def new_lines(self) -> list[dict[str, Any]]:
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            complete, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(complete) + len(newline)
        return [json.loads(line) for line in complete.splitlines() if line]
