"""Tells a service manager how the daemon is doing, as systemd's sd_notify(3) has it: a datagram to NOTIFY_SOCKET.

Without that variable nobody asked, and nothing is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

MICROSECOND: Final = 1e-6
#: How often the status is told to a manager that keeps no watchdog.
STATUS_SECONDS: Final = 30.0
SEND_SECONDS: Final = 0.5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Whoever started the daemon: its socket ("" for nobody) and after how long a silence it gives the daemon up.

    ``watchdog_seconds`` is 0 if it never does.
    """

    address: str = ""
    watchdog_seconds: float = 0.0
    clock: Callable[[], float] = field(default=time.monotonic)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Supervisor:
        """The one that the environment names; its watchdog counts only if it is meant for this process."""
        microseconds = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        seconds = int(microseconds) * MICROSECOND if meant and microseconds.isdigit() else 0.0
        return cls(environment.get("NOTIFY_SOCKET", ""), seconds)

    def ready(self, status: str) -> None:
        """The daemon serves, or has taken its settings anew."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Settings are being taken anew; :meth:`ready` follows, whatever comes of it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={int(self.clock() / MICROSECOND)}")

    def stopping(self, status: str) -> None:
        self._tell("STOPPING=1", f"STATUS={status}")

    def alive(self, status: str) -> None:
        self._tell("WATCHDOG=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        self._tell(f"STATUS={status}")

    def _tell(self, *assignments: str) -> None:
        if not self.address:
            return
        # "@" stands for the zero byte of an abstract name
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifying:
                notifying.settimeout(SEND_SECONDS)  # a manager that reads nothing must not stop the daemon
                notifying.connect(address)
                notifying.sendall("\n".join(assignments).encode())
        except OSError as error:
            logger.warning("the service manager at NOTIFY_SOCKET cannot be told %s: %s", assignments[0], error)


@contextlib.asynccontextmanager
async def supervised(
    supervisor: Supervisor, pulse: Callable[[], Future[None]], status: Callable[[], str]
) -> AsyncIterator[None]:
    """Feeds the watchdog twice in its time, as long as the event loop turns and the engine comes by.

    ``pulse`` asks the engine for a sign of life; while it owes one, the watchdog gets nothing.
    """
    feeding = asyncio.create_task(_feed(supervisor, pulse, status)) if supervisor.address else None
    try:
        yield
    finally:
        if feeding is not None:
            feeding.cancel()


async def _feed(supervisor: Supervisor, pulse: Callable[[], Future[None]], status: Callable[[], str]) -> None:
    while True:
        beat = pulse()
        await asyncio.sleep(supervisor.watchdog_seconds / 2 if supervisor.watchdog_seconds else STATUS_SECONDS)
        if not beat.done():
            logger.warning("the engine has not come by for half of the watchdog's time")
            await asyncio.wait([asyncio.wrap_future(beat)])
        if beat.cancelled():
            logger.error("the engine is gone; the watchdog gets no sign of life any more")
        elif supervisor.watchdog_seconds:
            supervisor.alive(status())
        else:
            supervisor.status(status())
