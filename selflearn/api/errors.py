"""Every failure as OpenAI's error object: ``{"error": {"message", "type", "param", "code"}}`` with its HTTP status."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ExceptionHandler

from selflearn.errors import (
    BadRequest,
    Conflict,
    EngineError,
    EngineUnavailable,
    Forbidden,
    NotEnoughExamples,
    NotFound,
    Overloaded,
    QueueFull,
    RateLimited,
    SelflearnError,
    StateError,
    Unauthorized,
    UpdateError,
    UpdateRunning,
    VersionError,
    VersionRemoved,
)

CLIENT_CLOSED_REQUEST = 499
RETRY_AFTER_SECONDS = 1.0
_CLIENT = "invalid_request_error"
_SERVER = "server_error"
_REQUESTS = "requests"  # what OpenAI names as exhausted
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """One failure, ready to be sent: HTTP status plus the four fields of the error object."""

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, dict[str, str | None]]:
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}


_CLIENT_SIDE_CODES = {
    "cross_origin": 403,
    "unknown_host": 403,
    "read_timeout": 408,
    "request_too_large": 413,
    "unsupported_media_type": 415,
}
_CLIENT_SIDE: tuple[tuple[type[BadRequest], int, str], ...] = (
    (NotFound, 404, "not_found"),
    (Conflict, 409, "conflict"),
    (Unauthorized, 401, "invalid_api_key"),
    (Forbidden, 403, "insufficient_role"),
)

# The first class that an error is an instance of decides: (class, status, type, code).
_SERVER_SIDE: tuple[tuple[type[SelflearnError], int, str, str], ...] = (
    (RateLimited, 429, _REQUESTS, "rate_limit_exceeded"),
    (QueueFull, 429, _REQUESTS, "queue_full"),
    (Overloaded, 503, _SERVER, "overloaded"),
    (StateError, 503, _SERVER, "store_unavailable"),
    (UpdateRunning, 409, _CLIENT, "update_running"),
    (NotEnoughExamples, 409, _CLIENT, "not_enough_examples"),
    (UpdateError, 500, _SERVER, "update_failed"),
    (VersionRemoved, 409, _CLIENT, "version_removed"),
    (VersionError, 409, _CLIENT, "version_damaged"),
    (EngineUnavailable, 503, _SERVER, "engine_unavailable"),
    (EngineError, 500, _SERVER, "engine_error"),
)


def problem_of(error: Exception) -> Problem:
    """Says how ``error`` is told to a client. What isn't a ``SelflearnError`` gives no detail away."""
    if isinstance(error, BadRequest):
        return _client_problem(error)
    for kind, status, type_, code in _SERVER_SIDE:
        if isinstance(error, kind):
            return Problem(status, str(error), type_, None, code, _retry_after(error) if status in (429, 503) else {})
    if isinstance(error, TimeoutError):
        message = "The answer took longer than api.request_timeout_seconds. Ask for fewer tokens, or raise the setting."
        return Problem(504, message, _SERVER, None, "timeout")
    message = "selflearn failed in a way that it did not expect; its log has the details. Please try again."
    return Problem(500, message, _SERVER, None, "internal_error")


def _retry_after(error: SelflearnError) -> dict[str, str]:
    seconds = error.retry_after if isinstance(error, RateLimited) else RETRY_AFTER_SECONDS
    return {"retry-after": str(math.ceil(seconds))}


def _client_problem(error: BadRequest) -> Problem:
    status, code = _CLIENT_SIDE_CODES.get(error.code or "", 400), error.code or "invalid_request"
    for kind, kind_status, kind_code in _CLIENT_SIDE:
        if isinstance(error, kind):
            status, code = kind_status, error.code or kind_code
    headers = {"www-authenticate": 'Bearer realm="selflearn"'} if status == 401 else {}
    return Problem(status, str(error), _CLIENT, error.param, code, headers)


def error_response(problem: Problem) -> JSONResponse:
    return JSONResponse(problem.body(), problem.status, headers=problem.headers)


async def on_error(request: Request, error: Exception) -> Response:
    """Answers any exception that a handler let through, and logs those that are our fault."""
    problem = problem_of(error)
    if problem.status >= 500:
        unexpected = not isinstance(error, SelflearnError | TimeoutError)
        fields = {"method": request.method, "path": request.url.path, "status": problem.status}
        _log.error("request failed: %s", error, exc_info=error if unexpected else None, extra={"fields": fields})
    return error_response(problem)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answers what the router refuses (no such route, wrong method)."""
    if not isinstance(error, HTTPException):
        return await on_error(request, error)
    where = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        problem = Problem(404, f"There is no {where}. See GET / for what there is.", _CLIENT, None, "unknown_url")
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"{where} is not possible: this path takes {allowed}."
        problem = Problem(405, message, _CLIENT, None, "method_not_allowed", dict(error.headers or {}))
    else:
        problem = Problem(error.status_code, str(error.detail), _CLIENT)
    return error_response(problem)


async def on_disconnect(request: Request, error: Exception) -> Response:
    """The client left while sending; nobody reads this, but the counters do."""
    del request, error
    return Response(status_code=CLIENT_CLOSED_REQUEST)


HANDLERS: dict[type[Exception] | int, ExceptionHandler] = {
    HTTPException: on_http_exception,
    ClientDisconnect: on_disconnect,
    SelflearnError: on_error,
    TimeoutError: on_error,
}
