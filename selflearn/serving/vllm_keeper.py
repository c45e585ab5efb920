"""Runs a command as the head of a process group, and ends the whole group with it or with whoever holds our stdin.

``python -m selflearn.serving.vllm_keeper COMMAND...``, as the leader of a session of its own. vLLM is several
processes, and when its first one is killed the others stay, with all the memory of the model. So somebody has to be
there who notices: when the command ends, and when the pipe to our standard input closes, which the kernel sees to
however the daemon dies.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

GRACE_SECONDS = 15.0  # vLLM frees its shared memory in two or three
POLL_SECONDS = 0.5
PR_SET_PDEATHSIG = 1


def main(command: Sequence[str]) -> None:
    """Does not return: in the end it kills its own group."""
    os.umask(0o077)  # its socket and its log are for nobody else
    signal.signal(signal.SIGTERM, _stay)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent)
    while child.poll() is None and not _daemon_is_gone():
        pass
    _end_group(child)


def _daemon_is_gone() -> bool:
    readable, _, _ = select.select([sys.stdin], [], [], POLL_SECONDS)
    return bool(readable) and not os.read(sys.stdin.fileno(), 1)


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Asks all processes of the group to end, waits for the first of them, and kills what is left, itself included."""
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    print(f"selflearn: the command has ended with code {child.returncode}", flush=True)
    time.sleep(POLL_SECONDS)  # the last ones tidy up after the first
    os.killpg(0, signal.SIGKILL)


def _end_with_parent() -> None:
    """Runs in the child: if this process is killed, the kernel asks the child to end."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _stay(number: int, frame: object) -> None:
    """The signal to the group reaches this process as well, which has yet to see to the others."""
    del number, frame


if __name__ == "__main__":
    main(sys.argv[1:])
