"""From settings to a running daemon, and from a signal to a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import uvicorn
from apscheduler.schedulers.background import BackgroundScheduler

from selflearn import overview
from selflearn.api.app import create_app
from selflearn.api.services import Services
from selflearn.config import ServingSettings, Settings
from selflearn.daemon.composition import composed
from selflearn.daemon.updates import Updates
from selflearn.errors import ConfigurationError, SelflearnError, StateError, StateInUse
from selflearn.monitoring import configure

LOOPBACK = ("127.0.0.1", "::1", "localhost")
KEEP_RESIDENT = 1
FIRST_LOOK_SECONDS = 5.0

logger = logging.getLogger(__name__)


def run(settings: Settings, now: Callable[[], float] = time.time) -> int:
    """Serves until a signal; returns the exit code: 0 after a clean end, 1 if it could not start or broke."""
    configure(settings.logging.level, settings.logging.format)
    try:
        with _address(settings.serving) as listening, _state_directory(settings.state) as state:
            asyncio.run(_serve(settings, state, listening, now))
    except SelflearnError as error:
        print(f"selflearn: {error}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def _address(serving: ServingSettings) -> Iterator[socket.socket]:
    """Takes the port before anything slow happens, so that a port in use is told at once."""
    if serving.host not in LOOPBACK:
        raise ConfigurationError(
            f"serving.host is {serving.host!r}, but requests need no key yet: only a loopback address "
            f"({', '.join(LOOPBACK)}) is safe. Put a reverse proxy with authentication before it."
        )
    family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((serving.host, serving.port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise ConfigurationError(
            f"Cannot listen on {serving.host}:{serving.port}: {error.strerror}. Stop what uses it (another daemon?), "
            "or choose another port with --port."
        ) from error
    with listening:
        yield listening


@contextlib.contextmanager
def _state_directory(state: Path) -> Iterator[Path]:
    """Creates the directory if need be and holds it for this process alone."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = (state / "daemon.lock").open("a+", encoding="ascii")
    except OSError as error:
        raise StateError(
            f"The state directory {state} cannot be used: {error}. Give a writable one to --state."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise StateInUse(
                f"Another daemon (process {holder}) uses the state directory {state}. Stop it first, or give another "
                "directory to --state."
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield state.resolve()


async def _serve(settings: Settings, state: Path, listening: socket.socket, now: Callable[[], float]) -> None:
    async with composed(settings, state, now) as daemon:
        host, port = listening.getsockname()[:2]
        server = _server(daemon.services, settings.serving)
        _listen_to_signals(server, daemon.updates)
        scheduler = _scheduler(daemon.updates, settings)
        follower = asyncio.create_task(daemon.rollouts.follow_forever())
        _say_hello(f"http://{f'[{host}]' if ':' in host else host}:{port}", daemon.services, settings)
        try:
            await server.serve(sockets=[listening])
        finally:
            scheduler.shutdown(wait=False)
            follower.cancel()


class _Server(uvicorn.Server):
    """Leaves the signals to the daemon: a worker has to end as well, and a second SIGTERM has to end all."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(services: Services, serving: ServingSettings) -> _Server:
    return _Server(
        uvicorn.Config(
            create_app(services),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=int(serving.drain_seconds) + 1,
        )
    )


def _listen_to_signals(server: _Server, updates: Updates) -> None:
    """The first SIGTERM or SIGINT ends gracefully, a second one at once."""

    def on_signal(number: signal.Signals) -> None:
        if server.should_exit:
            logger.warning("second signal: ending at once")
            updates.kill_worker()
            os._exit(128 + number)
        logger.info("signal %s: finishing what is in flight; a second signal ends at once", number.name)
        server.should_exit = True
        updates.interrupt()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)


def _scheduler(updates: Updates, settings: Settings) -> BackgroundScheduler:
    """Looks at the trigger every ``learning.interval_seconds``; a look that comes late is taken, two are one."""
    interval = settings.learning.interval_seconds
    scheduler = BackgroundScheduler(timezone="UTC")
    scheduler.add_job(
        updates.tick,
        "interval",
        seconds=interval,
        misfire_grace_time=None,
        coalesce=True,
        max_instances=1,
        next_run_time=datetime.now().astimezone() + timedelta(seconds=min(interval, FIRST_LOOK_SECONDS)),
    )
    scheduler.start()
    return scheduler


def _say_hello(url: str, services: Services, settings: Settings) -> None:
    version = overview.served(services.store, services.learner)["name"]
    lines = (
        f"selflearn serves {services.model_name} ({version}) at {url}",
        f"  chat       curl {url}/v1/chat/completions -H 'content-type: application/json' \\",
        '               -d \'{"model": "selflearn", "messages": [{"role": "user", "content": "Hello!"}]}\'',
        "  or         selflearn chat            talk to it, and correct it with /fix",
        f"  learns     by itself from {settings.learning.min_examples} corrections on, or: selflearn learn now --wait",
        "  watch      selflearn status          undo: selflearn rollback",
        "  end        Ctrl-C",
    )
    print("\n".join(lines), flush=True)
