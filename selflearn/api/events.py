"""``POST /v1/events``: what a person did with an answer, as the client saw it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from selflearn.api.bodies import read_json
from selflearn.api.feedback import receipt_response, record
from selflearn.api.schemas import EventRequest
from selflearn.api.state import services_of
from selflearn.experience import add_event


async def report_event(request: Request) -> Response:
    """Records an event; 201 once it is durable, with status ``ignored`` unless experience.implicit_events is on."""
    wanted = await read_json(request, EventRequest, services_of(request).api.max_body_bytes)
    return receipt_response(await record(request, add_event, wanted, "rating"), wanted.interaction_id)
