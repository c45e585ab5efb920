"""``GET /admin/data/stats``: how much came in, what became of it, and why no update runs."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from selflearn.api.replies import reply
from selflearn.api.services import Services
from selflearn.api.state import services_of
from selflearn.experience import funnel


async def stats(request: Request) -> Response:
    """The funnel of the learner, with ``why_not``."""
    return reply(await run_in_threadpool(_stats, services_of(request)))


def _stats(services: Services) -> dict[str, Any]:
    status = services.learning.status()
    return {**funnel(services.store, services.learner), "why_not": status["why_not"]}
