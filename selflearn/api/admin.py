"""``/admin``: what operators ask and order. The command line is its main client."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from selflearn import overview
from selflearn.api.admin_schemas import (
    CanaryRequest,
    LearnRequest,
    Order,
    PageQuery,
    PromoteRequest,
    RollbackRequest,
    UpdateQuery,
    VersionQuery,
)
from selflearn.api.bodies import path_number, query_limit, read_json, validated
from selflearn.api.keys import caller_of
from selflearn.api.replies import reply
from selflearn.api.services import Services
from selflearn.api.state import services_of
from selflearn.errors import NotFound
from selflearn.experience import counts, list_feedback
from selflearn.versions import (
    compare_served,
    history,
    list_versions,
    show_version,
    verify_all,
    verify_version,
    why,
    why_interaction,
)
from selflearn.versions.alarms import list_alarms


async def status(request: Request) -> Response:
    services = services_of(request)
    # Traffic belongs to the event loop, the database's answers to a thread.
    return reply({**_serving(services), **await run_in_threadpool(_recorded, services)})


def _serving(services: Services) -> dict[str, Any]:
    current = services.traffic.current
    return {
        "daemon": True,
        "state": str(services.state.resolve()),
        "health": "starting" if current is None else "ready",
        "learner": services.learner,
        "model": services.model_name,
        "answering": None if current is None else current.version,
        "answering_sha256": None if current is None else services.rollouts.loaded_sha256(current.version),
        "resident": list(services.traffic.residents),
        "requests": {"running": services.traffic.running, "waiting": services.traffic.waiting},
    }


def _recorded(services: Services) -> dict[str, Any]:
    return {
        "served": overview.served(services.store, services.learner),
        "canary": overview.canary(services.store, services.learner, services.now),
        "kept_candidates": overview.kept_candidates(services.state),
        "pins": overview.pins(services.store, services.learner),
        "audit_digest": overview.audit_digest(services.store),
        "counts": counts(services.store, services.learner),
        "alarm": overview.last_alarm(services.store, services.learner),
        "learning": services.learning.status(),
    }


async def learn_now(request: Request) -> Response:
    services = services_of(request)
    wanted = await read_json(request, LearnRequest, services.api.max_body_bytes)
    number = await run_in_threadpool(services.learning.learn_now, wanted.trigger, wanted.dry_run)
    return reply({"update": number}, 202)


async def learn_status(request: Request) -> Response:
    return reply(await run_in_threadpool(services_of(request).learning.status))


async def learn_pause(request: Request) -> Response:
    await run_in_threadpool(services_of(request).learning.pause, caller_of(request).actor)
    return reply({"paused": True})


async def learn_resume(request: Request) -> Response:
    await run_in_threadpool(services_of(request).learning.resume, caller_of(request).actor)
    return reply({"paused": False})


async def learn_cancel(request: Request) -> Response:
    cancelled = await run_in_threadpool(services_of(request).learning.cancel)
    return reply({"cancelled": cancelled})


async def list_updates(request: Request) -> Response:
    services, wanted = services_of(request), validated(UpdateQuery, dict(request.query_params))
    found = await run_in_threadpool(overview.updates, services.store, services.learner, **wanted.model_dump())
    return reply({"updates": found})


async def show_update(request: Request) -> Response:
    services, number = services_of(request), path_number(request)
    found = await run_in_threadpool(overview.update, services.store, services.learner, number)
    return reply(_known(found, number))


async def show_curve(request: Request) -> Response:
    """The losses of an update, also while it runs."""
    services, number = services_of(request), path_number(request)
    found = await run_in_threadpool(overview.curve, services.store, services.state, services.learner, number)
    return reply(_known(found, number))


def _known(found: dict[str, Any] | None, number: int) -> dict[str, Any]:
    if found is None:
        raise NotFound(
            f"There is no update {number}. See 'selflearn versions list'.", param="n", code="update_not_found"
        )
    return found


async def explain(request: Request) -> Response:
    services, number = services_of(request), path_number(request)
    return reply(await run_in_threadpool(why, services.store, services.state, number))


async def explain_interaction(request: Request) -> Response:
    services, interaction_id = services_of(request), str(request.path_params["interaction_id"])
    return reply(await run_in_threadpool(why_interaction, services.store, services.learner, interaction_id))


async def versions(request: Request) -> Response:
    services, wanted = services_of(request), validated(VersionQuery, dict(request.query_params))
    found = await run_in_threadpool(list_versions, services.store, services.learner, **wanted.model_dump())
    return reply({"versions": found})


async def version(request: Request) -> Response:
    services, number = services_of(request), path_number(request)
    return reply(await run_in_threadpool(show_version, services.store, services.state, number))


async def load_version(request: Request) -> Response:
    """Lets a version answer to its own name, ``selflearn@N``, beside what is served."""
    services, number = services_of(request), path_number(request)
    await services.rollouts.load(number)
    return reply({"version": number, "resident": list(services.traffic.residents)})


async def verify(request: Request) -> Response:
    services, number = services_of(request), path_number(request)
    return reply(await run_in_threadpool(verify_version, services.store, services.state, number))


async def verify_everything(request: Request) -> Response:
    services = services_of(request)
    found = await run_in_threadpool(verify_all, services.store, services.state, services.learner)
    told = {**_serving(services), "served": await run_in_threadpool(overview.served, services.store, services.learner)}
    return reply({**found, "served": compare_served(told)})


async def rollout_history(request: Request) -> Response:
    services, wanted = services_of(request), validated(PageQuery, dict(request.query_params))
    found = await run_in_threadpool(history, services.store, services.learner, wanted.limit, wanted.before)
    return reply({"rollouts": found})


async def roll_back(request: Request) -> Response:
    """Goes back to a version and answers once it serves."""
    services = services_of(request)
    wanted = await read_json(request, RollbackRequest, services.api.max_body_bytes)
    actor = caller_of(request).actor
    done = await services.rollouts.roll_back(wanted.to, actor, wanted.reason, wanted.dry_run, wanted.expected)
    return reply(done)


async def promote(request: Request) -> Response:
    """Serves a registered version, or the canary, and answers once it takes all new requests."""
    services = services_of(request)
    wanted = await read_json(request, PromoteRequest, services.api.max_body_bytes)
    actor = caller_of(request).actor
    return reply(await services.rollouts.promote(wanted.version, actor, wanted.reason, wanted.dry_run, wanted.force))


async def start_canary(request: Request) -> Response:
    """Lets a version answer a share of the conversations, and answers once it does."""
    services = services_of(request)
    wanted = await read_json(request, CanaryRequest, services.api.max_body_bytes)
    done = await services.rollouts.start_canary(
        wanted.version, wanted.share, wanted.for_seconds, caller_of(request).actor, wanted.reason, wanted.dry_run
    )
    return reply(done)


async def abort_canary(request: Request) -> Response:
    """Ends the canary and answers once what is served takes all new requests."""
    services = services_of(request)
    wanted = await read_json(request, Order, services.api.max_body_bytes)
    return reply(await services.rollouts.abort_canary(caller_of(request).actor, wanted.reason, wanted.dry_run))


async def alarms(request: Request) -> Response:
    """What the watchdog found wrong with versions in service, and what it did."""
    services, limit = services_of(request), query_limit(request)
    return reply({"alarms": await run_in_threadpool(list_alarms, services.store, services.learner, limit)})


async def feedback(request: Request) -> Response:
    services, limit = services_of(request), query_limit(request)
    found = await run_in_threadpool(list_feedback, services.store, services.learner, limit)
    return reply({"feedback": found})
