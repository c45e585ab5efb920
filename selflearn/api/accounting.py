"""The outermost layer: every request has an id, every answer is counted, every failure is an error object."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selflearn.api.errors import on_error
from selflearn.monitoring.logs import request_id
from selflearn.monitoring.metrics import Metrics

UNKNOWN_ENDPOINT = "other"
REQUEST_ID = b"x-request-id"
_ACCEPTABLE_ID = re.compile(rb"[!-~]{1,128}")


class TrackRequests:
    """Names, counts and answers for every request.

    Its id is the one that it brings, if that has 1 to 128 printable ASCII characters and no spaces. The answer's
    ``x-request-id``, ``request.state.request_id`` and all that is logged meanwhile have it. Answers are counted by
    route (never by the path that the client sent) and status. What is raised below becomes an error object, and a log
    record if it is our fault.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Mapping[object, str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = _name(scope)
        started = False

        async def counting(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                endpoint = self._paths.get(scope.get("endpoint"), UNKNOWN_ENDPOINT)
                self._metrics.requests.labels(endpoint, str(message["status"])).inc()
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        try:
            await self._app(scope, receive, counting)
        except Exception as error:
            if started:
                raise  # the server logs it and cuts the connection, so that nobody takes the half for the whole
            response = await on_error(Request(scope), error)
            await response(scope, receive, counting)


def add_header(scope: Scope, name: str, value: str) -> None:
    """Notes a header that the answer will have: cheaper than another layer around everything that is sent."""
    scope["state"]["headers"].append((name.encode("latin-1"), value.encode("latin-1")))


def _name(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Notes the request's id; returns the list of headers that the answer will have, to which others may be added."""
    sent = [value for name, value in scope["headers"] if name == REQUEST_ID]
    acceptable = len(sent) == 1 and _ACCEPTABLE_ID.fullmatch(sent[0]) is not None
    raw = sent[0] if acceptable else b"req-" + uuid.uuid4().hex.encode()
    headers = [(REQUEST_ID, raw)]
    scope.setdefault("state", {}).update(request_id=raw.decode("ascii"), headers=headers)
    # Never set back: each request has a task of its own, and what the server logs at its end has the id too.
    request_id.set(raw.decode("ascii"))
    return headers
