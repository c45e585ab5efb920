"""``POST /v1/chat/completions``, whole and streamed."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from selflearn import overview
from selflearn.api.errors import problem_of
from selflearn.api.exchange import Exchange, admit
from selflearn.api.models import find_version
from selflearn.api.plans import plan_chat
from selflearn.api.schemas import ChatRequest, read_json
from selflearn.api.services import Services
from selflearn.api.state import services_of
from selflearn.errors import SelflearnError
from selflearn.versions import version_name

EVENT_STREAM = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
_log = logging.getLogger(__name__)


async def chat_completions(request: Request) -> Response:
    """Answers a chat. The interaction's row is durable before the first byte leaves."""
    services = services_of(request)
    wanted = await read_json(request, ChatRequest, services.api.max_body_bytes)
    version = find_version(services, wanted.model)
    plan = await plan_chat(services, wanted, request.headers)
    return ChatResponse(services, await admit(services, plan, version))


class ChatResponse(Response):
    """Generates while it sends; stops generating when the client has gone."""

    def __init__(self, services: Services, exchange: Exchange) -> None:
        super().__init__()
        self._services = services
        self._exchange = exchange
        self._fingerprint = fingerprint(services, exchange.version)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        send_answer = self._send_events if self._exchange.plan.stream else self._send_whole
        self._services.activity.begin()
        try:
            await self._while_connected(send_answer(scope, receive, send), receive)
        finally:
            self._services.activity.end()
            await self._exchange.aclose()

    async def _while_connected(self, work: Coroutine[Any, Any, None], receive: Receive) -> None:
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

    async def _send_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = self._exchange
        async with aclosing(exchange.pieces()) as pieces:
            async for _ in pieces:
                pass
        message = {"role": "assistant", "content": exchange.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": exchange.finish_reason}
        body = {**self._frame("chat.completion"), "choices": [choice], "usage": self._usage()}
        await JSONResponse(body, headers=self._answer_headers())(scope, receive, send)

    async def _send_events(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends server-sent events. What fails before the first piece still gets its own HTTP status."""
        del scope, receive
        async with aclosing(self._exchange.pieces()) as pieces:
            first = await anext(pieces, "")
            headers = {**self._answer_headers(), "content-type": EVENT_STREAM, "cache-control": "no-cache"}
            raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": 200, "headers": raw})
            async for event in self._events(first, pieces):
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self, first: str, pieces: AsyncGenerator[str]) -> AsyncGenerator[bytes]:
        exchange = self._exchange
        yield self._chunk({"role": "assistant", "content": ""})
        try:
            if first:
                yield self._chunk({"content": first})
            async for piece in pieces:
                yield self._chunk({"content": piece})
        except Exception as error:
            # The status is long sent; an error event is what OpenAI's clients understand.
            unexpected = not isinstance(error, SelflearnError | TimeoutError)
            fields = {"interaction": exchange.plan.interaction_id}
            _log.error("stream broke off: %s", error, exc_info=unexpected, extra={"fields": fields})
            yield _event(problem_of(error).body())
            return
        yield self._chunk({}, exchange.finish_reason)
        if exchange.plan.with_usage:
            yield _event({**self._frame("chat.completion.chunk"), "choices": [], "usage": self._usage()})
        yield DONE

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self._exchange.plan.with_usage else {}
        return _event({**self._frame("chat.completion.chunk"), "choices": [choice], **usage})

    def _frame(self, kind: str) -> dict[str, Any]:
        """The fields that a completion and each of its chunks share; ``model`` names the exact version."""
        plan = self._exchange.plan
        return {
            "id": plan.interaction_id,
            "object": kind,
            "created": int(plan.created),
            "model": f"selflearn@{self._exchange.version}",
            "system_fingerprint": self._fingerprint,
        }

    def _usage(self) -> dict[str, int]:
        prompt, completion = len(self._exchange.plan.prompt_ids), self._exchange.completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _answer_headers(self) -> dict[str, str]:
        recorded = "yes" if self._exchange.recorded else "no"
        return {"x-selflearn-version": str(self._exchange.version), "x-selflearn-recorded": recorded}


def fingerprint(services: Services, version: int) -> str:
    """``selflearn-v000007-`` and 8 hex digits of the weights' hash; zeros when the store cannot be read."""
    try:
        sha256 = overview.weights_sha256(services.store, services.learner, version)
    except SelflearnError:
        sha256 = ""
    return f"selflearn-{version_name(version)}-{sha256[:8] or '0' * 8}"


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
