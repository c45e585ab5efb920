"""``/admin/rollouts/pin`` and ``unpin``: versions that are kept, and one that may be held in service."""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from selflearn.api.admin_schemas import PinRequest, UnpinRequest
from selflearn.api.bodies import read_json
from selflearn.api.keys import caller_of
from selflearn.api.replies import reply
from selflearn.api.services import Services
from selflearn.api.state import services_of
from selflearn.versions import pin, unpin


async def pin_version(request: Request) -> Response:
    """Keeps a version from retention, and, held, in service."""
    services = services_of(request)
    wanted = await read_json(request, PinRequest, services.api.max_body_bytes)
    return reply(await run_in_threadpool(_pin, services, wanted, caller_of(request).actor))


def _pin(services: Services, wanted: PinRequest, actor: str) -> dict[str, Any]:
    work = functools.partial(
        pin,
        learner=services.learner,
        version=wanted.version,
        held=wanted.hold,
        actor=actor,
        reason=wanted.reason,
        now=services.now,
        dry_run=wanted.dry_run,
    )
    done = work(services.store.connection()) if wanted.dry_run else services.store.write(work)
    return {**asdict(done), "dry_run": wanted.dry_run}


async def unpin_version(request: Request) -> Response:
    """Takes a pin away, and the hold with it."""
    services = services_of(request)
    wanted = await read_json(request, UnpinRequest, services.api.max_body_bytes)
    return reply(await run_in_threadpool(_unpin, services, wanted, caller_of(request).actor))


def _unpin(services: Services, wanted: UnpinRequest, actor: str) -> dict[str, Any]:
    work = functools.partial(
        unpin,
        learner=services.learner,
        version=wanted.version,
        actor=actor,
        reason=wanted.reason,
        now=services.now,
        dry_run=wanted.dry_run,
    )
    done = work(services.store.connection()) if wanted.dry_run else services.store.write(work)
    return {**asdict(done), "dry_run": wanted.dry_run}
