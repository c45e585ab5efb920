"""Whether the daemon lives and serves, and its metrics."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from selflearn import overview
from selflearn.api.services import Services
from selflearn.api.state import services_of
from selflearn.experience import QUARANTINE, funnel


async def livez(request: Request) -> Response:
    """200 as long as the event loop turns."""
    del request
    return JSONResponse({"status": "alive"})


async def readyz(request: Request) -> Response:
    """200 once a generation serves, 503 before; also while the database cannot be written, because chat goes on."""
    services = services_of(request)
    current = services.traffic.current
    if current is None:
        return JSONResponse({"status": "starting", "detail": "the model is being loaded"}, 503)
    return JSONResponse({"status": "ready", "version": current.version, "recording": services.store.writable})


async def metrics(request: Request) -> Response:
    known = services_of(request).metrics
    return Response(await run_in_threadpool(known.exposition), media_type=known.content_type)


def watch(services: Services) -> None:
    """Sets the gauges that tell a present state (requests, served version, examples) whenever metrics are read."""
    known, traffic = services.metrics, services.traffic

    def requests() -> None:
        known.requests_running.set(traffic.running)
        known.requests_waiting.set(traffic.waiting)
        canary = traffic.canary
        known.set_canary(None if canary is None else (canary.version, weights(canary.version)), traffic.canary_share)

    def weights(version: int) -> str:
        """The hash of what was loaded: where it is not the registered one, that must show."""
        loaded = services.rollouts.loaded_sha256(version)
        return loaded or overview.weights_sha256(services.store, services.learner, version)

    def version() -> None:
        if (current := traffic.current) is not None:
            known.set_served(current.version, weights(current.version))
        named = overview.served(services.store, services.learner)
        known.set_promoted(named["version"], named["sha256"], named["since"])

    def experience() -> None:
        found = funnel(services.store, services.learner)
        known.set_funnel({stage["stage"]: stage["number"] for stage in found["stages"]})
        known.set_examples(found["examples"])
        quarantine = found["quarantine"]
        named = {reason: quarantine.get(reason, 0) for reason in QUARANTINE}
        known.set_quarantined({**named, "other": sum(quarantine.values()) - sum(named.values())})
        known.set_redactions(found["redacted"])

    for refresh in (requests, version, experience):
        known.before_scrape(refresh)
