"""The application: routes, errors, and the layer that counts requests and keeps other web sites out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selflearn.api import admin, chat, feedback, health, models
from selflearn.api.errors import HANDLERS, error_response, on_error, problem_of
from selflearn.api.services import Services
from selflearn.errors import BadRequest
from selflearn.monitoring.metrics import Metrics

UNKNOWN_ENDPOINT = "other"
ROUTES: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("POST", "/v1/chat/completions", chat.chat_completions),
    ("GET", "/v1/models", models.list_models),
    ("GET", "/v1/models/{name:path}", models.show_model),
    ("POST", "/v1/feedback", feedback.give_feedback),
    ("GET", "/livez", health.livez),
    ("GET", "/readyz", health.readyz),
    ("GET", "/metrics", health.metrics),
    ("GET", "/", health.page),
    ("GET", "/admin/status", admin.status),
    ("GET", "/admin/learn", admin.learn_status),
    ("POST", "/admin/learn", admin.learn_now),
    ("POST", "/admin/learn/pause", admin.learn_pause),
    ("POST", "/admin/learn/resume", admin.learn_resume),
    ("POST", "/admin/learn/cancel", admin.learn_cancel),
    ("GET", "/admin/updates/{n}", admin.show_update),
    ("GET", "/admin/why/{n}", admin.explain),
    ("GET", "/admin/versions", admin.versions),
    ("GET", "/admin/versions/{n}", admin.version),
    ("POST", "/admin/versions/{n}/verify", admin.verify),
    ("GET", "/admin/rollouts", admin.rollout_history),
    ("POST", "/admin/rollback", admin.roll_back),
    ("GET", "/admin/feedback", admin.feedback),
)


def create_app(services: Services) -> Starlette:
    """Builds the application that serves ``services`` over HTTP, and keeps its gauges fresh."""
    app = Starlette(
        routes=[Route(path, endpoint, methods=[method]) for method, path, endpoint in ROUTES],
        exception_handlers=HANDLERS,
        middleware=[Middleware(CountRequests, metrics=services.metrics), Middleware(SameOriginOnly)],
    )
    app.state.services = services
    health.watch(services)
    return app


class CountRequests:
    """Counts every answer by route (never by the path that the client sent) and status.

    As the outermost layer it also turns what nobody expected into a logged 500 with an error object.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._paths: dict[object, str] = {endpoint: path for _, path, endpoint in ROUTES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def counting(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                endpoint = self._paths.get(scope.get("endpoint"), UNKNOWN_ENDPOINT)
                self._metrics.requests.labels(endpoint, str(message["status"])).inc()
            await send(message)

        try:
            await self._app(scope, receive, counting)
        except Exception as error:
            if started:
                raise
            response = await on_error(Request(scope), error)
            await response(scope, receive, counting)


class SameOriginOnly:
    """Refuses what a page of another web site makes a browser send: no such page may use a local daemon."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and origin.lower().partition("://")[2] != headers.get("host", "").lower():
                message = (
                    f"Requests from pages of {origin[:100]!r} are not accepted. Call the daemon from its own pages."
                )
                await error_response(problem_of(BadRequest(message, code="cross_origin")))(scope, receive, send)
                return
        await self._app(scope, receive, send)
