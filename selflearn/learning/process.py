"""The daemon's side of the worker: start it, watch it, end it."""

from __future__ import annotations

import json
import os
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
        environment = {**WORKER_ENVIRONMENT, **os.environ, "GOMP_SPINCOUNT": SPIN_COUNT}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "selflearn.learning.worker", str(folder)],
            stdin=subprocess.PIPE,  # its end of file tells the worker that the daemon is gone
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

    def wait(self, timeout_seconds: float, on_progress: Callable[[dict[str, Any]], None]) -> dict[str, Any] | Cancelled:
        """Blocks until the worker has reported or was cancelled.

        Raises :class:`WorkerFailed` if it ran too long, or, with the end of its log, if it left no usable report.
        """
        deadline = time.monotonic() + timeout_seconds
        follow = _Follower(self.folder / "progress.jsonl")
        try:
            while self.is_alive():
                if self._cancelled.wait(POLL_SECONDS):
                    return Cancelled()
                if time.monotonic() > deadline:
                    raise WorkerFailed(
                        f"The worker ran longer than {timeout_seconds:.0f} s and was killed. Raise "
                        "learning.timeout_seconds, or lower learning.passes or learning.max_train_examples."
                    )
                for line in follow.new_lines():
                    on_progress(line)
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

    def _report(self) -> dict[str, Any]:
        path = self.folder / "report.json"
        if not path.is_file():
            tail = (self.folder / "worker.log").read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:].strip()
            raise WorkerFailed(
                f"The worker ended with code {self._process.returncode} and left no report. The end of its log: {tail}"
            )
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if "error" in report:
            raise WorkerFailed(str(report["error"]))
        return report


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
