"""``POST /v1/feedback``: what a person thinks of an answer."""

from __future__ import annotations

from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from selflearn.api.bodies import read_json
from selflearn.api.keys import caller_of
from selflearn.api.schemas import EventRequest, FeedbackRequest
from selflearn.api.state import services_of
from selflearn.errors import SelflearnError
from selflearn.experience import KINDS, FeedbackReceipt, add_feedback


async def give_feedback(request: Request) -> Response:
    """Records feedback and what follows from it; 201 once it is durable, 4xx and no change if it is not acceptable."""
    wanted = await read_json(request, FeedbackRequest, services_of(request).api.max_body_bytes)
    receipt = await record(request, add_feedback, wanted, wanted.kind)
    return receipt_response(receipt, wanted.interaction_id, wanted.conversation)


async def record(
    request: Request, add: Callable[..., FeedbackReceipt], wanted: FeedbackRequest | EventRequest, kind: str
) -> FeedbackReceipt:
    """Lets ``add`` record what the caller says, in a thread, and counts what becomes of it."""
    services, caller = services_of(request), caller_of(request)
    metrics = services.metrics
    # An unknown kind is the client's text; it must not become a label.
    label = kind if kind in KINDS else "unknown"
    try:
        receipt = await run_in_threadpool(
            add,
            services.store,
            learner=services.learner,
            source=caller.name,
            role=caller.role,
            settings=services.experience,
            now=services.now,
            **wanted.model_dump(),
        )
    except SelflearnError:
        metrics.observe_feedback(label, "rejected")
        raise
    metrics.observe_feedback(label, receipt.status, negative=receipt.negative)
    return receipt


def receipt_response(receipt: FeedbackReceipt, interaction_id: str | None, conversation: str | None = None) -> Response:
    """The answer to whoever gave feedback on one of them."""
    answer = {
        "id": receipt.id,
        "object": "selflearn.feedback",
        "interaction_id": interaction_id,
        "conversation": conversation,
        "kind": receipt.kind,
        "status": receipt.status,
        "example_id": receipt.example_id,
        "detail": receipt.detail,
    }
    return JSONResponse(answer, 201)
