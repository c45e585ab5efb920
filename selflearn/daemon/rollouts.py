"""Keeps what is served equal to the last row of the rollout log.

A row may come from an update, from an operator over HTTP, or from the command line while the daemon runs: whoever
appends it, this module sees it and makes it true. A version that cannot be served is answered by another row.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selflearn import overview
from selflearn.errors import EngineError, SelflearnError, VersionDamaged, VersionError
from selflearn.failpoints import reach
from selflearn.monitoring import Metrics
from selflearn.serving import Engine, Generation, Traffic
from selflearn.store import Store
from selflearn.versions import append, roll_back, served, undo_target, verify_registered, version_directory
from selflearn.versions.rollouts import lineage

FOLLOW_SECONDS = 1.0
ACTOR = "selflearn"

logger = logging.getLogger(__name__)


class Rollouts:
    """What is served, and every change of it. Its coroutines belong to one event loop; one change at a time."""

    def __init__(
        self,
        *,
        store: Store,
        learner: str,
        state: Path,
        engine: Engine,
        traffic: Traffic,
        metrics: Metrics,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._learner, self._state = store, learner, state
        self._engine, self._traffic, self._metrics, self._now = engine, traffic, metrics, now
        self._changing = asyncio.Lock()

    async def follow(self) -> None:
        """Makes the last rollout row true; does nothing when it is. Raises only if not even the base can be served."""
        async with self._changing:
            await self._make_true()

    async def follow_forever(self) -> None:
        """Looks at the log every second, until cancelled."""
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            try:
                await self.follow()
            except SelflearnError as error:
                logger.error("what the rollout log says cannot be served: %s", error)

    async def roll_back(self, to: int | None, actor: str, reason: str, dry_run: bool) -> dict[str, Any]:
        """Serves version ``to`` (None: the one before) and returns once it takes all new requests."""
        async with self._changing:
            if dry_run:
                return await asyncio.to_thread(self._rehearse, to)
            change = await asyncio.to_thread(
                self._store.write,
                lambda connection: roll_back(
                    connection,
                    learner=self._learner,
                    to=to,
                    actor=actor,
                    reason=reason,
                    state=self._state,
                    now=self._now,
                ),
            )
            self._metrics.rollbacks.labels("operator").inc()
            logger.warning(
                "rolled back", extra={"fields": {"from": change.from_version, "to": change.to_version, "actor": actor}}
            )
            await self._make_true()
            return {"from_version": change.from_version, "to_version": change.to_version, "dry_run": False}

    async def introduce(self, generation: Generation, register: Callable[[], None]) -> None:
        """Puts an opened and proven generation into service, with ``register`` making it durable first."""
        started = time.monotonic()
        async with self._changing:
            await asyncio.to_thread(register)
            reach("before-swap")
            await self._put_into_service(generation, started)

    def _rehearse(self, to: int | None) -> dict[str, Any]:
        connection = self._store.connection()
        target = undo_target(connection, self._learner, to)
        verify_registered(connection, self._state, target)
        return {"from_version": served(connection, self._learner), "to_version": target, "dry_run": True}

    async def _make_true(self) -> None:
        while True:
            wanted = await asyncio.to_thread(self._wanted)
            current = self._traffic.current
            if current is not None and current.version == wanted and current.alive:
                return
            try:
                started = time.monotonic()
                await self._put_into_service(await self._generation_of(wanted), started)
            except (VersionError, EngineError) as error:
                if wanted == 0:
                    raise
                logger.error("version %d cannot be served: %s", wanted, error)
                await asyncio.to_thread(self._recover_from, wanted, str(error))

    def _wanted(self) -> int:
        return served(self._store.connection(), self._learner)

    async def _generation_of(self, version: int) -> Generation:
        resident = self._traffic.resident(version)
        if resident is not None and resident.alive:
            return resident
        return await asyncio.to_thread(self.open, version)

    def open(self, version: int) -> Generation:
        """Verifies, loads and proves a version; blocking. Raises ``VersionDamaged`` or ``ProofFailed``."""
        if version == 0:
            return self._engine.open_generation(0, None)
        verify_registered(self._store.connection(), self._state, version)
        return self._engine.open_generation(version, version_directory(self._state, version))

    def open_unregistered(self, version: int, directory: Path) -> Generation:
        """Loads and proves a version that no rollout names yet; blocking. Raises ``ProofFailed``."""
        return self._engine.open_generation(version, directory)

    async def _put_into_service(self, generation: Generation, started: float) -> None:
        await self._traffic.swap(generation)
        seconds = time.monotonic() - started
        self._metrics.swap_duration.observe(seconds)
        sha256 = await asyncio.to_thread(overview.weights_sha256, self._store, self._learner, generation.version)
        self._metrics.set_served(generation.version, sha256)
        logger.info("now serving", extra={"fields": {"version": generation.version, "seconds": seconds}})

    def _recover_from(self, broken: int, problem: str) -> None:
        """Appends a row for what can be served: what answers now, else the nearest intact ancestor, else the base."""
        current = self._traffic.current
        fallback = current.version if current is not None and current.alive and current.version != broken else None
        if fallback is None:
            fallback = self._intact_ancestor(broken)

        def work(connection: Any) -> None:
            reason = f"version {broken} cannot be served: {problem}"
            append(
                connection,
                learner=self._learner,
                version=fallback,
                action="recover",
                actor=ACTOR,
                reason=reason,
                now=self._now,
            )

        self._store.write(work)
        self._metrics.rollbacks.labels("damaged").inc()

    def _intact_ancestor(self, version: int) -> int:
        connection = self._store.connection()
        for ancestor in lineage(connection, version)[1:]:
            try:
                verify_registered(connection, self._state, ancestor)
            except VersionDamaged:
                continue
            return ancestor
        return 0
