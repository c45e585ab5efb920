"""Daemons that start quickly: forked from a server that has imported what every daemon imports first.

A process started anew spends some seconds of processor time on that. What runs is the same ``selflearn serve``, in a
process of its own that can be signalled, limited and killed.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["tests.imported_by_daemons"])


class ForkedDaemon:
    """What tests ask of a process, in :class:`subprocess.Popen`'s words."""

    def __init__(
        self, arguments: list[str], log: Path, environment: Mapping[str, str], directory: Path, before: str = ""
    ) -> None:
        """``before`` is Python that the process runs before anything else."""
        given = arguments, log, dict(environment), directory, before
        self._process = _FORKING.Process(target=_serve, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code (negative: the signal that ended it); None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("selflearn serve", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _serve(arguments: list[str], log: Path, environment: dict[str, str], directory: Path, before: str) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    with log.open("ab") as output, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.argv = ["selflearn", *arguments]
    exec(before, {})
    from selflearn.cli.main import main

    main()
