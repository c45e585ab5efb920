"""``/v1/models``: the names under which a version can be asked."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from selflearn.api.services import Services
from selflearn.api.state import services_of
from selflearn.errors import NotFound, Overloaded

SERVED = "selflearn"
_PINNED = re.compile(r"selflearn@(0|[1-9][0-9]{0,14})")


def find_version(services: Services, model: str) -> int | None:
    """Returns the version that a model name asks for, None for what is served now (``selflearn``).

    Raises ``NotFound`` for any name but ``selflearn`` and ``selflearn@N`` of a loaded version, ``Overloaded`` as long
    as nothing serves.
    """
    if services.traffic.current is None:
        raise Overloaded(
            "The model is still being loaded. Try again in some seconds; GET /readyz says when it is ready."
        )
    if model == SERVED:
        return None
    pinned = _PINNED.fullmatch(model)
    if pinned is not None and int(pinned[1]) in services.traffic.residents:
        return int(pinned[1])
    known = ", ".join(model_ids(services))
    message = f"The model {model[:100]!r} does not exist or is not loaded. Expected one of: {known}."
    raise NotFound(message, param="model", code="model_not_found")


def model_ids(services: Services) -> list[str]:
    """Every name that can be asked right now."""
    return [SERVED, *(f"{SERVED}@{number}" for number in services.traffic.residents)]


async def list_models(request: Request) -> Response:
    services = services_of(request)
    data = [_card(services, name) for name in model_ids(services)]
    return JSONResponse({"object": "list", "data": data})


async def show_model(request: Request) -> Response:
    services, name = services_of(request), request.path_params["name"]
    find_version(services, name)
    return JSONResponse(_card(services, name))


def _card(services: Services, name: str) -> dict[str, Any]:
    current = services.traffic.current
    _, _, number = name.partition("@")
    version = int(number) if number else (current.version if current else None)
    return {
        "id": name,
        "object": "model",
        "created": int(services.started_at),
        "owned_by": "selflearn",
        "version": version,
        "base_model": services.model_name,
        "max_model_len": services.context_length,
    }
