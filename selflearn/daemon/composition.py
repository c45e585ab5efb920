"""Puts the rooms together around one state directory, and takes them apart again."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selflearn.api.services import Activity, Services
from selflearn.config import ServingSettings, Settings
from selflearn.daemon.engines import running_engine
from selflearn.daemon.event_files import EventFiles
from selflearn.daemon.gauges import show_past, show_refusals
from selflearn.daemon.in_force import InForce
from selflearn.daemon.jobs import Base
from selflearn.daemon.probing import AnchorProbe
from selflearn.daemon.rollouts import Rollouts
from selflearn.daemon.running import Running
from selflearn.daemon.updates import Updates
from selflearn.daemon.watchdog import Watchdog
from selflearn.experience import check_detector, check_languages, prepare_near_duplicates
from selflearn.judging.anchor_probe import TOLERANCES
from selflearn.judging.canary_prompts import CanaryPrompt, load_canaries
from selflearn.models.library import prepare
from selflearn.monitoring import Metrics
from selflearn.monitoring.tracing import Tracing
from selflearn.serving import Engine, Traffic
from selflearn.store import Store, database_path
from selflearn.versions import ensure_learner, reconcile
from selflearn.versions.alarms import why_cooling

if TYPE_CHECKING:
    from selflearn.models.base import LoadedBase

KEEP_RESIDENT = 1

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Daemon:
    """The rooms in service."""

    services: Services
    rollouts: Rollouts
    updates: Updates
    watchdog: Watchdog
    in_force: InForce
    pulse: Callable[[], Future[None]]  # of the engine


@contextlib.asynccontextmanager
async def composed(
    settings: Settings, state: Path, now: Callable[[], float] = time.time, tracing: Tracing | None = None
) -> AsyncIterator[Daemon]:
    """A daemon that serves already, and learns when asked; in the end its worker, traffic and store are closed."""
    await asyncio.to_thread(check_detector, settings.experience)
    await asyncio.to_thread(check_languages, settings.experience)
    await asyncio.to_thread(prepare_near_duplicates)
    canaries = await asyncio.to_thread(load_canaries, settings.judging.canary_file)
    metrics = Metrics()
    in_force = InForce(settings)
    store = Store.open(database_path(state), now, on_write_error=metrics.store_write_errors.inc)
    try:
        base = await asyncio.to_thread(_load_base, settings.serving, state)
        await asyncio.to_thread(_check_canaries, canaries, base, settings.judging.answer_tokens)
        _put_in_order(store, settings, state, base, now)
        async with running_engine(settings, state, base) as engine:
            rollouts, traffic = _rollouts(store, settings, state, base, engine, metrics, now)
            await rollouts.follow()
            gc.collect()
            gc.freeze()  # what is loaded stays: no later collection has to look at it again
            activity = Activity(now)
            updates = _updates(store, in_force, state, base, rollouts, metrics, activity, canaries, tracing, now)
            services = _services(store, settings, state, base, traffic, rollouts, updates, metrics, activity, now)
            _show_learning(metrics, store, settings, updates)
            watchdog = _watchdog(store, in_force, state, base, rollouts, traffic, metrics, now)
            try:
                yield Daemon(services, rollouts, updates, watchdog, in_force, engine.pulse)
            finally:
                await asyncio.to_thread(updates.stop)
                await traffic.close()
    finally:
        store.close()


def _show_learning(metrics: Metrics, store: Store, settings: Settings, updates: Updates) -> None:
    """Sets what metrics tell of learning: once what is known from before, and the present whenever they are read."""
    show_past(metrics, store, settings.learner)
    metrics.examples_needed.set(settings.learning.min_examples)

    def present() -> None:
        metrics.update_running.set(updates.is_running())
        metrics.worker_alive.set(updates.worker_alive())
        metrics.update_seconds_left.set(updates.seconds_left() or 0.0)
        show_refusals(metrics, store, settings.learner)

    metrics.before_scrape(present)


def _load_base(serving: ServingSettings, state: Path) -> LoadedBase:
    directory = prepare(serving.model, state, _log_progress)
    # torch and its friends take seconds to import: what stands in the way of a start is told before
    import torch

    from selflearn.models.base import load_base

    # The engine computes in a thread of its own, and only there with several cores. Teams of OpenMP threads stay with
    # the thread that first needed them, and once there are more of them than cores they no longer wait well.
    torch.set_num_threads(1)
    weights = serving.engine == "transformers"  # vLLM loads them in a process of its own
    return load_base(directory.resolve(), device=serving.device, dtype=serving.dtype, weights=weights)


def _check_canaries(canaries: Sequence[CanaryPrompt], base: LoadedBase, answer_tokens: int) -> None:
    if canaries:
        from selflearn.learning.evidence import check_canaries

        check_canaries(canaries, base, answer_tokens)


def _put_in_order(store: Store, settings: Settings, state: Path, base: LoadedBase, now: Callable[[], float]) -> None:
    """Checks that the learner has this base, and tidies up after a daemon that did not end cleanly."""
    store.write(
        lambda connection: ensure_learner(
            connection, settings.learner, base_model=base.name, base_sha256=base.sha256, now=now
        )
    )
    found = reconcile(store, state, settings.learner, now)
    if found.interrupted or found.removed or found.damaged:
        logger.warning("the last daemon did not end cleanly", extra={"fields": {"found": found}})


def _rollouts(
    store: Store,
    settings: Settings,
    state: Path,
    base: LoadedBase,
    engine: Engine,
    metrics: Metrics,
    now: Callable[[], float],
) -> tuple[Rollouts, Traffic]:
    serving = settings.serving
    traffic = Traffic(
        base.tokenizer,
        max_waiting=serving.max_waiting_requests,
        drain_seconds=serving.drain_seconds,
        keep=KEEP_RESIDENT,
    )
    rollouts = Rollouts(
        store=store,
        learner=settings.learner,
        state=state,
        engine=engine,
        traffic=traffic,
        metrics=metrics,
        now=now,
    )
    return rollouts, traffic


def _updates(
    store: Store,
    in_force: InForce,
    state: Path,
    base: LoadedBase,
    rollouts: Rollouts,
    metrics: Metrics,
    activity: Activity,
    canaries: Sequence[CanaryPrompt],
    tracing: Tracing | None,
    now: Callable[[], float],
) -> Updates:
    settings = in_force.settings
    event_files = EventFiles(store, settings.learner, state, settings.monitoring.tensorboard_updates)
    return Updates(
        store=store,
        learner=settings.learner,
        state=state,
        base=Base(base.name, base.path, base.sha256, str(base.device), settings.serving.dtype),
        learning=settings.learning,
        judging=in_force.judging,
        rollouts=rollouts,
        metrics=metrics,
        idle_seconds=lambda: activity.idle_seconds,
        longest_wait=activity.take_longest_wait,
        loop=asyncio.get_running_loop(),
        canaries=canaries,
        on_end=functools.partial(_tell_of_end, event_files, tracing),
        cooling=lambda: why_cooling(store, settings.learner, in_force.watchdog().cooldown_seconds, now),
        now=now,
    )


def _tell_of_end(event_files: EventFiles, tracing: Tracing | None, running: Running, outcome: str, at: float) -> None:
    event_files.write(running.update)
    if tracing is not None and running.steps:
        numbers = {f"selflearn.{name}": value for name, value in running.counted().items()}
        tracing.update(running.steps, at, {**numbers, "selflearn.outcome": outcome})


def _watchdog(
    store: Store,
    in_force: InForce,
    state: Path,
    base: LoadedBase,
    rollouts: Rollouts,
    traffic: Traffic,
    metrics: Metrics,
    now: Callable[[], float],
) -> Watchdog:
    tolerance = TOLERANCES[str(base.model.dtype).removeprefix("torch.")]
    settings = in_force.settings
    return Watchdog(
        store=store,
        learner=settings.learner,
        state=state,
        settings=in_force.watchdog,
        experience=settings.experience,
        rollouts=rollouts,
        probe=AnchorProbe(traffic, base.tokenizer, tolerance=tolerance),
        metrics=metrics,
        now=now,
    )


def _services(
    store: Store,
    settings: Settings,
    state: Path,
    base: LoadedBase,
    traffic: Traffic,
    rollouts: Rollouts,
    updates: Updates,
    metrics: Metrics,
    activity: Activity,
    now: Callable[[], float],
) -> Services:
    from selflearn.models.base import context_length
    from selflearn.models.chat import stop_ids

    return Services(
        store=store,
        learner=settings.learner,
        state=state,
        traffic=traffic,
        tokenizer=base.tokenizer,
        stop_ids=stop_ids(base.tokenizer, base.model),
        context_length=context_length(base.model),
        model_name=base.name,
        metrics=metrics,
        learning=updates,
        rollouts=rollouts,
        serving=settings.serving,
        api=settings.api,
        experience=settings.experience,
        versions=settings.versions,
        now=now,
        activity=activity,
        started_at=now(),
    )


def _log_progress(step: str, share: float) -> None:
    logger.info("preparing the model", extra={"fields": {"step": step, "share": share}})
