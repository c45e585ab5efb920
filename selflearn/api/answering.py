"""Sends what an exchange generates, whole or as server-sent events, for as long as somebody is there to receive it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, Protocol

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from selflearn import overview
from selflearn.api.errors import Problem, problem_of
from selflearn.api.exchange import Exchange, Piece
from selflearn.api.services import Services
from selflearn.api.tracing import note_exchange
from selflearn.errors import SelflearnError
from selflearn.versions import version_name

EVENT_STREAM = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_log = logging.getLogger(__name__)


class Shape(Protocol):
    """How one endpoint words an exchange. Events are whole server-sent events, one or several put together."""

    def whole(self) -> dict[str, Any]:
        """The body of a whole answer, once the exchange is over."""
        ...

    def opening(self) -> bytes:
        """The events before the first pieces."""
        ...

    def pieces(self, pieces: list[Piece]) -> bytes:
        """The events that say what is new."""
        ...

    def closing(self) -> bytes:
        """The events after the last pieces, when the answer came to its end."""
        ...

    def failure(self, problem: Problem) -> bytes:
        """The events that end a stream that broke off."""
        ...


class AnswerResponse(Response):
    """Sends while it is generated; stops generating when the client has gone. Closes the exchange."""

    def __init__(self, exchange: Exchange, shape: Shape) -> None:
        super().__init__()
        self._exchange = exchange
        self._shape = shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        note_exchange(scope, self._exchange)
        send_answer = self._send_events if self._exchange.plan.stream else self._send_whole
        try:
            await _while_connected(send_answer(scope, receive, send), receive)
        finally:
            await self._exchange.aclose()

    async def _send_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._exchange.finish()
        await JSONResponse(self._shape.whole(), headers=self._answer_headers())(scope, receive, send)

    async def _send_events(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends server-sent events. What fails before the first piece still gets its own HTTP status."""
        del scope, receive
        async with aclosing(self._exchange.batches()) as batches:
            first = await anext(batches)
            headers = {**self._answer_headers(), "content-type": EVENT_STREAM, "cache-control": "no-cache"}
            raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": 200, "headers": raw})
            async for events in self._events(first, batches):
                await send({"type": "http.response.body", "body": events, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self, first: list[Piece], batches: AsyncGenerator[list[Piece]]) -> AsyncGenerator[bytes]:
        shape = self._shape
        try:
            yield shape.opening() + shape.pieces(first)
            async for pieces in batches:
                yield shape.pieces(pieces)
        except Exception as error:
            # The status is long sent; an error event is what OpenAI's clients understand.
            unexpected = not isinstance(error, SelflearnError | TimeoutError)
            fields = {"interaction": self._exchange.plan.interaction_id}
            _log.error("stream broke off: %s", error, exc_info=unexpected, extra={"fields": fields})
            yield shape.failure(problem_of(error))
            return
        yield shape.closing()

    def _answer_headers(self) -> dict[str, str]:
        recorded = "yes" if self._exchange.recorded else "no"
        return {"x-selflearn-version": str(self._exchange.version), "x-selflearn-recorded": recorded}


def fingerprint(services: Services, version: int) -> str:
    """``selflearn-v000007-`` and 8 hex digits of the weights' hash; zeros when the store cannot be read."""
    known = services.fingerprints.get(version)
    if known is not None:
        return known
    try:
        sha256 = overview.weights_sha256(services.store, services.learner, version)
    except SelflearnError:
        sha256 = ""
    found = f"selflearn-{version_name(version)}-{sha256[:8] or '0' * 8}"
    if sha256:  # a version's weights never change
        services.fingerprints[version] = found
    return found


def event(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"data: {to_json(data)}\n\n".encode()


async def _while_connected(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Runs ``work``; cancels it when the client leaves first."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
