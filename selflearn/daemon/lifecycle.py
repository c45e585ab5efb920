"""From settings to a running daemon, and from a signal to a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import uvicorn
from apscheduler.schedulers.background import BackgroundScheduler
from starlette.applications import Starlette

from selflearn import overview
from selflearn.api.app import create_app
from selflearn.api.connections import server_config
from selflearn.api.keyring import Keyring
from selflearn.api.services import Services
from selflearn.api.tls import certificate, server_options
from selflearn.config import Settings
from selflearn.daemon.composition import Daemon, composed
from selflearn.daemon.rebuilding import TRIGGER, Rebuilding
from selflearn.daemon.reloading import Reloading, keyring_of
from selflearn.daemon.supervision import Supervisor, supervised
from selflearn.daemon.updates import Updates
from selflearn.errors import ConfigurationError, SelflearnError
from selflearn.experience.keeping.retention import retain
from selflearn.monitoring import configure
from selflearn.monitoring.tracing import Tracing, tracing
from selflearn.restore import finish_restore
from selflearn.store.directory import hold_state
from selflearn.versions import version_name
from selflearn.versions.retention import prune

FIRST_LOOK_SECONDS = 5.0
#: After a start others have more to do. A daemon that is started every day still keeps its limits.
FIRST_RETENTION_SECONDS = 300.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Access:
    """What stands around the HTTP interface: whom it lets in, what encrypts it, who is told of its requests."""

    keyring: Keyring | None
    tls: ssl.SSLContext | None
    traces: Tracing | None


def run(settings: Settings, now: Callable[[], float] = time.time, reread: Callable[[], Settings] | None = None) -> int:
    """Serves until a signal; returns the exit code: 0 after a clean end, 1 if it could not start or broke.

    SIGHUP takes settings anew (see :mod:`selflearn.daemon.reloading`), from those that ``reread`` returns.
    """
    if not os.isatty(0):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it is listened to: it must not end what is starting
    try:
        configure(settings.logging)
        keyring, tls = keyring_of(settings.serving.host, settings.api), certificate(settings.api)
        with _address(settings) as listening, hold_state(settings.state) as state, tracing(os.environ) as traces:
            finish_restore(state)  # one that was killed on its way
            access = Access(keyring, tls, traces)
            asyncio.run(_serve(settings, access, state, listening, now, reread or (lambda: settings)))
    except SelflearnError as error:
        print(f"selflearn: {error}", file=sys.stderr)
        return 1
    return 0


@contextlib.contextmanager
def _address(settings: Settings) -> Iterator[socket.socket]:
    """Takes the port before anything slow happens, so that a port in use is told at once."""
    serving = settings.serving
    family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
    # asyncio sends small pieces at once (TCP_NODELAY) only on sockets that name their protocol: else tokens wait for it
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it: what was sent last and is never read, or went to a machine that is gone, is given up.
        milliseconds = int(settings.api.send_timeout_seconds * 1000)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
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


async def _serve(
    settings: Settings,
    access: Access,
    state: Path,
    listening: socket.socket,
    now: Callable[[], float],
    reread: Callable[[], Settings],
) -> None:
    async with composed(settings, state, now, access.traces) as daemon:
        host, port = listening.getsockname()[:2]
        app = create_app(replace(daemon.services, keyring=access.keyring), access.traces)
        supervisor, status = Supervisor.of(os.environ), functools.partial(_status, daemon)
        server = _server(app, settings.serving.drain_seconds, access.tls, lambda: supervisor.ready(status()))
        reloading = Reloading(app, daemon.in_force, access.tls, reread)
        _listen_to_signals(
            server, daemon.updates, functools.partial(_reload, reloading, supervisor, status), supervisor
        )
        scheduler = _scheduler(daemon.updates, settings)
        _keep_limits(scheduler, daemon.services)
        _rebuilding(daemon).begin(scheduler)
        follower = asyncio.create_task(daemon.rollouts.follow_forever())
        watcher = asyncio.create_task(daemon.watchdog.watch_forever())
        scheme = "http" if access.tls is None else "https"
        _say_hello(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}", app.state.services, settings)
        try:
            async with supervised(supervisor, daemon.pulse, status):
                await server.serve(sockets=[listening])
        finally:
            scheduler.shutdown(wait=False)
            follower.cancel()
            watcher.cancel()


class _Server(uvicorn.Server):
    """Leaves the signals to the daemon: a worker has to end as well, and a second SIGTERM has to end all.

    ``on_ready`` is called once it takes requests.
    """

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(app: Starlette, drain_seconds: float, tls: ssl.SSLContext | None, on_ready: Callable[[], None]) -> _Server:
    config = server_config(app, timeout_graceful_shutdown=int(drain_seconds) + 1, **server_options(tls))
    return _Server(config, on_ready)


def _status(daemon: Daemon) -> str:
    """What the daemon does, in a line for the service manager."""
    traffic = daemon.services.traffic
    served = "nothing" if traffic.current is None else version_name(traffic.current.version)
    learning = "an update runs" if daemon.updates.is_running() else "no update runs"
    return f"serves {served}; {traffic.running} requests run, {traffic.waiting} wait; {learning}"


def _reload(reloading: Reloading, supervisor: Supervisor, status: Callable[[], str]) -> None:
    supervisor.reloading()
    taken = reloading.reload()
    supervisor.ready(status() if taken else "settings not reloaded, the log says why; " + status())


def _listen_to_signals(server: _Server, updates: Updates, reload: Callable[[], None], supervisor: Supervisor) -> None:
    """The first SIGTERM or SIGINT ends gracefully, a second one at once.

    SIGHUP reloads; that of a terminal that was closed ends, too.
    """
    on_terminal = os.isatty(0)

    def on_signal(number: signal.Signals) -> None:
        if server.should_exit:
            logger.warning("second signal: ending at once")
            updates.kill_worker()
            os._exit(128 + number)
        logger.info("signal %s: finishing what is in flight; a second signal ends at once", number.name)
        supervisor.stopping("requests in flight are finished")
        server.should_exit = True
        updates.interrupt()

    def on_hangup() -> None:
        if on_terminal and not os.isatty(0):
            on_signal(signal.SIGHUP)
        else:
            reload()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)


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


def _keep_limits(scheduler: BackgroundScheduler, services: Services) -> None:
    """Deletes daily what is too old or too much: of the data if there is a limit, and of the versions."""
    data = services.experience.keep_days or services.experience.max_megabytes
    for job in (_retain, _prune) if data else (_prune,):
        scheduler.add_job(
            job,
            "interval",
            args=(services,),
            days=1,
            misfire_grace_time=None,
            coalesce=True,
            max_instances=1,
            next_run_time=datetime.now().astimezone() + timedelta(seconds=FIRST_RETENTION_SECONDS),
        )


def _rebuilding(daemon: Daemon) -> Rebuilding:
    services = daemon.services
    return Rebuilding(
        store=services.store,
        learner=services.learner,
        judging=daemon.in_force.judging,
        running=daemon.updates.is_running,
        start=lambda: daemon.updates.learn_now(TRIGGER),
        now=services.now,
    )


def _retain(services: Services) -> None:
    done = retain(services.store, services.learner, services.experience, services.now)
    log = logger.info if done.fits else logger.warning
    log("retention done" if done.fits else "what is needed exceeds max_megabytes", extra={"fields": asdict(done)})


def _prune(services: Services) -> None:
    done = prune(services.store, services.state, services.learner, services.versions, now=services.now)
    if done.removed:
        gone = {"versions": [each.version for each in done.removed], "bytes": sum(each.bytes for each in done.removed)}
        logger.info("old versions removed", extra={"fields": gone})


def _say_hello(url: str, services: Services, settings: Settings) -> None:
    version = overview.served(services.store, services.learner)["name"]
    lines = [
        f"selflearn serves {services.model_name} ({version}) at {url}",
        f"  chat       curl {url}/v1/chat/completions -H 'content-type: application/json' \\",
        '               -d \'{"model": "selflearn", "messages": [{"role": "user", "content": "Hello!"}]}\'',
        "  or         selflearn chat            talk to it, and correct it with /fix",
        f"  learns     by itself from {settings.learning.min_examples} corrections on, or: selflearn learn now --wait",
        "  watch      selflearn status          undo: selflearn rollback",
        "  end        Ctrl-C",
    ]
    if services.keyring is not None:
        lines.append(f"  keys       {len(services.keyring.keys)}; requests need -H 'authorization: Bearer KEY'")
    print("\n".join(lines), flush=True)
