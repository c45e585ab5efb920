"""A vLLM server under watch: one that runs already somewhere, or one of our own that is started again when it dies.

One thread looks after it. Whoever has something loaded in it subscribes, and is called in that thread each time the
server is back, before anybody else may ask it anything.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from selflearn.errors import EngineError, EngineUnavailable, SelflearnError
from selflearn.serving.vllm_client import Address, Client

POLL_SECONDS = 1.0
HUNG_SECONDS = 60.0  # a server of our own that is not healthy for so long is ended and started again
END_SECONDS = 25.0  # more than its keeper takes
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0
LOG_TAIL = 600
LOG_BYTES = 16 * 1024 * 1024  # a longer log is put aside at the next start

_ERROR = re.compile(r"(?:\w*(?:Error|Exception)|error): .+")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server: the command, all of its environment, and the file that takes what it says."""

    command: tuple[str, ...]
    environment: dict[str, str]
    log: Path


class VLLMServer:
    """One server. ``launch`` None: somebody else runs it."""

    def __init__(self, address: Address, launch: Launch | None = None, *, start_seconds: float = 600.0) -> None:
        self.address = address
        self.client = Client(address)
        self._launch = launch
        self._start_seconds = start_seconds
        self._listeners: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._run, name="vllm", daemon=True)
        self._wake = threading.Event()
        self._settled = threading.Event()  # it came up for the first time, or cannot
        self._closing = False
        self._up = False
        self._problem = "It has not been started yet."
        self._process: subprocess.Popen[bytes] | None = None
        self._began = self._well = 0.0  # when this process (or the watch) began, when it was last healthy
        self._delay = FIRST_DELAY
        self._log_start = 0

    @property
    def up(self) -> bool:
        """Whether it can be asked now, with everything loaded that was."""
        return self._up

    @property
    def process_id(self) -> int | None:
        """The process that keeps a server of our own, and leads the process group of all that belongs to it."""
        return self._process.pid if self._process is not None else None

    def expect_up(self) -> None:
        """Raises ``EngineUnavailable`` with the reason while the server is away."""
        if not self._up:
            raise EngineUnavailable(f"vLLM is away and expected back. {self._problem} Try again in some seconds.")

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Calls ``listener`` in the watching thread each time the server came up; if it raises, that is tried again."""
        self._listeners.append(listener)

    def suspect(self) -> None:
        """Somebody saw it fail: it counts as away until it has been looked at, which happens at once."""
        self._up = False
        self._wake.set()

    def start(self) -> None:
        """Returns once it is up. Blocking; raises ``EngineError`` with the end of its log when it does not come up."""
        self._thread.start()
        self._settled.wait()
        if not self._up:
            problem = self._problem
            self.close()
            raise EngineError(problem)

    def close(self) -> None:
        """Ends the watch, and the server if it is our own. Blocking; harmless when it is done."""
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self.client.close()

    def _run(self) -> None:
        self._began = self._well = time.monotonic()
        next_start = self._began
        while not self._closing:
            if self._launch is not None and self._process is None and time.monotonic() >= next_start:
                self._spawn(self._launch)
            if self._has_ended():
                next_start = time.monotonic() + self._bury()
            else:
                self._look()
            self._wake.wait(POLL_SECONDS)
            self._wake.clear()
        self._up = False
        self._end_process()
        self._settled.set()

    def _spawn(self, launch: Launch) -> None:
        self._unlink_socket()
        if launch.log.is_file() and launch.log.stat().st_size > LOG_BYTES:
            launch.log.replace(launch.log.with_suffix(".log.1"))
        with launch.log.open("ab") as output:
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "selflearn.serving.vllm_keeper", *launch.command],
                stdin=subprocess.PIPE,  # its end of file tells the keeper that the daemon is gone
                stdout=output,
                stderr=subprocess.STDOUT,
                env=launch.environment,
                start_new_session=True,  # a Ctrl-C on the daemon's terminal is the daemon's to handle
            )
        self._began = self._well = time.monotonic()

    def _look(self) -> None:
        """Asks the server how it is, and makes that known."""
        if self._launch is not None and self._process is None:
            return
        if self.client.healthy():
            self._well = time.monotonic()
            if not self._up:
                self._come_up()
            return
        if self._launch is None:
            self._away(f"vLLM at {self.address} is not healthy.")
        elif time.monotonic() - self._well > self._patience:
            self._away(f"vLLM was not healthy for {time.monotonic() - self._well:.0f} s, and is ended. {self._told()}")
            self._end_process()

    @property
    def _patience(self) -> float:
        """How long the process may be unhealthy: some servers take minutes to start, but none to answer."""
        return HUNG_SECONDS if self._well > self._began else self._start_seconds

    def _come_up(self) -> None:
        try:
            for listener in self._listeners:
                listener()
        except SelflearnError as error:
            self._problem = str(error)
            logger.warning("vLLM is back, but not as it was: %s", error)
            return
        self._up = True
        logger.info("vLLM is up", extra={"fields": {"seconds": round(time.monotonic() - self._began, 1)}})
        self._settled.set()

    def _away(self, problem: str) -> None:
        if self._up:
            logger.error("%s", problem)
        self._up, self._problem = False, problem
        if self._launch is not None or time.monotonic() - self._began > self._start_seconds:
            self._settled.set()

    def _has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def _bury(self) -> float:
        """Takes note of a process that ended; returns how long to wait before the next one, more each time."""
        self._end_process()
        if time.monotonic() - self._began > LONGEST_DELAY:
            self._delay = FIRST_DELAY
        delay, self._delay = self._delay, min(2 * self._delay, LONGEST_DELAY)
        self._away(f"vLLM has ended. {self._told()}")
        logger.error("vLLM has ended and starts again", extra={"fields": {"delay_seconds": delay}})
        return delay

    def _end_process(self) -> None:
        """Lets the keeper end everything, and sees to it that nothing is left."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._unlink_socket()

    def _unlink_socket(self) -> None:
        if self.address.socket is not None:
            self.address.socket.unlink(missing_ok=True)

    def _told(self) -> str:
        """The first errors in the log of this process, where their cause is, else the end of it."""
        if self._launch is None:
            return ""
        with self._launch.log.open("rb") as log:
            log.seek(self._log_start)
            text = log.read(LOG_BYTES).decode("utf-8", errors="replace")
        lines = (line for line in text.splitlines() if " INFO " not in line and " WARNING " not in line)
        found = (match[0].strip() for line in lines if (match := _ERROR.search(line)))
        errors = " ".join(list(dict.fromkeys(found))[:2])
        return f"{errors or text[-LOG_TAIL:].strip()} All that it said is in {self._launch.log}."
