"""How a handler gets at what belongs to its request: the services that the daemon composed, the request's id."""

from __future__ import annotations

from typing import cast

from starlette.requests import Request
from starlette.types import Scope

from selflearn.api.services import Services


def services_of(request: Request) -> Services:
    """Returns the services of the application that answers this request."""
    return services_in(request.scope)


def services_in(scope: Scope) -> Services:
    """As :func:`services_of`, for a layer that has only the scope."""
    return cast("Services", scope["app"].state.services)


def request_id_of(request: Request) -> str:
    """Returns the request's id: the one that the client sent in ``x-request-id``, or one made here."""
    return cast("str", request.state.request_id)
