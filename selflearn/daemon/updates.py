"""One update, from the trigger to the verdict and what follows from it.

snapshot → job → worker → measurements → verdict → (sealed, proven, registered, served) or (closed, with the numbers).
Everything that a client or an operator sees stays as it was until the last step, which is one transaction.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from selflearn import overview
from selflearn.config import JudgingSettings, LearningSettings
from selflearn.daemon.gauges import show_progress, show_verdict
from selflearn.daemon.jobs import Base, make_job
from selflearn.daemon.preemption import Preemption
from selflearn.daemon.rebuilding import open_update_for
from selflearn.daemon.rollouts import Rollouts
from selflearn.daemon.running import Running
from selflearn.daemon.steps import (
    Sealed,
    closing,
    judge,
    keep_candidate,
    register_sealed,
    seal_candidate,
)
from selflearn.errors import Conflict, NotEnoughExamples, SelflearnError, UpdateError, UpdateRunning, WorkerFailed
from selflearn.experience import funnel, new_examples, why_not
from selflearn.failpoints import reach
from selflearn.judging import Verdict
from selflearn.judging.canary_prompts import CanaryPrompt
from selflearn.learning.forecast import Forecast, Speed, phase_of, work_of
from selflearn.learning.job import write_job
from selflearn.learning.process import Cancelled, Worker
from selflearn.learning.trigger import Situation, reason_to_wait
from selflearn.monitoring import Metrics
from selflearn.store import Store
from selflearn.versions import close_update, held, work_directory
from selflearn.versions.files import remove_tree
from selflearn.versions.outcomes import past_of
from selflearn.versions.pins import require_unheld
from selflearn.versions.rebuilds import open_rebuild, rebuild_status, waiting_words
from selflearn.versions.registry import ClosedState

logger = logging.getLogger(__name__)


class Updates:
    """Starts updates, one at a time, and tells how they are doing. Thread-safe; implements ``LearningControl``."""

    def __init__(
        self,
        *,
        store: Store,
        learner: str,
        state: Path,
        base: Base,
        learning: LearningSettings,
        judging: Callable[[], JudgingSettings],
        rollouts: Rollouts,
        metrics: Metrics,
        idle_seconds: Callable[[], float],
        longest_wait: Callable[[], float],
        loop: asyncio.AbstractEventLoop,
        canaries: Sequence[CanaryPrompt] = (),
        cooling: Callable[[], str] = str,
        on_end: Callable[[Running, str, float], None] = lambda running, outcome, at: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._learner, self._state, self._base = store, learner, state, base
        self._learning, self._judging, self._canaries = learning, judging, canaries
        self._rollouts, self._metrics = rollouts, metrics
        self._idle_seconds, self._longest_wait = idle_seconds, longest_wait
        self._loop, self._now, self._cooling = loop, now, cooling
        self._on_end = on_end  # called in the update's thread, as long as its files are there; must not raise
        self._lock = threading.Lock()
        self._running: Running | None = None
        self._not_enough: str | None = None
        self._speed: Speed | None = None  # of the last update
        self._thread: threading.Thread | None = None
        self._stopping = False

    # What operators and the schedule call

    def tick(self) -> None:
        """One look of the schedule: starts an update if it is time, else counts why not."""
        waiting = self._reason_to_wait()
        if waiting is None:
            try:
                self.learn_now("schedule")
            except UpdateRunning:
                waiting = "running", ""
            except NotEnoughExamples as error:
                waiting = error.reason, str(error)
                self._not_enough = str(error)
            except Conflict as error:  # an operator was quicker, and holds the version now
                waiting = "held", str(error)
        if waiting is not None:
            self._metrics.learning_skipped.labels(waiting[0]).inc()

    def learn_now(self, trigger: str, dry_run: bool = False) -> int:
        """Starts an update and returns its number; with ``dry_run`` it is judged and not promoted by itself.

        Raises ``UpdateRunning``, ``NotEnoughExamples``, or ``Conflict`` while an operator holds the served version.
        """
        with self._lock:
            if self._stopping:
                raise UpdateError("The daemon is stopping. Start the update when it runs again.")
            if self._running is not None:
                number = self._running.update
                raise UpdateRunning(f"Update {number} is running. Wait for it, or: selflearn learn cancel.")
            running = self._store.write(lambda connection: self._open(connection, trigger, dry_run))
            self._running, self._not_enough = running, None
            self._thread = threading.Thread(target=self._carry_out, args=(running,), name=f"update-{running.update}")
            self._thread.start()
        return running.update

    def pause(self, actor: str) -> None:
        """No update starts by itself until :meth:`resume`; one that runs goes on."""
        overview.set_paused(self._store, True, actor=actor, now=self._now)

    def resume(self, actor: str) -> None:
        overview.set_paused(self._store, False, actor=actor, now=self._now)

    def cancel(self, reason: str = "an operator cancelled it") -> bool:
        """Ends the running update; False when none runs. What is served does not change."""
        running = self._running
        if running is None:
            return False
        running.cancelled_because = reason
        if running.worker is not None:
            running.worker.cancel()
        return True

    def end_update(self, number: int, reason: str, timeout_seconds: float = 60.0) -> None:
        """See ``LearningControl.end_update``."""
        with self._lock:
            running, thread = self._running, self._thread
        if running is None or thread is None or running.update != number:
            return
        self.cancel(reason)
        thread.join(timeout_seconds)
        if thread.is_alive():
            raise UpdateRunning(
                f"Update {number} was told to end and still runs after {timeout_seconds:.0f} s. Wait, then try again."
            )

    def interrupt(self) -> None:
        """Asks the running update to end because the daemon ends; no further one starts. Returns at once."""
        self._stopping = True
        self.cancel("the daemon stopped")

    def stop(self, timeout_seconds: float = 30.0) -> None:
        """Interrupts what runs and waits for it; no further update starts."""
        with self._lock:  # an update that is just being opened is interrupted as well
            self.interrupt()
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    def kill_worker(self) -> None:
        """Ends the worker process without ceremony: the daemon is about to be gone."""
        if self._running is not None and self._running.worker is not None:
            self._running.worker.kill()

    def is_running(self) -> bool:
        """Whether an update runs, from its opening until all of it is over."""
        return self._running is not None

    def worker_alive(self) -> bool:
        running = self._running
        return running is not None and running.worker is not None and running.worker.is_alive()

    def seconds_left(self) -> float | None:
        """Of the running update; None when none runs, or when nobody can know yet."""
        running = self._running
        forecast = None if running is None else running.forecast
        return None if forecast is None else forecast.seconds_left(self._now())

    def status(self) -> dict[str, Any]:
        """See ``LearningControl.status``."""
        running = self._running
        waiting = self._reason_to_wait()
        soon = self._not_enough or "the next look of the schedule"
        found = {
            "enabled": self._learning.enabled,
            "paused": overview.is_paused(self._store),
            "waiting_for": None if running is not None else waiting[1] if waiting else soon,
            "fresh": self._new_examples()[0],
            "needed": self._learning.min_examples,
            "running": None if running is None else running.describe(self._now()),
            "last": overview.last_update(self._store, self._learner),
            "rebuild": rebuild_status(self._store.connection(), self._learner),
            "rate_factor": overview.rate_factor(self._store.connection(), self._learner, self._learning),
        }
        return {**found, "why_not": why_not(found, funnel(self._store, self._learner))}

    # When to start

    def _reason_to_wait(self) -> tuple[str, str] | None:
        new, oldest = self._new_examples()
        situation = Situation(
            running=self._running is not None,
            paused=overview.is_paused(self._store),
            new_examples=new,
            waiting_seconds=max(0.0, self._now() - oldest) if new else 0.0,
            idle_seconds=self._idle_seconds(),
            held=held(self._store.connection(), self._learner),
            cooling=self._cooling(),
            rebuilding=self._rebuilding(),
        )
        return reason_to_wait(situation, self._learning)

    def _rebuilding(self) -> str:
        found = open_rebuild(self._store.connection(), self._learner)
        return "" if found is None else waiting_words(found)

    def _new_examples(self) -> tuple[int, float]:
        return new_examples(self._store, self._learner)

    # One update

    def _open(self, connection: sqlite3.Connection, trigger: str, dry_run: bool) -> Running:
        judging = self._judging()  # that of now, to the update's end
        judging = judging.model_copy(update={"dry_run": True}) if dry_run else judging
        require_unheld(connection, self._learner, "no update starts")
        opened = open_update_for(
            connection,
            self._learner,
            trigger=trigger,
            base=self._base,
            learning=self._learning,
            judging=judging,
            now=self._now,
        )
        return Running(opened, trigger, judging, self._now())

    def _carry_out(self, running: Running) -> None:
        work = work_directory(self._state, running.update)
        outcome = "failed"
        logger.info("update started", extra={"fields": running.counted()})
        try:
            outcome = self._train_and_judge(running, work)
        except SelflearnError as error:
            self._close(running, "failed", None, None, str(error))
        except Exception as error:
            logger.exception("update %d failed in a way that nobody foresaw", running.update)
            self._close(running, "failed", None, None, f"{type(error).__name__}: {error}")
        finally:
            finished = self._now()
            self._metrics.observe_update(outcome, duration_seconds=finished - running.started_at, finished_at=finished)
            self._on_end(running, outcome, finished)
            remove_tree(work)
            self._running = None

    def _train_and_judge(self, running: Running, work: Path) -> str:
        running.begin("preparing", running.started_at)
        reach("after-snapshot")
        job = make_job(
            self._state,
            update=running.update,
            parent=running.opened.parent,
            seed=running.opened.seed,
            snapshot=running.opened.snapshot,
            learner=self._learner,
            base=self._base,
            learning=running.opened.learning,
            judging=running.judging,
            rate_factor=running.opened.rate_factor,
            past=past_of(self._store.connection(), self._learner, running.opened.parent),
            canaries=self._canaries,
        )
        write_job(job, work)
        running.forecast = Forecast(work_of(job), self._speed)
        result = self._watched(running, Worker(work))
        if isinstance(result, Cancelled):
            reason = running.cancelled_because or "it was cancelled"
            return self._close(running, "interrupted" if self._stopping else "cancelled", None, None, reason)
        running.begin("judging", self._now())
        verdict = judge(result, running.judging)
        show_verdict(self._metrics, result["measurements"]["weight_drift"], verdict.as_dict())
        if verdict.outcome == "promote" and not running.judging.dry_run:
            running.begin("promoting", self._now())
            return self._promote(running, work, result, verdict)
        running.begin("closing", self._now())
        report = keep_candidate(
            self._state,
            work,
            base=self._base,
            snapshot=running.opened.snapshot,
            report=result,
            verdict=verdict,
            created_at=self._now(),
            keep=running.judging.keep_refused,
        )
        state, reason = closing(verdict, running.judging)
        return self._close(running, state, report, verdict, reason)

    def _watched(self, running: Running, worker: Worker) -> dict[str, Any] | Cancelled:
        """Waits for the worker, which serving may pause meanwhile."""
        running.worker = worker
        if running.cancelled_because is not None:
            worker.cancel()
        running.preemption = preemption = Preemption(
            worker.pause,
            worker.resume,
            self._longest_wait,
            limit_seconds=self._learning.preempt_seconds,
            max_pause_seconds=self._learning.max_pause_seconds,
        )
        try:
            return worker.wait(
                self._learning.timeout_seconds, lambda line: self._saw(running, line), on_look=preemption.look
            )
        except WorkerFailed:
            self._metrics.worker_failures.inc()
            raise
        finally:
            self._metrics.update_paused_seconds.inc(preemption.seconds)

    def _saw(self, running: Running, line: dict[str, Any]) -> None:
        if running.forecast is not None:
            running.forecast.saw(line)
            self._speed = running.forecast.speed
        running.begin(phase_of(line), float(line["at"]))
        show_progress(self._metrics, line)
        if "steps" in line and line["step"] % 10 == 0:
            fields = {key: line[key] for key in ("step", "steps", "loss", "kl", "ewc")}
            logger.info("training", extra={"fields": {"update": running.update, **fields}})
        running.progress = {**running.progress, **line}

    def _promote(self, running: Running, work: Path, report: dict[str, Any], verdict: Verdict) -> str:
        sealed = seal_candidate(
            self._state,
            work,
            base=self._base,
            snapshot=running.opened.snapshot,
            report=report,
            verdict=verdict,
            created_at=self._now(),
        )
        try:
            self._serve(sealed, report, verdict)
        except SelflearnError as error:
            if self._store.read("SELECT 1 FROM versions WHERE id = ?", (running.update,)):
                logger.error("version %d is promoted, but does not serve yet: %s", running.update, error)
                return "promoted"  # the rollout log names it: its files stay, and whoever follows the log serves it
            remove_tree(sealed.directory)
            state: ClosedState = "cancelled" if type(error) is UpdateError else "failed"
            return self._close(running, state, report, verdict, str(error))
        logger.info("update promoted", extra={"fields": {"update": running.update, "parent": running.opened.parent}})
        return "promoted"

    def _serve(self, sealed: Sealed, report: dict[str, Any], verdict: Verdict) -> None:
        """Opens and proves the new version, registers it in one transaction, and lets it answer."""
        generation = self._rollouts.open_unregistered(sealed.update, sealed.directory)

        def make_durable() -> None:
            self._store.write(lambda connection: register_sealed(connection, sealed, report, verdict, self._now))

        introduced: Future[None] = asyncio.run_coroutine_threadsafe(
            self._rollouts.introduce(generation, make_durable), self._loop
        )
        try:
            introduced.result()
        except BaseException:
            asyncio.run_coroutine_threadsafe(generation.close(0.0), self._loop).result()
            raise

    def _close(
        self,
        running: Running,
        state: ClosedState,
        report: dict[str, Any] | None,
        verdict: Verdict | None,
        reason: str,
    ) -> str:
        told = None if verdict is None else verdict.as_dict()
        self._store.write(
            lambda connection: close_update(
                connection, running.update, state=state, report=report, verdict=told, reason=reason, now=self._now
            )
        )
        logger.warning("update ended", extra={"fields": {"update": running.update, "outcome": state, "reason": reason}})
        return state
