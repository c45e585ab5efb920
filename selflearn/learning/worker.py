"""The worker: one update in its own process, from a job folder to a candidate folder.

Run as ``python -m selflearn.learning.worker FOLDER``. It steps back for the daemon (niceness), ends when the daemon
ends (its standard input closes), and writes nothing outside the folder but what depends on the base model alone. It
leaves ``candidate/`` (adapter, importance, probe, training log) and ``report.json`` with everything measured.

On its standard input ``pause`` and ``resume`` stop and continue the training between two steps. What comes of it is
the same, to the last bit, however often it was paused; a pause gives back the processor and not the memory.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from selflearn.errors import SelflearnError
from selflearn.learning.forecast import PAUSED, TRAINING, phase_of
from selflearn.learning.job import Job, read_job
from selflearn.learning.machine import machine, sha256_of_cache, sha256_of_examples
from selflearn.learning.memory import is_out_of_memory
from selflearn.learning.update import run

DAEMON_IS_GONE = 75  # the exit code, EX_TEMPFAIL of sysexits.h
_NOT_DETERMINISTIC = "does not have a deterministic implementation"


class Progress:
    """Tells the daemon, line by line, what is being done, and keeps the seconds that each phase took."""

    def __init__(self, folder: Path) -> None:
        self.seconds: dict[str, float] = {}
        self.phase = "starting"
        self._file = (folder / "progress.jsonl").open("a", encoding="utf-8", buffering=1)
        self._since = time.monotonic()

    def tell(self, phase: str, **numbers: Any) -> None:
        line = {"at": time.time(), "phase": phase, **numbers}
        self._file.write(json.dumps(line) + "\n")
        self._count(phase_of(line))

    def finish(self) -> dict[str, float]:
        """The seconds of every phase, now that the last one is over."""
        self._count("")
        return self.seconds

    def _count(self, next_phase: str) -> None:
        if next_phase != self.phase:
            now = time.monotonic()
            self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + now - self._since
            self.phase, self._since = next_phase, now


class Gate:
    """Whether training may go on, as the daemon says on standard input."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._open = threading.Event()
        self._open.set()

    def follow(self, orders: IO[bytes]) -> None:
        """Blocks until the orders end, then ends the process: an orphan must not go on training."""
        while order := orders.readline():
            if order.strip() == b"pause":
                self._open.clear()
            else:
                self._open.set()
        os._exit(DAEMON_IS_GONE)

    def wait(self, step: int) -> None:
        """Before each training step: returns at once, or when the pause is over."""
        del step  # the lines that training writes have its number
        if self._progress.phase != TRAINING:
            self._progress.tell(TRAINING)
        if self._open.is_set():
            return
        self._progress.tell(PAUSED)
        self._open.wait()
        self._progress.tell(TRAINING)


def main() -> int:
    folder = Path(sys.argv[1])
    progress = Progress(folder)
    gate = Gate(progress)
    orders = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 - the process ends with it
    threading.Thread(target=gate.follow, args=(orders,), daemon=True).start()
    job = read_job(folder)
    _set_up(job)
    report = _carry_out(job, folder, progress, gate)
    part = folder / "report.json.part"
    part.write_text(json.dumps(report), encoding="utf-8")
    part.replace(folder / "report.json")
    return 1 if "error" in report else 0


def _set_up(job: Job) -> None:
    os.nice(job.learning.niceness)
    if job.learning.threads:
        torch.set_num_threads(job.learning.threads)
    torch.manual_seed(job.seed)
    # Warns only: an update that cannot be repeated bit for bit is worth more than none. The report says so.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time only


def _carry_out(job: Job, folder: Path, progress: Progress, gate: Gate) -> dict[str, Any]:
    try:
        with noted_nondeterminism() as noted:
            report = run(job, folder, progress.tell, gate.wait)
    except SelflearnError as error:
        return {"error": str(error)}
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return {"error": _too_little_memory(progress.phase, error)}
    seconds = progress.finish()
    return {
        **report,
        "seconds_by_phase": seconds,
        "made_with": {
            **machine(report["device"], report["threads"]),
            "examples_sha256": sha256_of_examples(job.examples),
            "cache": sha256_of_cache(Path(job.cache_directory)),
            "not_deterministic": sorted(noted),
            "batch_tokens": report["training"]["batch_tokens"],  # less than the setting where memory ran out
        },
    }


@contextmanager
def noted_nondeterminism() -> Iterator[set[str]]:
    """Notes which operations torch said it cannot repeat bit for bit; what it says is shown as before."""
    noted: set[str] = set()
    show = warnings.showwarning

    def note(message: Warning | str, *where: Any, **more: Any) -> None:
        if _NOT_DETERMINISTIC in str(message):
            noted.add(str(message).partition(" ")[0])
        show(message, *where, **more)

    warnings.showwarning = note
    try:
        yield noted
    finally:
        warnings.showwarning = show


def _too_little_memory(phase: str, error: BaseException) -> str:
    first_line = str(error).partition("\n")[0][:200]
    return (
        f"Memory ran out in the phase '{phase}' ({first_line}). Lower learning.batch_tokens or learning.max_length, "
        "switch learning.gradient_checkpointing on, or give the machine more memory."
    )


if __name__ == "__main__":
    sys.exit(main())
