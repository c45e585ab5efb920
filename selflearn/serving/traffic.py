"""Traffic between generations: who answers now, and how one version gives way to the next.

New requests go to the current generation; a swap changes it at once, and requests in flight finish on the generation
that started them. The version served before stays resident, so that a rollback to it takes no loading. Beside the
current one a canary may take a share of the conversations.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from selflearn.errors import NotFound, Overloaded, QueueFull
from selflearn.serving.answers import Answer, Track
from selflearn.serving.engine import Generation, TokenRequest
from selflearn.serving.text import Detokenizer

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Resident:
    generation: Generation
    pinned: bool = False
    visiting: bool = False
    answers: int = 0  # open ones, begun or not
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def admit(self) -> None:
        self.answers += 1
        self.idle.clear()

    def release(self) -> None:
        self.answers -= 1
        if self.answers == 0:
            self.idle.set()


def takes_part(conversation: str, version: int, share: float) -> bool:
    """Whether a conversation is among the ``share`` (0 to 1) that a canary answers.

    It is the same for every request of a conversation, and a larger share keeps those that took part before. Another
    version gets other conversations. A conversation without a name never takes part: it could not stay on its side.
    """
    digest = hashlib.blake2b(f"{version}\0{conversation}".encode(), digest_size=8).digest()
    return bool(conversation) and int.from_bytes(digest) < share * 2**64


class Traffic:
    """Sends requests to the current generation. Everything here belongs to one event loop."""

    def __init__(self, tokenizer: Any, *, max_waiting: int = 128, drain_seconds: float = 60.0, keep: int = 1) -> None:
        self._tokenizer = tokenizer
        self._max_waiting = max_waiting
        self._drain_seconds = drain_seconds
        self._keep = keep
        self._current: _Resident | None = None
        self._canary: _Resident | None = None
        self._share = 0.0
        self._others: list[_Resident] = []  # the last served first
        self._retiring: set[asyncio.Task[None]] = set()
        self._leaving: set[_Resident] = set()
        self._closed = False

    @property
    def current(self) -> Generation | None:
        """The generation that takes new requests; None before the first swap."""
        return self._current.generation if self._current else None

    @property
    def canary(self) -> Generation | None:
        """The generation that answers ``canary_share`` of the conversations; None when there is no canary."""
        return self._canary.generation if self._canary else None

    @property
    def canary_share(self) -> float:
        """Share of the conversations that the canary answers; 0 without one."""
        return self._share

    @property
    def residents(self) -> tuple[int, ...]:
        """Every version that can answer right now, ascending."""
        return tuple(sorted(resident.generation.version for resident in self._all()))

    @property
    def running(self) -> int:
        """Requests being decoded, over all generations."""
        return sum(entry.generation.running - entry.generation.waiting for entry in self._everyone())

    @property
    def waiting(self) -> int:
        """Requests that have no place yet, over all generations."""
        return sum(entry.generation.waiting for entry in self._everyone())

    @property
    def answers(self) -> int:
        """Answers that are open, over all generations."""
        return sum(entry.answers for entry in self._everyone())

    def resident(self, version: int) -> Generation | None:
        """The loaded generation of a version, or None."""
        found = self._find(version)
        return found.generation if found else None

    async def chat(
        self, request: TokenRequest, *, version: int | None = None, conversation: str = "", stop: Sequence[str] = ()
    ) -> Answer:
        """Admits a request and returns its answer, which the caller must close (``async with``).

        ``version`` None is what is served now, to this conversation: the same side of a canary for all of it. Raises
        ``NotFound`` for a version that is not loaded, ``BadRequest`` for what can never be served, ``QueueFull`` when
        too many wait, ``EngineError`` when the engine is dead.
        """
        resident, track = self._choose(version, conversation)
        generation = resident.generation
        generation.check(request)
        open_answers, most = self.answers, generation.places + self._max_waiting  # all versions share the places
        if open_answers >= most:
            raise QueueFull(
                f"{open_answers} requests are running or waiting, at most {most} may be. Try again later, or raise "
                "serving.max_waiting_requests."
            )
        resident.admit()
        detokenizer = Detokenizer(self._tokenizer, request.stop_ids, stop)
        return Answer(generation, request, detokenizer, resident.release, track)

    async def swap(self, generation: Generation) -> None:
        """Sends new requests to ``generation`` from now on. What no longer has to stay drains in the background."""
        if self._closed:
            raise Overloaded("The server is shutting down; no version can be put into service.")
        resident = self._holding(generation) or _Resident(generation)
        if resident is self._canary:
            self._canary, self._share = None, 0.0
        elif self._canary is not None and self._canary.generation.version == generation.version:
            await self.end_canary()  # the same version, opened anew
        previous, self._current = self._current, resident
        resident.visiting = False
        self._others = [entry for entry in self._others if entry is not resident]
        if previous is not None and previous is not resident:
            self._others.insert(0, previous)
        self._retire_surplus()

    async def set_canary(self, generation: Generation, share: float) -> None:
        """Lets ``generation`` answer ``share`` (0 to 1) of the conversations from now on, in the place of any other.

        As long as it is not alive, the current generation answers them all.
        """
        if self._closed:
            raise Overloaded("The server is shutting down; no version can be put into service.")
        resident = self._holding(generation) or _Resident(generation)
        if resident is self._current:
            raise ValueError(f"version {generation.version} answers everyone already; it can't be a canary as well")
        if resident is not self._canary:
            self._others = [entry for entry in self._others if entry is not resident]
            await self.end_canary()
        resident.visiting = False
        self._canary, self._share = resident, share

    async def end_canary(self) -> None:
        """Sends every conversation to the current generation; the canary drains. Harmless without a canary."""
        ended, self._canary, self._share = self._canary, None, 0.0
        if ended is None:
            return
        if ended.pinned:
            self._others.append(ended)
        else:
            self._retire(ended)

    async def add(self, generation: Generation) -> None:
        """Makes a version answer to its own name, in the place of a dead one; it stays until traffic closes."""
        if self._holding(generation) is not None:
            return
        for entry in [entry for entry in self._others if entry.generation.version == generation.version]:
            self._others.remove(entry)
            self._retire(entry)
        self._others.append(_Resident(generation, pinned=True))

    async def visit(self, generation: Generation) -> None:
        """Lets a version answer to its own name, in the place of the one that was let in so before."""
        if self._closed:
            raise Overloaded("The server is shutting down; no version can be loaded.")
        if self._holding(generation) is not None:
            return
        same = generation.version
        for entry in [entry for entry in self._others if entry.visiting or entry.generation.version == same]:
            self._others.remove(entry)
            self._retire(entry)
        self._others.append(_Resident(generation, visiting=True))

    async def discard(self, versions: Collection[int]) -> None:
        """Lets go of versions that nobody may ask any more; their open answers finish. What is served stays."""
        for entry in [entry for entry in self._others if entry.generation.version in versions]:
            self._others.remove(entry)
            self._retire(entry)

    async def close(self) -> None:
        """Takes no more requests, lets those in flight finish within the drain time, and closes everything."""
        self._closed = True
        for resident in self._all():
            self._retire(resident)
        self._current, self._canary, self._share, self._others = None, None, 0.0, []
        while self._retiring:
            await asyncio.gather(*self._retiring, return_exceptions=True)

    def _choose(self, version: int | None, conversation: str) -> tuple[_Resident, Track]:
        if self._current is None:
            what = "The server is shutting down." if self._closed else "The model is still being loaded."
            raise Overloaded(f"{what} Try again in some seconds.")
        if version is None:
            canary = self._canary
            if canary is None or not takes_part(conversation, canary.generation.version, self._share):
                return self._current, "stable"
            return (canary, "canary") if canary.generation.alive else (self._current, "stable")
        found = self._find(version)
        if found is None:
            known = ", ".join(str(number) for number in self.residents)
            message = f"Version {version} is not loaded; loaded are {known}. Ask for one of them, or for none."
            raise NotFound(message, param="model", code="model_not_found")
        return found, "pinned"

    def _find(self, version: int) -> _Resident | None:
        return next((entry for entry in self._all() if entry.generation.version == version), None)

    def _holding(self, generation: Generation) -> _Resident | None:
        return next((entry for entry in self._all() if entry.generation is generation), None)

    def _all(self) -> list[_Resident]:
        return [entry for entry in (self._current, self._canary) if entry is not None] + self._others

    def _everyone(self) -> list[_Resident]:
        return [*self._all(), *self._leaving]

    def _retire_surplus(self) -> None:
        current = self._current.generation.version if self._current else None
        kept: list[_Resident] = []
        room = self._keep
        for entry in self._others:
            replaced = entry.generation.version == current  # the same version, opened anew
            if (entry.pinned or entry.visiting) and not replaced:
                kept.append(entry)
            elif room > 0 and not replaced and entry.generation.alive:
                kept.append(entry)
                room -= 1
            else:
                self._retire(entry)
        self._others = kept

    def _retire(self, resident: _Resident) -> None:
        self._leaving.add(resident)
        task = asyncio.get_running_loop().create_task(self._drain_and_close(resident))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _drain_and_close(self, resident: _Resident) -> None:
        """Waits for the answers, also for those that did not begin yet, before the engine is asked to stop."""
        version = resident.generation.version
        try:
            if resident.answers:
                async with asyncio.timeout(self._drain_seconds):
                    await resident.idle.wait()
        except TimeoutError:
            logger.warning("version %d had %d answers left when its time was over", version, resident.answers)
        try:
            await resident.generation.close(0.0)
        except Exception:
            logger.exception("closing version %d failed", version)
        finally:
            self._leaving.discard(resident)
