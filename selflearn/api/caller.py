"""``GET /v1/caller``: whose key a request came with, and what it may do."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from selflearn.api.keys import caller_of
from selflearn.api.state import services_of


async def show_caller(request: Request) -> Response:
    caller = caller_of(request)
    return JSONResponse({"name": caller.name, "role": caller.role, "keys": services_of(request).keyring is not None})
