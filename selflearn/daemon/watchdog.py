"""The watchdog: looks at what answers meet with, takes back a version that is worse, and decides about canaries.

All that it knows it reads from the database at every look, so a restart loses nothing. What it does is rows in the
rollout log, written together with its alarm, which :class:`~selflearn.daemon.rollouts.Rollouts` makes true.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selflearn.config import ExperienceSettings, WatchdogSettings
from selflearn.daemon.probing import AnchorProbe
from selflearn.daemon.rollouts import Rollouts
from selflearn.errors import Conflict, SelflearnError
from selflearn.experience.live import Tally, Term
from selflearn.judging.sequences import Counted
from selflearn.judging.watchdog import SIGNALS, Judgement, Limits, Live, judge
from selflearn.monitoring import Metrics
from selflearn.store import Store
from selflearn.versions import Canary, abort_canary, promote, roll_back, running_canary, served
from selflearn.versions.alarms import (
    ACTOR,
    Action,
    Service,
    Signal,
    alarms_since,
    in_service,
    last_good,
    raise_alarm,
)
from selflearn.versions.pins import held, require_unheld

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Trouble:
    """What is wrong with the served version: the signal, a sentence, and numbers for the alarm's row."""

    version: int
    signal: Signal
    reason: str
    numbers: dict[str, Any]


