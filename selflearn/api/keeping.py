"""``/admin/data/forget``, ``/admin/data/retain`` and ``/admin/backup``: what goes, and what is kept a second time."""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from selflearn.api.bodies import read_json
from selflearn.api.keeping_schemas import ForgetRequest, RetainRequest
from selflearn.api.keys import caller_of
from selflearn.api.replies import reply
from selflearn.api.services import Services
from selflearn.api.state import services_of
from selflearn.backup import back_up, list_copies
from selflearn.experience.keeping.forgetting import forget
from selflearn.experience.keeping.retention import retain


async def forget_data(request: Request) -> Response:
    """Forgets what a user or a source sent, an interaction, or what has certain words; answers once it is gone."""
    services = services_of(request)
    wanted = await read_json(request, ForgetRequest, services.api.max_body_bytes)
    return reply(await run_in_threadpool(_forget, services, wanted, caller_of(request).actor))


def _forget(services: Services, wanted: ForgetRequest, actor: str) -> dict[str, Any]:
    done = forget(
        services.store,
        services.learner,
        wanted.selector,
        actor=actor,
        reason=wanted.reason,
        now=services.now,
        end_update=functools.partial(services.learning.end_update, reason="data that it uses is forgotten"),
        dry_run=wanted.dry_run,
    )
    return {**done, "copies": list_copies(services.state)}


async def retain_data(request: Request) -> Response:
    """Deletes what is older or more than the settings allow."""
    services = services_of(request)
    wanted = await read_json(request, RetainRequest, services.api.max_body_bytes)
    done = await run_in_threadpool(
        retain, services.store, services.learner, services.experience, services.now, dry_run=wanted.dry_run
    )
    return reply(asdict(done))


async def make_backup(request: Request) -> Response:
    """Makes a backup in the state directory; no place can be named over HTTP."""
    services = services_of(request)
    return reply(await run_in_threadpool(back_up, services.state, None, services.now), 201)
