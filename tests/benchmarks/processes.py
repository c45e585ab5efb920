"""Processes that are measured: their memory and descriptors, and how to keep them still meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_DIES_WITH_US = (  # PR_SET_PDEATHSIG
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGKILL); os.execvp(sys.argv[1], sys.argv[1:])"
)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process holds. ``resident`` and ``private`` are bytes; private ones are shared with no other process."""

    resident: int
    private: int
    descriptors: int
    threads: int


def usage(pid: int) -> Usage:
    """What a process holds right now; raises ``OSError`` when it is gone."""
    process = Path("/proc") / str(pid)
    sizes = _fields((process / "smaps_rollup").read_text())
    private = sizes["Private_Clean"] + sizes["Private_Dirty"]
    descriptors, threads = (len(list((process / name).iterdir())) for name in ("fd", "task"))
    return Usage(1024 * sizes["Rss"], 1024 * private, descriptors, threads)


def _fields(text: str) -> dict[str, int]:
    """Lines such as ``Rss:  123 kB``, by name."""
    lines = (line.split() for line in text.splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) == 3 and words[2] == "kB"}


def device_memory() -> int | None:
    """Bytes in use on the first GPU, by all processes; None where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return int(found.stdout.split()[0]) << 20 if found.returncode == 0 else None


def end_in_order() -> None:
    """Makes SIGTERM end this process as Ctrl-C does: whatever it started or stopped is put right."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def dies_with_us(command: Sequence[str]) -> list[str]:
    """A command whose process is killed by the kernel when the one that starts it ends, in whatever way."""
    return [sys.executable, "-c", _DIES_WITH_US, *command]


@contextlib.contextmanager
def started(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command as a process group of its own; ends all of it. What it says goes to ``log``."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            dies_with_us(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def still(pids: Sequence[int]) -> Iterator[None]:
    """Stops processes (a negative number is a group) as long as the block lasts, so that they disturb nobody."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
