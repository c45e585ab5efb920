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
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import uvicorn
from apscheduler.schedulers.background import BackgroundScheduler

from selflearn import overview
from selflearn.api.app import create_app
from selflearn.api.services import Activity, Services
from selflearn.config import ServingSettings, Settings
from selflearn.daemon.rollouts import Rollouts
from selflearn.daemon.updates import Base, Updates
from selflearn.errors import ConfigurationError, SelflearnError, StateError, StateInUse
from selflearn.experience import counts
from selflearn.models.library import prepare
from selflearn.monitoring import Metrics, configure
from selflearn.serving import Traffic
from selflearn.store import Store, database_path
from selflearn.versions import ensure_learner, reconcile

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
    async with _composed(settings, state, now) as daemon:
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


@dataclass(frozen=True, slots=True)
class _Daemon:
    services: Services
    rollouts: Rollouts
    updates: Updates


@contextlib.asynccontextmanager
async def _composed(settings: Settings, state: Path, now: Callable[[], float]) -> AsyncIterator[_Daemon]:
    """Puts the rooms together around one state directory, serving already; takes them apart in the end."""
    from selflearn.models.base import context_length, load_base
    from selflearn.models.chat import stop_ids
    from selflearn.serving.transformers_engine import EngineOptions, TransformersEngine

    serving, metrics = settings.serving, Metrics()
    if serving.threads:
        import torch

        torch.set_num_threads(serving.threads)
    store = Store.open(database_path(state), now, on_write_error=metrics.store_write_errors.inc)
    try:
        directory = await asyncio.to_thread(prepare, serving.model, state, _log_progress)
        loaded = await asyncio.to_thread(load_base, directory, device=serving.device, dtype=serving.dtype)
        store.write(
            lambda c: ensure_learner(c, settings.learner, base_model=loaded.name, base_sha256=loaded.sha256, now=now)
        )
        found = reconcile(store, state, settings.learner, now)
        if found.interrupted or found.removed or found.damaged:
            logger.warning("the last daemon did not end cleanly", extra={"fields": {"found": found}})
        options = EngineOptions(serving.cache_tokens, serving.max_concurrent_requests)
        traffic = Traffic(
            loaded.tokenizer,
            max_waiting=serving.max_waiting_requests,
            drain_seconds=serving.drain_seconds,
            keep=KEEP_RESIDENT,
        )
        activity = Activity(now)
        rollouts = Rollouts(
            store=store,
            learner=settings.learner,
            state=state,
            engine=TransformersEngine(loaded, options),
            traffic=traffic,
            metrics=metrics,
            now=now,
        )
        await rollouts.follow()
        updates = Updates(
            store=store,
            learner=settings.learner,
            state=state,
            base=Base(loaded.name, directory.resolve(), loaded.sha256, str(loaded.device), serving.dtype),
            learning=settings.learning,
            judging=settings.judging,
            rollouts=rollouts,
            metrics=metrics,
            idle_seconds=lambda: activity.idle_seconds,
            loop=asyncio.get_running_loop(),
            now=now,
        )
        services = Services(
            store=store,
            learner=settings.learner,
            state=state,
            traffic=traffic,
            tokenizer=loaded.tokenizer,
            stop_ids=stop_ids(loaded.tokenizer, loaded.model),
            context_length=context_length(loaded.model),
            model_name=loaded.name,
            metrics=metrics,
            learning=updates,
            rollouts=rollouts,
            serving=serving,
            api=settings.api,
            judging=settings.judging,
            now=now,
            activity=activity,
            started_at=now(),
        )
        _refresh_gauges(services, updates)
        try:
            yield _Daemon(services, rollouts, updates)
        finally:
            await asyncio.to_thread(updates.stop)
            await traffic.close()
    finally:
        store.close()


def _refresh_gauges(services: Services, updates: Updates) -> None:
    metrics = services.metrics

    def refresh() -> None:
        metrics.requests_running.set(services.traffic.running)
        metrics.requests_waiting.set(services.traffic.waiting)
        metrics.worker_alive.set(updates.worker_alive())
        metrics.set_examples(counts(services.store, services.learner)["examples"])

    metrics.before_scrape(refresh)


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
        updates.cancel("the daemon stopped")

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


def _log_progress(step: str, share: float) -> None:
    logger.info("preparing the model", extra={"fields": {"step": step, "share": share}})


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
