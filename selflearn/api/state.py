"""How a handler gets at the services that the daemon composed."""

from __future__ import annotations

from typing import cast

from starlette.requests import Request

from selflearn.api.services import Services


def services_of(request: Request) -> Services:
    """Returns the services of the application that answers this request."""
    return cast("Services", request.app.state.services)
