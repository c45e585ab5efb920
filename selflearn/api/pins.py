"""``/admin/rollouts/pin`` and ``unpin``: versions that are kept, and one that may be held in service."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from selflearn.api.admin_schemas import PinRequest, UnpinRequest
from selflearn.api.bodies import read_json
from selflearn.api.keys import caller_of
from selflearn.api.replies import reply
from selflearn.api.state import services_of
from selflearn.versions import Pin, pin, unpin


async def pin_version(request: Request) -> Response:
    """Keeps a version from retention, and, held, in service."""
    wanted = await read_json(request, PinRequest, services_of(request).api.max_body_bytes)
    return await _carried_out(request, functools.partial(pin, held=wanted.hold), wanted)


async def unpin_version(request: Request) -> Response:
    """Takes a pin away, and the hold with it."""
    wanted = await read_json(request, UnpinRequest, services_of(request).api.max_body_bytes)
    return await _carried_out(request, unpin, wanted)


async def _carried_out(request: Request, order: Callable[..., Pin], wanted: PinRequest | UnpinRequest) -> Response:
    """Writes it down, or with ``dry_run`` only checks, and answers with the pin that it is about."""
    services = services_of(request)
    work = functools.partial(
        order,
        learner=services.learner,
        version=wanted.version,
        actor=caller_of(request).actor,
        reason=wanted.reason,
        now=services.now,
        dry_run=wanted.dry_run,
    )

    def done() -> Pin:
        return work(services.store.connection()) if wanted.dry_run else services.store.write(work)

    return reply({**asdict(await run_in_threadpool(done)), "dry_run": wanted.dry_run})
