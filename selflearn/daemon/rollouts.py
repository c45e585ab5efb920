"""Keeps what is served equal to the rollout log.

A row may come from an update, from an operator over HTTP, or from the command line while the daemon runs: whoever
appends it, this module sees it and makes it true. A version that cannot be served is answered by another row, and
what was served before goes on.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NamedTuple

from selflearn import overview
from selflearn.daemon.opening import Opener, Pace
from selflearn.daemon.overrides import override_gate
from selflearn.errors import (
    EngineError,
    EngineUnavailable,
    SelflearnError,
    VersionError,
)
from selflearn.failpoints import reach
from selflearn.monitoring import Metrics
from selflearn.serving import Engine, Generation, Traffic
from selflearn.store import Store
from selflearn.versions import (
    Canary,
    abort_broken,
    abort_canary,
    append,
    end_expired,
    promote,
    roll_back,
    running_canary,
    served,
    start_canary,
    verify_registered,
)
from selflearn.versions.overrides import was_not_promoted
from selflearn.versions.removal import unknown_version
from selflearn.versions.rollouts import ACTOR, last_canary, lineage

DEFAULT_PACE: Final = Pace()

logger = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """What the log says: the version that is served, and the canary beside it."""

    version: int
    canary: Canary | None


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
        pace: Pace = DEFAULT_PACE,
    ) -> None:
        self._store, self._learner, self._state = store, learner, state
        self._traffic, self._metrics, self._now = traffic, metrics, now
        self._pace = pace
        self._opener = Opener(
            store=store, learner=learner, state=state, engine=engine, metrics=metrics, now=now, pace=pace
        )
        self._changing = asyncio.Lock()
        # A canary is loaded under a lock of its own, so that a rollback need not wait for it. Taken before the other.
        self._starting_canary = asyncio.Lock()
        self._visiting = asyncio.Lock()
        self._withdrawn: set[int] = set()

    async def follow(self) -> None:
        """Makes the log true; does nothing when it is. Raises only if not even the base can be served."""
        async with self._changing:
            await self._make_true()
            await self._keep_base()
            await self._traffic.discard(self._withdrawn)
        await self._follow_canary()

    async def follow_forever(self) -> None:
        """Looks at the log at its pace, until cancelled; after what failed, with more patience."""
        while True:
            await asyncio.sleep(self._pace.follow)
            try:
                await self.follow()
                continue
            except SelflearnError as error:
                logger.error("what the rollout log says cannot be served: %s", error)
            except Exception:  # nothing may end the one who follows the log
                logger.exception("the rollout log cannot be followed")
            await asyncio.sleep(self._pace.retry)

    def loaded_sha256(self, version: int) -> str | None:
        """SHA-256 (hex) of the adapter that a version was loaded from here; None for the base, and where none was."""
        return self._opener.loaded_sha256(version)

    def open_unregistered(self, version: int, directory: Path) -> Generation:
        """Loads and proves a version that no rollout names yet; see :meth:`Opener.open_unregistered`."""
        return self._opener.open_unregistered(version, directory)

    # What operators order

    async def roll_back(
        self, to: int | None, actor: str, reason: str, dry_run: bool, expected: int | None = None
    ) -> dict[str, Any]:
        """Serves version ``to`` (None: the one before) and returns once it takes all new requests."""

        def work(connection: sqlite3.Connection) -> Any:
            options = {**self._options(dry_run), "expected": expected}
            return roll_back(connection, learner=self._learner, to=to, actor=actor, reason=reason, **options)

        done = await self._carry_out("rolled back", work, actor, dry_run)
        if not dry_run:
            self._metrics.rollbacks.labels("operator").inc()
        return done

    async def promote(
        self, version: int | None, actor: str, reason: str, dry_run: bool, force: bool = False
    ) -> dict[str, Any]:
        """Serves a registered version (None: the canary) and returns once it takes all new requests.

        With ``force`` also the candidate of an update that the gate did not promote, if it is kept.
        """
        if version is not None and await asyncio.to_thread(self._was_not_promoted, version):
            done = await override_gate(
                self,
                self._store,
                self._state,
                learner=self._learner,
                update=version,
                force=force,
                actor=actor,
                reason=reason,
                dry_run=dry_run,
                now=self._now,
            )
            return {**asdict(done), "dry_run": dry_run}

        def work(connection: sqlite3.Connection) -> Any:
            return promote(
                connection, learner=self._learner, version=version, actor=actor, reason=reason, **self._options(dry_run)
            )

        return await self._carry_out("promoted", work, actor, dry_run)

    def _was_not_promoted(self, version: int) -> bool:
        return was_not_promoted(self._store.connection(), self._learner, version)

    async def start_canary(
        self, version: int, share: float, for_seconds: float | None, actor: str, reason: str, dry_run: bool
    ) -> dict[str, Any]:
        """Lets a version answer a share of the conversations, and returns once it does."""

        def work(connection: sqlite3.Connection) -> Any:
            return start_canary(
                connection,
                learner=self._learner,
                version=version,
                share=share,
                for_seconds=for_seconds,
                actor=actor,
                reason=reason,
                **self._options(dry_run),
            )

        done = await self._carry_out("canary started", work, actor, dry_run)
        if not dry_run and (problem := await self._follow_canary()) is not None:
            raise problem
        return done

    async def abort_canary(self, actor: str, reason: str, dry_run: bool) -> dict[str, Any]:
        """Ends the canary and returns once what is served takes all new requests."""

        def work(connection: sqlite3.Connection) -> Any:
            return abort_canary(
                connection, learner=self._learner, actor=actor, reason=reason, now=self._now, dry_run=dry_run
            )

        return await self._carry_out("canary aborted", work, actor, dry_run)

    async def order(self, what: str, work: Callable[[sqlite3.Connection], Any], actor: str) -> dict[str, Any]:
        """Has ``work`` write into the log, and makes that true; ``work`` returns a dataclass of what it did."""
        return await self._carry_out(what, work, actor, False)

    async def reopen(self, version: int) -> None:
        """Loads the served version anew from its files and puts it in its own place; raises as :meth:`Opener.open`."""
        started = time.monotonic()
        generation = await asyncio.to_thread(self._opener.open, version)
        async with self._changing:
            if (await asyncio.to_thread(self._wanted)).version == version:
                await self._put_into_service(generation, started)
                return
        await generation.close(0.0)  # the log went on while it was loaded

    def _options(self, dry_run: bool) -> dict[str, Any]:
        return {"state": self._state, "now": self._now, "dry_run": dry_run}

    async def _carry_out(
        self, what: str, work: Callable[[sqlite3.Connection], Any], actor: str, dry_run: bool
    ) -> dict[str, Any]:
        """Writes an order into the log and makes it true, or rehearses it; raises when it could not be made true."""
        if dry_run:
            return {**asdict(await asyncio.to_thread(lambda: work(self._store.connection()))), "dry_run": True}
        async with self._changing:
            done = asdict(await asyncio.to_thread(self._store.write, work))
            logger.warning("%s", what, extra={"fields": {**done, "actor": actor}})
            problem = await self._make_true()
        if problem is not None:
            raise problem
        return {**done, "dry_run": False}

    async def load(self, version: int) -> None:
        """Lets a version answer to its own name beside what is served; it changes nothing else.

        One version at a time is let in so, and stays until another one is. Raises as :meth:`Opener.open`, and
        ``NotFound`` or ``VersionRemoved`` if there is nothing to load.
        """
        async with self._visiting:
            if self._resident(version) is None and version not in self._withdrawn:
                await self._let_in(await asyncio.to_thread(self._opener.open, version))
        if self._resident(version) is None:  # it was withdrawn meanwhile, or before
            raise unknown_version(version)

    async def _let_in(self, generation: Generation) -> None:
        version = generation.version
        async with self._changing:
            if self._resident(version) is None and version not in self._withdrawn:
                await self._traffic.visit(generation)
        if self._traffic.resident(version) is not generation:
            await generation.close(0.0)

    async def withdraw(self, versions: Collection[int]) -> None:
        """Serves what the log says, and lets go of versions of which nobody may get an answer any more.

        If nothing else can be served now, that is tried again at every look.
        """
        self._withdrawn |= set(versions)
        self._metrics.rollbacks.labels("forgotten").inc()
        try:
            await self.follow()
        except SelflearnError as error:
            logger.error("what had learned the forgotten cannot be replaced yet: %s", error)

    # What updates bring

    async def introduce(self, generation: Generation, register: Callable[[], None]) -> None:
        """Puts an opened and proven generation into service, with ``register`` making it durable first."""
        started = time.monotonic()
        async with self._changing:
            await asyncio.to_thread(register)
            reach("before-swap")
            await self._traffic.end_canary()  # as its row says now
            await self._put_into_service(generation, started)

    # What the log says

    def _wanted(self) -> Wanted:
        connection = self._store.connection()
        return Wanted(served(connection, self._learner), running_canary(connection, self._learner, self._now()))

    async def _make_true(self) -> SelflearnError | None:
        """Serves what the log says; returns why a version that it said could not be served, None if all could."""
        problem: SelflearnError | None = None
        while True:
            wanted = await asyncio.to_thread(self._wanted)
            await self._drop_canary(wanted)
            if self._serves(wanted.version):
                return problem
            try:
                await self._serve(wanted.version)
            except EngineUnavailable:  # the version is not to blame: whoever follows the log tries again
                raise
            except (VersionError, EngineError) as error:
                if wanted.version == 0:
                    raise
                problem = error
                logger.error("version %d cannot be served: %s", wanted.version, error)
                await asyncio.to_thread(self._recover_from, wanted.version, str(error))

    async def _keep_base(self) -> None:
        """Lets the base answer to its own name, whatever is served: without an adapter it costs nothing."""
        if self._resident(0) is None:
            await self._traffic.add(await asyncio.to_thread(self._opener.open, 0))

    def _serves(self, version: int) -> bool:
        current = self._traffic.current
        if current is None or current.version != version:
            return False
        if not current.alive:
            logger.error("version %d died while it was served; it is opened anew", version)
            self._metrics.version_failures.labels("died").inc()
        return current.alive

    async def _serve(self, version: int) -> None:
        started = time.monotonic()
        if (resident := self._resident(version)) is not None:
            await self._put_into_service(resident, started)
            return
        generation = await asyncio.to_thread(self._opener.open, version)
        if (await asyncio.to_thread(self._wanted)).version == version:
            await self._put_into_service(generation, started)
        else:  # the log went on while it was loaded
            await generation.close(0.0)

    def _resident(self, version: int) -> Generation | None:
        found = self._traffic.resident(version)
        return found if found is not None and found.alive else None

    async def _put_into_service(self, generation: Generation, started: float) -> None:
        registered = await asyncio.to_thread(overview.weights_sha256, self._store, self._learner, generation.version)
        await self._traffic.swap(generation)  # nothing may fail after it: the caller would close what is served
        seconds = time.monotonic() - started
        self._metrics.swap_duration.observe(seconds)
        self._metrics.set_served(generation.version, self.loaded_sha256(generation.version) or registered)
        logger.info("now serving", extra={"fields": {"version": generation.version, "seconds": seconds}})

    def _recover_from(self, broken: int, problem: str) -> None:
        """Appends a row for what can be served: what answers now, else the nearest intact ancestor, else the base."""
        current = self._traffic.current
        fallback = current.version if current is not None and current.alive and current.version != broken else None
        if fallback is None:
            fallback = self._intact_ancestor(broken)

        def work(connection: sqlite3.Connection) -> None:
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
            except VersionError:  # damaged, or removed
                continue
            return ancestor
        return 0

    # The canary

    async def _drop_canary(self, wanted: Wanted) -> None:
        """Ends a canary that the log does not want any more, and writes down the end of one whose time is up."""
        present = self._traffic.canary
        kept = {wanted.version} if wanted.canary is None else {wanted.version, wanted.canary.version}
        if present is not None and present.version not in kept:
            await self._traffic.end_canary()
            logger.info("the canary has ended", extra={"fields": {"version": present.version}})
        if wanted.canary is None:
            await asyncio.to_thread(self._note_end)

    def _note_end(self) -> None:
        last, at = last_canary(self._store.connection(), self._learner), self._now()
        if last is not None and last.is_over(at):
            self._store.write(lambda connection: end_expired(connection, self._learner, at))

    async def _follow_canary(self) -> SelflearnError | None:
        """Lets the canary of the log answer its share; if it cannot, ends it there and returns why."""
        async with self._starting_canary:
            while True:
                wanted = (await asyncio.to_thread(self._wanted)).canary
                if wanted is None or self._tries(wanted):
                    return None
                try:
                    await self._introduce_canary(wanted)
                except EngineUnavailable as error:  # the canary is not to blame: it is tried again
                    return error
                except (VersionError, EngineError) as error:
                    await self._abort_broken(wanted, error)
                    return error

    def _tries(self, wanted: Canary) -> bool:
        present = self._traffic.canary
        if present is None or present.version != wanted.version:
            return False
        return present.alive and self._traffic.canary_share == wanted.share

    async def _introduce_canary(self, wanted: Canary) -> None:
        present = self._traffic.canary
        if present is not None and present.version == wanted.version and not present.alive:
            self._metrics.version_failures.labels("died").inc()
            raise EngineError(f"Version {wanted.version} died while it was the canary.")
        opened = None if self._resident(wanted.version) else await asyncio.to_thread(self._opener.open, wanted.version)
        async with self._changing:
            await self._make_true()
            generation = self._resident(wanted.version) or opened
            # The log or the traffic may have gone on while it was loaded: then whoever called this looks again.
            if generation is not None and (await asyncio.to_thread(self._wanted)).canary == wanted:
                await self._traffic.set_canary(generation, wanted.share)
                fields = {"version": wanted.version, "share": wanted.share, "until": wanted.until}
                logger.info("a canary answers", extra={"fields": fields})
        if opened is not None and self._traffic.resident(wanted.version) is not opened:
            await opened.close(0.0)

    async def _abort_broken(self, broken: Canary, error: SelflearnError) -> None:
        logger.error("the canary, version %d, has ended: %s", broken.version, error)
        await asyncio.to_thread(
            self._store.write,
            lambda connection: abort_broken(connection, self._learner, broken, str(error), self._now),
        )
        async with self._changing:
            await self._make_true()
