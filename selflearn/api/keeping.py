"""``/admin/data/forget`` and ``retain``, ``/admin/versions/prune``, ``/admin/backup``: what goes, what is kept twice.

And ``/admin/data/certificates``: what can be proved of it.
"""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import Any

import anyio.from_thread
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from selflearn.api.bodies import path_number, read_json
from selflearn.api.keeping_schemas import ForgetRequest, RetainRequest
from selflearn.api.keys import caller_of
from selflearn.api.replies import reply
from selflearn.api.services import Services
from selflearn.api.state import services_of
from selflearn.backup import back_up, list_copies
from selflearn.experience.keeping.retention import retain
from selflearn.versions.certificates import list_certificates, show_certificate, verify_certificate
from selflearn.versions.forgetting import forget
from selflearn.versions.retention import prune


async def forget_data(request: Request) -> Response:
    """Forgets what a user or a source sent, an interaction, or what has certain words; answers once it is gone."""
    services = services_of(request)
    wanted = await read_json(request, ForgetRequest, services.api.max_body_bytes)
    return reply(await run_in_threadpool(_forget, services, wanted, caller_of(request).actor))


def _forget(services: Services, wanted: ForgetRequest, actor: str) -> dict[str, Any]:
    return forget(
        services.store,
        services.state,
        services.learner,
        wanted.selector,
        actor=actor,
        reason=wanted.reason,
        now=services.now,
        end_update=functools.partial(services.learning.end_update, reason="data that it uses is forgotten"),
        withdraw=lambda versions: anyio.from_thread.run(services.rollouts.withdraw, versions),
        copies=lambda: list_copies(services.state),
        rebuild=wanted.rebuild,
        dry_run=wanted.dry_run,
    )


async def certificates(request: Request) -> Response:
    """What was forgotten, latest first."""
    services = services_of(request)
    found = await run_in_threadpool(list_certificates, services.store, services.learner)
    return reply({"certificates": found})


async def certificate(request: Request) -> Response:
    services, number = services_of(request), path_number(request)
    return reply(await run_in_threadpool(show_certificate, services.store, number))


async def check_certificate(request: Request) -> Response:
    """Compares a certificate with the database and the files."""
    services, number = services_of(request), path_number(request)
    return reply(await run_in_threadpool(verify_certificate, services.store, services.state, number))


async def retain_data(request: Request) -> Response:
    """Deletes what is older or more than the settings allow."""
    services = services_of(request)
    wanted = await read_json(request, RetainRequest, services.api.max_body_bytes)
    done = await run_in_threadpool(
        retain, services.store, services.learner, services.experience, services.now, dry_run=wanted.dry_run
    )
    return reply(asdict(done))


async def prune_versions(request: Request) -> Response:
    """Removes the files of versions that nothing needs any more."""
    services = services_of(request)
    wanted = await read_json(request, RetainRequest, services.api.max_body_bytes)
    done = await run_in_threadpool(
        prune,
        services.store,
        services.state,
        services.learner,
        services.versions,
        actor=caller_of(request).actor,
        now=services.now,
        dry_run=wanted.dry_run,
    )
    return reply(asdict(done))


async def make_backup(request: Request) -> Response:
    """Makes a backup in the state directory; no place can be named over HTTP."""
    services = services_of(request)
    return reply(await run_in_threadpool(back_up, services.state, None, services.now), 201)
