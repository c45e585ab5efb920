"""``/admin/data``: what was recorded, what became of it, and what operators decide about it."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from selflearn import experience
from selflearn.api.bodies import path_number, read_json, validated
from selflearn.api.data_schemas import ExampleQuery, InteractionQuery, QuarantineRequest, ReleaseRequest
from selflearn.api.keys import caller_of
from selflearn.api.replies import reply
from selflearn.api.services import Services
from selflearn.api.state import services_of


async def list_examples(request: Request) -> Response:
    services, wanted = services_of(request), validated(ExampleQuery, dict(request.query_params))
    found = await run_in_threadpool(experience.list_examples, services.store, services.learner, **wanted.model_dump())
    return reply({"examples": found})


async def show_example(request: Request) -> Response:
    services, number = services_of(request), path_number(request)
    return reply(await run_in_threadpool(experience.show_example, services.store, services.learner, number))


async def list_interactions(request: Request) -> Response:
    services, wanted = services_of(request), validated(InteractionQuery, dict(request.query_params))
    found = await run_in_threadpool(
        experience.list_interactions, services.store, services.learner, **wanted.model_dump()
    )
    return reply({"interactions": found})


async def show_interaction(request: Request) -> Response:
    services, name = services_of(request), str(request.path_params["interaction_id"])
    return reply(await run_in_threadpool(experience.show_interaction, services.store, services.learner, name))


async def sources(request: Request) -> Response:
    services = services_of(request)
    return reply({"sources": await run_in_threadpool(experience.sources, services.store, services.learner)})


async def quarantine(request: Request) -> Response:
    """Puts examples, or all that comes from a source, into quarantine."""
    services = services_of(request)
    wanted = await read_json(request, QuarantineRequest, services.api.max_body_bytes)
    order = _order(request, services, wanted.reason)

    def work(connection: Any) -> dict[str, Any]:
        if wanted.source is not None:
            return experience.quarantine_source(connection, order, wanted.source, dry_run=wanted.dry_run)
        return experience.quarantine_examples(connection, order, wanted.examples or (), dry_run=wanted.dry_run)

    return reply(await run_in_threadpool(services.store.write, work))


async def release(request: Request) -> Response:
    """Lets examples out of quarantine; the operator vouches for them."""
    services = services_of(request)
    wanted = await read_json(request, ReleaseRequest, services.api.max_body_bytes)
    order = _order(request, services, wanted.reason)
    done = await run_in_threadpool(
        services.store.write, lambda connection: experience.release(connection, order, wanted.examples)
    )
    return reply(done)


def _order(request: Request, services: Services, reason: str) -> experience.Order:
    return experience.Order(services.learner, caller_of(request).actor, reason, services.now())
