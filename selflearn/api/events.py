"""``POST /v1/events``: what a person did with an answer, as the client saw it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from selflearn.api.bodies import read_json
from selflearn.api.feedback import receipt_response, record
from selflearn.api.keys import caller_of
from selflearn.api.schemas import EventRequest
from selflearn.api.state import services_of
from selflearn.experience import FeedbackReceipt, add_event


async def report_event(request: Request) -> Response:
    """Records an event; 201 once it is durable, with status ``ignored`` unless experience.implicit_events is on."""
    services = services_of(request)
    wanted = await read_json(request, EventRequest, services.api.max_body_bytes)
    caller = caller_of(request)

    def add() -> FeedbackReceipt:
        return add_event(
            services.store,
            learner=services.learner,
            source=caller.name,
            role=caller.role,
            settings=services.experience,
            now=services.now,
            **wanted.model_dump(),
        )

    return receipt_response(await record(services, "rating", add), wanted.interaction_id)
