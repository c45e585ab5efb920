"""How much a client may ask for: requests per minute, the size of a body, and the time that it may take to arrive."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selflearn.api.accounting import add_header
from selflearn.api.bodies import too_large
from selflearn.api.keys import Caller
from selflearn.api.state import services_in
from selflearn.errors import BadRequest, RateLimited

LIMITED = "/v1/"  # operators' orders, health and metrics have no limit: a rollback must never have to wait


@dataclass(slots=True)
class TokenBucket:
    """Lets through ``per_minute`` requests at once, and then as many as a minute brings."""

    per_minute: int
    tokens: float
    filled_at: float

    def take(self, per_minute: int, now: float) -> float:
        """Takes a token, if there is one; returns the seconds until there will be one, 0 if it was taken."""
        earned = (now - self.filled_at) * per_minute / 60.0
        # A limit that was raised meanwhile counts from now on, one that was lowered at once.
        self.per_minute, self.tokens, self.filled_at = per_minute, min(float(per_minute), self.tokens + earned), now
        if self.tokens < 1.0:
            return (1.0 - self.tokens) * 60.0 / per_minute
        self.tokens -= 1.0
        return 0.0

    @property
    def seconds_to_full(self) -> float:
        return (self.per_minute - self.tokens) * 60.0 / self.per_minute


class LimitRate:
    """Counts the requests of each caller against api.requests_per_minute and says in headers how many are left."""

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(LIMITED):
            per_minute = services_in(scope).api.requests_per_minute
            if per_minute:
                self._count(scope, per_minute)
        await self._app(scope, receive, send)

    def _count(self, scope: Scope, per_minute: int) -> None:
        caller: Caller = scope["state"]["caller"]
        now = self._clock()
        bucket = self._buckets.setdefault(caller.name, TokenBucket(per_minute, per_minute, now))
        seconds = bucket.take(per_minute, now)
        add_header(scope, "x-ratelimit-limit-requests", str(per_minute))
        add_header(scope, "x-ratelimit-remaining-requests", str(int(bucket.tokens)))
        add_header(scope, "x-ratelimit-reset-requests", f"{math.ceil(bucket.seconds_to_full)}s")
        if seconds:
            raise RateLimited(
                f"{caller.name!r} has sent its {per_minute} requests of this minute (api.requests_per_minute). Send "
                f"the next in {math.ceil(seconds)} s.",
                retry_after=seconds,
            )


class LimitBody:
    """Refuses a body that says it is too large before any of it is read, and one that does not arrive in time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            length = headers.get("content-length", "0")
            api = services_in(scope).api
            if int(length) > api.max_body_bytes:
                raise too_large(api.max_body_bytes)
            if length != "0" or "transfer-encoding" in headers:
                receive = _in_time(receive, api.read_timeout_seconds)
        await self._app(scope, receive, send)


def _in_time(receive: Receive, seconds: float) -> Receive:
    """``receive`` that gives up when the body is not whole after ``seconds``; then it is as before."""
    deadline = asyncio.get_running_loop().time() + seconds
    whole = False

    async def receiving() -> Message:
        nonlocal whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise BadRequest(
                f"The body did not arrive within {seconds:g} s (api.read_timeout_seconds). Send it faster.",
                code="read_timeout",
            ) from None
        whole = not message.get("more_body", False)
        return message

    return receiving
