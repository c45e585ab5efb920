"""``/admin/audit``: who did what, and whether the log of it is whole."""

from __future__ import annotations

from dataclasses import asdict

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from selflearn.api.admin_schemas import VerifyAuditRequest
from selflearn.api.bodies import query_limit, read_json
from selflearn.api.replies import reply
from selflearn.api.state import services_of
from selflearn.store.audit import list_audit, verify_audit


async def show_audit(request: Request) -> Response:
    services, limit = services_of(request), query_limit(request)
    found = await run_in_threadpool(lambda: list_audit(services.store.connection(), limit))
    return reply({"audit": found})


async def check_audit(request: Request) -> Response:
    """Walks the whole log; that it does not hold is an answer, not a failure."""
    services = services_of(request)
    wanted = await read_json(request, VerifyAuditRequest, services.api.max_body_bytes)
    found = await run_in_threadpool(lambda: verify_audit(services.store.connection(), wanted.expect))
    return reply({**asdict(found), "holds": found.holds})
