"""Whether the daemon lives and serves, its metrics, and a page that says what this is."""

from __future__ import annotations

import html

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from selflearn import overview
from selflearn.api.services import Services
from selflearn.api.state import services_of
from selflearn.experience import QUARANTINE, funnel

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>selflearn</title>
<style>body{font:16px/1.5 system-ui;max-width:46rem;margin:3rem auto;padding:0 1rem}code,pre{background:#f3f3f3;
padding:.1rem .3rem}pre{padding:1rem;overflow:auto}</style>
<h1>selflearn</h1><p>This daemon serves a language model over the OpenAI API and lets it learn from corrections.
An update reaches users only if it proved that it learned something and forgot nothing.</p>
<pre>curl %(base)sv1/chat/completions -H 'Content-Type: application/json' \\
  -d '{"model": "selflearn", "messages": [{"role": "user", "content": "Hello!"}]}'

curl %(base)sv1/feedback -H 'Content-Type: application/json' \\
  -d '{"interaction_id": "THE ID OF AN ANSWER", "kind": "correction", "text": "the right answer"}'</pre>
<p><a href="/v1/models">models</a> · <a href="/admin/status">status</a> · <a href="/admin/learn">learning</a> ·
<a href="/admin/versions">versions</a> · <a href="/admin/rollouts">rollouts</a> · <a href="/metrics">metrics</a> ·
<a href="/readyz">ready?</a></p><p>On the command line: <code>selflearn status</code>,
<code>selflearn chat</code>, <code>selflearn --help</code>.</p></html>
"""


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


async def page(request: Request) -> Response:
    """The pointer page: HTML for a browser, JSON for others."""
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(PAGE.replace("%(base)s", html.escape(str(request.base_url))))
    paths = ["/v1/chat/completions", "/v1/models", "/v1/feedback", "/admin/status", "/metrics", "/readyz", "/livez"]
    return JSONResponse({"name": "selflearn", "is": "a language model that learns from its own use", "paths": paths})