class Watchdog:
    """Looks, judges and acts. Its coroutines belong to one event loop; one look at a time."""

    def __init__(
        self,
        *,
        store: Store,
        learner: str,
        state: Path,
        settings: Callable[[], WatchdogSettings],
        experience: ExperienceSettings,
        rollouts: Rollouts,
        probe: AnchorProbe,
        metrics: Metrics,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._learner, self._state = store, learner, state
        self._settings_in_force, self._experience = settings, experience
        self._rollouts, self._probe, self._metrics, self._now = rollouts, probe, metrics, now
        self._tallies: dict[Term, Tally] = {}
        self._probed_at = -math.inf
        self._reopened: tuple[int, float] | None = None  # version, and since when it was served then

    async def watch_forever(self) -> None:
        """Looks every ``interval_seconds``, until cancelled."""
        while True:
            await asyncio.sleep(self._settings.interval_seconds)
            try:
                await self.look()
            except SelflearnError as error:
                logger.error("the watchdog could not look or act: %s", error)
            except Exception:  # nothing may end the one who watches
                logger.exception("the watchdog could not look or act")

    async def look(self) -> None:
        """One look at everything: the served version, the canary, and the anchor probe when it is time."""
        if self._settings.enabled:
            await self._look_at_served()
        if self._settings.decides_canaries:
            await self._look_at_canary()
        if self._settings.enabled and self._settings.probe_seconds > 0.0:
            await self._look_at_probe()

    # What it sees

    async def _look_at_served(self) -> None:
        trouble = await asyncio.to_thread(self._judge_served)
        if trouble is not None:
            await self._act(trouble)

    def _judge_served(self) -> _Trouble | None:
        connection = self._store.connection()
        service, canary = in_service(connection, self._learner), self._canary()
        self._forget_all_but(service, canary)
        # What is gone back to served before: its comparison with what came after it is over.
        if service is None or service.action != "promote":
            self._metrics.hide_watched("before", "served")
            return None
        before, after = (
            self._live(connection, _before(service, self._most)),
            self._live(connection, self._term(service)),
        )
        self._show("before", before)
        self._show("served", after)
        found = judge(before, after, self._limits)
        if found.signal is None:
            return None
        return _Trouble(service.version, found.signal, found.reason, _numbers(found))

    async def _look_at_canary(self) -> None:
        found = await asyncio.to_thread(self._judge_canary)
        if found is None:
            return
        canary, judgement = found
        if judgement.signal is not None:
            trouble = _Trouble(canary.version, judgement.signal, judgement.reason, _numbers(judgement))
            await self._abort(canary, trouble)
        elif judgement.outcome == "no_worse":
            await self._promote(canary, judgement)

    def _judge_canary(self) -> tuple[Canary, Judgement] | None:
        """Compares it with what is served beside it, since it began: the same hours, the same kind of questions."""
        canary = self._canary()
        if canary is None:
            self._metrics.hide_watched("canary")
            return None
        connection = self._store.connection()
        beside, tried = self._pair(canary, served(connection, self._learner))
        before, after = self._live(connection, beside), self._live(connection, tried)
        self._show("canary", after)
        return canary, judge(before, after, self._limits, beside=True)

    async def _look_at_probe(self) -> None:
        service = await asyncio.to_thread(lambda: in_service(self._store.connection(), self._learner))
        version, since = (0, 0.0) if service is None else (service.version, service.since)
        due = self._now() - self._probed_at >= self._settings.probe_seconds
        if not due and self._probe.knows(version):
            return
        found = await self._probe.look()
        self._probed_at = self._now()
        if found is None:
            return
        trouble = _Trouble(version, "anchor", str(found), {"position": found.position, "lead": found.lead})
        if version and self._reopened != (version, since):
            self._reopened = version, since
            await self._reopen(trouble)
            self._probed_at = -math.inf  # whether that helped is seen at the next look
        else:
            await self._act(trouble)

    # What it does

    async def _act(self, trouble: _Trouble) -> None:
        """Rolls back, if there is anything to go back to and nobody forbids it; else it only raises the alarm."""
        why_not = await asyncio.to_thread(self._why_not, trouble)
        if why_not is not None:
            await self._only_alarm(trouble, why_not)
            return

        def work(connection: sqlite3.Connection) -> Any:
            self._require_unchanged(connection, trouble.version)
            target = last_good(connection, self._learner, self._state)
            reason = f"{trouble.signal}: {trouble.reason}"
            done = roll_back(
                connection,
                learner=self._learner,
                to=target,
                actor=ACTOR,
                reason=reason,
                state=self._state,
                now=self._now,
            )
            self._raise(connection, trouble, "rollback", to=target)
            return done

        if await self._order("rolled back by the watchdog", work, trouble, "rollback"):
            self._metrics.rollbacks.labels(trouble.signal).inc()

    async def _abort(self, canary: Canary, trouble: _Trouble) -> None:
        def work(connection: sqlite3.Connection) -> Any:
            self._require_canary(connection, canary)
            reason = f"{trouble.signal}: {trouble.reason}"
            done = abort_canary(connection, learner=self._learner, actor=ACTOR, reason=reason, now=self._now)
            self._raise(connection, trouble, "abort", to=done.served)
            return done

        await self._order("canary aborted by the watchdog", work, trouble, "abort")

    async def _promote(self, canary: Canary, judgement: Judgement) -> None:
        def work(connection: sqlite3.Connection) -> Any:
            self._require_canary(connection, canary)
            return promote(
                connection,
                learner=self._learner,
                version=canary.version,
                actor=ACTOR,
                reason=judgement.reason,
                state=self._state,
                now=self._now,
            )

        await self._order("canary promoted by the watchdog", work)

    async def _reopen(self, trouble: _Trouble) -> None:
        """Loads the served version anew from its files; if that fails, it is rolled back."""
        await asyncio.to_thread(
            self._store.write, lambda connection: self._raise(connection, trouble, "reopen", to=trouble.version)
        )
        self._alert(trouble, "reopen")
        try:
            await self._rollouts.reopen(trouble.version)
        except SelflearnError as error:
            logger.error("version %d could not be opened anew: %s", trouble.version, error)
            await self._act(trouble)

    async def _only_alarm(self, trouble: _Trouble, why: str) -> None:
        """Raises an alarm that nothing follows from, once for each signal as long as this version is served."""

        def work(connection: sqlite3.Connection) -> bool:
            service = in_service(connection, self._learner)
            since = 0.0 if service is None else service.since
            if trouble.signal in alarms_since(connection, self._learner, trouble.version, since):
                return False
            self._raise(connection, trouble, "none", why=why)
            return True

        if await asyncio.to_thread(self._store.write, work):
            self._alert(trouble, "none")

    async def _order(
        self,
        what: str,
        work: Callable[[sqlite3.Connection], Any],
        trouble: _Trouble | None = None,
        action: Action = "none",
    ) -> bool:
        """Has it written and made true; False if the log went on meanwhile, so that nothing was done."""
        written = False

        def noted(connection: sqlite3.Connection) -> Any:
            nonlocal written
            written = False
            done = work(connection)
            written = True
            return done

        try:
            await self._rollouts.order(what, noted, ACTOR)
        except Conflict as error:
            logger.info("the watchdog does nothing: %s", error)
        finally:
            if written and trouble is not None:
                self._alert(trouble, action)
        return written

    # Rows, and what is said about them

    def _raise(self, connection: sqlite3.Connection, trouble: _Trouble, action: Action, **more: Any) -> None:
        raise_alarm(
            connection,
            learner=self._learner,
            version=trouble.version,
            signal=trouble.signal,
            action=action,
            detail={"reason": trouble.reason, **trouble.numbers, **more},
            at=self._now(),
        )

    def _alert(self, trouble: _Trouble, action: Action) -> None:
        self._metrics.watchdog_alarms.labels(trouble.signal).inc()
        fields = {"version": trouble.version, "signal": trouble.signal, "action": action, "reason": trouble.reason}
        logger.error("watchdog alarm", extra={"fields": fields})

    def _show(self, side: str, live: Live) -> None:
        self._metrics.watchdog_conversations.labels(side).set(live.conversations)
        for signal in SIGNALS:
            self._metrics.watchdog_share.labels(signal, side).set(live.of(signal).share)

    def _why_not(self, trouble: _Trouble) -> str | None:
        if trouble.version == 0:
            return "the base model is served: there is nothing to go back to"
        found = held(self._store.connection(), self._learner)
        return None if found is None else f"version {found} is held"

    def _require_unchanged(self, connection: sqlite3.Connection, version: int) -> None:
        require_unheld(connection, self._learner, "the watchdog only raises alarms")
        if (present := served(connection, self._learner)) != version:
            raise Conflict(f"Version {present} is served now, not version {version}.", code="changed_meanwhile")

    def _require_canary(self, connection: sqlite3.Connection, canary: Canary) -> None:
        if running_canary(connection, self._learner, self._now()) != canary:
            raise Conflict(f"The canary, version {canary.version}, has ended meanwhile.", code="changed_meanwhile")

    # What was counted

    @property
    def _settings(self) -> WatchdogSettings:
        return self._settings_in_force()

    @property
    def _limits(self) -> Limits:
        return Limits.of(self._settings)

    @property
    def _most(self) -> int:
        return self._settings.conversations

    def _canary(self) -> Canary | None:
        return running_canary(self._store.connection(), self._learner, self._now())

    def _term(self, service: Service) -> Term:
        return Term(service.version, service.since, math.inf, self._most)

    def _pair(self, canary: Canary, present: int) -> tuple[Term, Term]:
        beside, tried = (Term(version, canary.since, math.inf, self._most) for version in (present, canary.version))
        return beside, tried

    def _live(self, connection: sqlite3.Connection, term: Term) -> Live:
        tally = self._tallies.setdefault(term, Tally(self._learner, term, self._experience))
        tally.look(connection)
        return Live(
            negative_feedback=Counted(tally.negative, tally.conversations),
            collapse=Counted(tally.collapsed, tally.conversations),
            errors=Counted(*tally.minutes),
            heard=tally.heard,
        )

    def _forget_all_but(self, service: Service | None, canary: Canary | None) -> None:
        kept = set() if service is None else {self._term(service), _before(service, self._most)}
        if canary is not None:
            kept |= set(self._pair(canary, 0 if service is None else service.version))
        self._tallies = {term: tally for term, tally in self._tallies.items() if term in kept}


def _before(service: Service, most: int) -> Term:
    """The version before, as long as it was served: its newest conversations."""
    return Term(service.before, 0.0, service.since, most, newest=True)


def _numbers(found: Judgement) -> dict[str, Any]:
    return {"readings": {signal: reading.as_dict() for signal, reading in found.readings.items()}}
