"""The layer that makes a span of every request, if traces are sent at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selflearn.api.accounting import UNKNOWN_ENDPOINT
from selflearn.api.exchange import Exchange
from selflearn.monitoring.tracing import Tracing, Value

#: Asked every few seconds by machines; a trace of that tells nothing.
UNTRACED: Final = ("/livez", "/readyz", "/metrics")
EXCHANGE: Final = "exchange"


def note_exchange(scope: Scope, exchange: Exchange) -> None:
    """Notes what answers a request, so that its span can say which version did, and with how many tokens."""
    scope["state"][EXCHANGE] = exchange


class TraceRequests:
    """Outermost of all, so that refusals are seen as well. ``paths`` are the routes by what answers them."""

    def __init__(self, app: ASGIApp, tracing: Tracing, paths: Mapping[object, str]) -> None:
        self._app, self._tracing, self._paths = app, tracing, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNTRACED:
            await self._app(scope, receive, send)
            return
        span = self._tracing.begin_request(scope["method"], Headers(scope=scope))
        status = 0

        async def seeing(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, seeing)
        finally:
            route = self._paths.get(scope.get("endpoint"), UNKNOWN_ENDPOINT)
            self._tracing.end_request(span, f"{scope['method']} {route}", status, _values(scope, route))


def _values(scope: Scope, route: str) -> dict[str, Value]:
    """By the names of OpenTelemetry's conventions, where it has one."""
    state = scope.get("state", {})
    values: dict[str, Value] = {"http.request.method": scope["method"], "http.route": route}
    if "request_id" in state:
        values["selflearn.request_id"] = state["request_id"]
    exchange: Exchange | None = state.get(EXCHANGE)
    if exchange is None:
        return values
    values |= {
        "selflearn.version": exchange.version,
        "gen_ai.response.id": exchange.plan.interaction_id,
        "gen_ai.usage.input_tokens": exchange.plan.prompt_tokens,
        "gen_ai.usage.output_tokens": exchange.completion_tokens,
    }
    waited = exchange.first_token_seconds
    return values if waited is None else {**values, "selflearn.time_to_first_token": waited}
