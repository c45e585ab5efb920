"""Every failure as OpenAI's error object: ``{"error": {"message", "type", "param", "code"}}`` with its HTTP status."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ExceptionHandler

from selflearn.errors import (
    BadRequest,
    Conflict,
    EngineError,
    NotEnoughExamples,
    NotFound,
    Overloaded,
    SelflearnError,
    StateError,
    UpdateError,
    UpdateRunning,
    VersionError,
)

CLIENT_CLOSED_REQUEST = 499
RETRY_AFTER_SECONDS = "1"
_CLIENT = "invalid_request_error"
_SERVER = "server_error"
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


_CLIENT_SIDE_CODES = {"request_too_large": 413, "unsupported_media_type": 415, "cross_origin": 403}

# The first class that an error is an instance of decides: (class, status, type, code).
_SERVER_SIDE: tuple[tuple[type[SelflearnError], int, str, str], ...] = (
    (Overloaded, 503, _SERVER, "overloaded"),
    (StateError, 503, _SERVER, "store_unavailable"),
    (UpdateRunning, 409, _CLIENT, "update_running"),
    (NotEnoughExamples, 409, _CLIENT, "not_enough_examples"),
    (UpdateError, 500, _SERVER, "update_failed"),
    (VersionError, 409, _CLIENT, "version_damaged"),
    (EngineError, 500, _SERVER, "engine_error"),
)


def problem_of(error: Exception) -> Problem:
    """Says how ``error`` is told to a client. What isn't a ``SelflearnError`` gives no detail away."""
    if isinstance(error, BadRequest):
        return _client_problem(error)
    for kind, status, type_, code in _SERVER_SIDE:
        if isinstance(error, kind):
            headers = {"retry-after": RETRY_AFTER_SECONDS} if status == 503 else {}
            return Problem(status, str(error), type_, None, code, headers)
    if isinstance(error, TimeoutError):
        message = "The answer took longer than api.request_timeout_seconds. Ask for fewer tokens, or raise the setting."
        return Problem(504, message, _SERVER, None, "timeout")
    message = "selflearn failed in a way that it did not expect; its log has the details. Please try again."
    return Problem(500, message, _SERVER, None, "internal_error")


def _client_problem(error: BadRequest) -> Problem:
    status, code = _CLIENT_SIDE_CODES.get(error.code or "", 400), error.code or "invalid_request"
    if isinstance(error, NotFound):
        status, code = 404, error.code or "not_found"
    elif isinstance(error, Conflict):
        status, code = 409, error.code or "conflict"
    return Problem(status, str(error), _CLIENT, error.param, code)


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
