"""Keeps pages of other web sites from using a local daemon through the browser of somebody who looks at them."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from selflearn.api.state import services_in
from selflearn.errors import BadRequest

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


class SameOriginOnly:
    """Refuses what a browser sends for a page of another site, which its ``Origin`` tells, or its ``Host``.

    The second stops DNS rebinding: the page's own name is made to lead to this machine, and the browser takes the
    daemon for the page's site. On loopback, requests therefore have to name the daemon as one of ``LOOPBACK``, or as
    api.allowed_hosts says.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host = headers.get("host", "").lower()
            _check_host(scope, host)
            _check_origin(headers.get("origin"), host)
        await self._app(scope, receive, send)


def _check_host(scope: Scope, host: str) -> None:
    services = services_in(scope)
    if services.serving.host not in LOOPBACK:
        return
    known = (*LOOPBACK, *(name.lower() for name in services.api.allowed_hosts))
    if _without_port(host) not in known:
        raise BadRequest(
            f"This daemon is not called {host[:100]!r}. Call it at {services.serving.host}; if this is the name of a "
            "reverse proxy before it, put the name into api.allowed_hosts.",
            code="unknown_host",
        )


def _check_origin(origin: str | None, host: str) -> None:
    if origin is not None and origin.lower().partition("://")[2] != host:
        raise BadRequest(
            f"Requests from pages of {origin[:100]!r} are not accepted. Call the daemon from its own pages.",
            code="cross_origin",
        )


def _without_port(host: str) -> str:
    """``[::1]:8000`` → ``::1``, ``localhost:8000`` → ``localhost``."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
