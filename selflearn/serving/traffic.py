"""Traffic between generations: who answers now, and how one version gives way to the next.

New requests go to the current generation; a swap changes it at once, and requests in flight finish on the generation
that started them. The version served before stays resident, so that a rollback to it takes no loading.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from selflearn.errors import NotFound, Overloaded
from selflearn.serving.engine import Generation, TokenRequest
from selflearn.serving.text import Detokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TextChunk:
    """New text. ``completion_tokens`` counts all tokens so far; ``finish_reason`` is set in the last chunk alone."""

    text: str
    completion_tokens: int
    finish_reason: str | None = None


@dataclass(slots=True, eq=False)
class _Resident:
    generation: Generation
    pinned: bool = False
    answers: int = 0  # open ones, begun or not
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def admit(self) -> None:
        self.answers += 1
        self.idle.clear()

    def release(self) -> None:
        self.answers -= 1
        if self.answers == 0:
            self.idle.set()


class Answer:
    """One answer, wholly from one version: ``async with answer: async for chunk in answer: ...``.

    It holds a place from the moment it was made, so it must be closed (the ``async with`` does). Leaving early cancels
    the request in the engine.
    """

    def __init__(self, resident: _Resident, request: TokenRequest, detokenizer: Detokenizer) -> None:
        self._resident = resident
        self._chunks = self._run(resident.generation, request, detokenizer)
        self._closed = False
        self.version = resident.generation.version
        self.prompt_tokens = len(request.prompt_ids)
        resident.admit()

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> TextChunk:
        return await self._chunks.__anext__()

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the answer and frees its place; harmless when it is over."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._chunks.aclose()
        finally:
            self._resident.release()

    @staticmethod
    async def _run(
        generation: Generation, request: TokenRequest, detokenizer: Detokenizer
    ) -> AsyncGenerator[TextChunk, None]:
        tokens = 0
        stream = generation.stream(request)
        try:
            async for chunk in stream:
                tokens += len(chunk.token_ids)
                text = detokenizer.push(chunk.token_ids)
                reason = chunk.finish_reason
                if reason is not None:
                    text += detokenizer.finish()
                if detokenizer.stopped:
                    reason = "stop"
                if text or reason is not None:
                    yield TextChunk(text, tokens, reason)
                if reason is not None:
                    return
        finally:
            await stream.aclose()


class Traffic:
    """Sends requests to the current generation. Everything here belongs to one event loop."""

    def __init__(self, tokenizer: Any, *, max_waiting: int = 128, drain_seconds: float = 60.0, keep: int = 1) -> None:
        self._tokenizer = tokenizer
        self._max_waiting = max_waiting
        self._drain_seconds = drain_seconds
        self._keep = keep
        self._current: _Resident | None = None
        self._others: list[_Resident] = []  # the last served first
        self._retiring: set[asyncio.Task[None]] = set()
        self._leaving: set[_Resident] = set()
        self._closed = False

    @property
    def current(self) -> Generation | None:
        """The generation that takes new requests; None before the first swap."""
        return self._current.generation if self._current else None

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

    async def chat(self, request: TokenRequest, *, version: int | None = None, stop: Sequence[str] = ()) -> Answer:
        """Admits a request and returns its answer, which the caller must close (``async with``).

        ``version`` None is what is served now. Raises ``NotFound`` for a version that is not loaded, ``BadRequest``
        for what can never be served, ``Overloaded`` when too many wait, ``EngineError`` when the engine is dead.
        """
        resident = self._choose(version)
        generation = resident.generation
        generation.check(request)
        if resident.answers >= generation.places + self._max_waiting:
            raise Overloaded(
                f"{resident.answers} requests are running or waiting, at most {generation.places + self._max_waiting} "
                "may be. Try again later, or raise serving.max_waiting_requests."
            )
        return Answer(resident, request, Detokenizer(self._tokenizer, request.stop_ids, stop))

    async def swap(self, generation: Generation) -> None:
        """Sends new requests to ``generation`` from now on. What no longer has to stay drains in the background."""
        if self._closed:
            raise Overloaded("The server is shutting down; no version can be put into service.")
        resident = self._holding(generation) or _Resident(generation)
        previous, self._current = self._current, resident
        self._others = [entry for entry in self._others if entry is not resident]
        if previous is not None and previous is not resident:
            self._others.insert(0, previous)
        self._retire_surplus()

    async def add(self, generation: Generation) -> None:
        """Makes a version answer to its own name alone; it stays until traffic closes."""
        if self._holding(generation) is None:
            self._others.append(_Resident(generation, pinned=True))

    async def close(self) -> None:
        """Takes no more requests, lets those in flight finish within the drain time, and closes everything."""
        self._closed = True
        for resident in self._all():
            self._retire(resident)
        self._current, self._others = None, []
        while self._retiring:
            await asyncio.gather(*self._retiring, return_exceptions=True)

    def _choose(self, version: int | None) -> _Resident:
        if self._current is None:
            what = "The server is shutting down." if self._closed else "The model is still being loaded."
            raise Overloaded(f"{what} Try again in some seconds.")
        if version is None:
            return self._current
        found = self._find(version)
        if found is None:
            known = ", ".join(str(number) for number in self.residents)
            message = f"Version {version} is not loaded; loaded are {known}. Ask for one of them, or for none."
            raise NotFound(message, param="model", code="model_not_found")
        return found

    def _find(self, version: int) -> _Resident | None:
        return next((entry for entry in self._all() if entry.generation.version == version), None)

    def _holding(self, generation: Generation) -> _Resident | None:
        return next((entry for entry in self._all() if entry.generation is generation), None)

    def _all(self) -> list[_Resident]:
        return ([self._current] if self._current else []) + self._others

    def _everyone(self) -> list[_Resident]:
        return [*self._all(), *self._leaving]

    def _retire_surplus(self) -> None:
        current = self._current.generation.version if self._current else None
        kept: list[_Resident] = []
        room = self._keep
        for entry in self._others:
            replaced = entry.generation.version == current  # the same version, opened anew
            if entry.pinned and not replaced:
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
