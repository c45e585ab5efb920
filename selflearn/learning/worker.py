"""The worker: one update in its own process, from a job folder to a candidate folder.

Run as ``python -m selflearn.learning.worker FOLDER``. It steps back for the daemon (niceness), ends when the daemon
ends (its standard input closes), and writes nothing outside the folder but what depends on the base model alone. It
leaves ``candidate/`` (adapter, importance, probe, training log) and ``report.json`` with everything measured.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from selflearn.errors import SelflearnError
from selflearn.learning.job import read_job
from selflearn.learning.update import Tell, run


def _end_with_the_daemon() -> None:
    """Blocks until standard input closes, then ends the process: an orphan must not go on training."""
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(75)


def _teller(folder: Path) -> Tell:
    file = (folder / "progress.jsonl").open("a", encoding="utf-8", buffering=1)

    def tell(phase: str, **numbers: Any) -> None:
        file.write(json.dumps({"at": time.time(), "phase": phase, **numbers}) + "\n")

    return tell


def main() -> int:
    folder = Path(sys.argv[1])
    threading.Thread(target=_end_with_the_daemon, daemon=True).start()
    job = read_job(folder)
    os.nice(job.learning.niceness)
    if job.learning.threads:
        torch.set_num_threads(job.learning.threads)
    torch.manual_seed(job.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time only
    try:
        report = run(job, folder, _teller(folder))
    except SelflearnError as error:
        report = {"error": str(error)}
    part = folder / "report.json.part"
    part.write_text(json.dumps(report), encoding="utf-8")
    part.replace(folder / "report.json")
    return 1 if "error" in report else 0


if __name__ == "__main__":
    sys.exit(main())
