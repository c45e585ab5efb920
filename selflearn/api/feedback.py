"""``POST /v1/feedback``: what a person thinks of an answer."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from selflearn.api.bodies import read_json
from selflearn.api.keys import caller_of
from selflearn.api.schemas import FeedbackRequest
from selflearn.api.state import services_of
from selflearn.errors import SelflearnError
from selflearn.experience import KINDS, FeedbackReceipt, add_feedback


async def give_feedback(request: Request) -> Response:
    """Records feedback and what follows from it; 201 once it is durable, 4xx and no change if it is not acceptable."""
    services = services_of(request)
    wanted = await read_json(request, FeedbackRequest, services.api.max_body_bytes)
    source = caller_of(request).source()

    def add() -> FeedbackReceipt:
        return add_feedback(
            services.store,
            learner=services.learner,
            interaction_id=wanted.interaction_id,
            kind=wanted.kind,
            value=wanted.value,
            text=wanted.text,
            reason=wanted.reason,
            source=source,
            judging=services.judging,
            now=services.now,
        )

    counted = services.metrics.feedback
    # An unknown kind is the client's text; it must not become a label.
    kind = wanted.kind if wanted.kind in KINDS else "unknown"
    try:
        receipt = await run_in_threadpool(add)
    except SelflearnError:
        counted.labels(kind, "rejected").inc()
        raise
    counted.labels(kind, receipt.status).inc()
    answer = {
        "id": receipt.id,
        "object": "selflearn.feedback",
        "interaction_id": wanted.interaction_id,
        "kind": wanted.kind,
        "status": receipt.status,
        "example_id": receipt.example_id,
        "detail": receipt.detail,
    }
    return JSONResponse(answer, 201)
