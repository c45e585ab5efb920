"""The application: its routes with the roles that may use them, and the layers around all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from selflearn.api import (
    admin,
    audit,
    caller,
    chat,
    completions,
    data,
    data_stats,
    demonstrations,
    events,
    feedback,
    health,
    keeping,
    models,
    openapi,
    page,
    pins,
    responses,
)
from selflearn.api.accounting import TrackRequests
from selflearn.api.errors import HANDLERS
from selflearn.api.keys import Access, RequireKey, RequireRole
from selflearn.api.limits import LimitBody, LimitRate
from selflearn.api.origins import SameOriginOnly
from selflearn.api.services import Services
from selflearn.api.tracing import TraceRequests
from selflearn.monitoring.tracing import Tracing

# Method, path, what answers, and the least role that may ask.
ROUTES: tuple[tuple[str, str, Callable[..., Any], Access], ...] = (
    ("POST", "/v1/chat/completions", chat.chat_completions, "client"),
    ("POST", "/v1/completions", completions.completions, "client"),
    ("POST", "/v1/responses", responses.create_response, "client"),
    ("GET", "/v1/responses/{response_id}", responses.show_response, "client"),
    ("GET", "/v1/models", models.list_models, "client"),
    ("GET", "/v1/models/{name:path}", models.show_model, "client"),
    ("POST", "/v1/feedback", feedback.give_feedback, "teacher"),
    ("POST", "/v1/events", events.report_event, "teacher"),
    ("POST", "/v1/demonstrations", demonstrations.give_demonstrations, "teacher"),
    ("GET", "/v1/demonstrations/{file}", demonstrations.show_import, "teacher"),
    ("GET", "/livez", health.livez, "open"),
    ("GET", "/readyz", health.readyz, "client"),
    ("GET", "/metrics", health.metrics, "client"),
    ("GET", "/openapi.json", openapi.show_document, "client"),
    ("GET", "/", page.show_page, "open"),
    ("GET", "/page/{file:path}", page.show_file, "open"),
    ("GET", "/v1/caller", caller.show_caller, "client"),
    ("GET", "/admin/status", admin.status, "operator"),
    ("GET", "/admin/learn", admin.learn_status, "operator"),
    ("POST", "/admin/learn", admin.learn_now, "operator"),
    ("POST", "/admin/learn/pause", admin.learn_pause, "operator"),
    ("POST", "/admin/learn/resume", admin.learn_resume, "operator"),
    ("POST", "/admin/learn/cancel", admin.learn_cancel, "operator"),
    ("GET", "/admin/updates", admin.list_updates, "operator"),
    ("GET", "/admin/updates/{n}", admin.show_update, "operator"),
    ("GET", "/admin/updates/{n}/curve", admin.show_curve, "operator"),
    ("GET", "/admin/why/{n}", admin.explain, "operator"),
    ("GET", "/admin/why/interactions/{interaction_id}", admin.explain_interaction, "operator"),
    ("POST", "/admin/verify", admin.verify_everything, "operator"),
    ("GET", "/admin/versions", admin.versions, "operator"),
    ("GET", "/admin/versions/{n}", admin.version, "operator"),
    ("POST", "/admin/versions/{n}/verify", admin.verify, "operator"),
    ("POST", "/admin/versions/{n}/load", admin.load_version, "operator"),
    ("POST", "/admin/versions/prune", keeping.prune_versions, "operator"),
    ("GET", "/admin/rollouts", admin.rollout_history, "operator"),
    ("POST", "/admin/rollback", admin.roll_back, "operator"),
    ("POST", "/admin/rollouts/canary", admin.start_canary, "operator"),
    ("POST", "/admin/rollouts/promote", admin.promote, "operator"),
    ("POST", "/admin/rollouts/abort", admin.abort_canary, "operator"),
    ("POST", "/admin/rollouts/pin", pins.pin_version, "operator"),
    ("POST", "/admin/rollouts/unpin", pins.unpin_version, "operator"),
    ("GET", "/admin/audit", audit.show_audit, "operator"),
    ("POST", "/admin/audit/verify", audit.check_audit, "operator"),
    ("GET", "/admin/alarms", admin.alarms, "operator"),
    ("GET", "/admin/feedback", admin.feedback, "operator"),
    ("GET", "/admin/data/stats", data_stats.stats, "operator"),
    ("GET", "/admin/data/examples", data.list_examples, "operator"),
    ("GET", "/admin/data/examples/{n}", data.show_example, "operator"),
    ("GET", "/admin/data/interactions", data.list_interactions, "operator"),
    ("GET", "/admin/data/interactions/{interaction_id}", data.show_interaction, "operator"),
    ("GET", "/admin/data/sources", data.sources, "operator"),
    ("POST", "/admin/data/quarantine", data.quarantine, "operator"),
    ("POST", "/admin/data/release", data.release, "operator"),
    ("GET", "/admin/data/export", demonstrations.export_data, "operator"),
    ("POST", "/admin/data/forget", keeping.forget_data, "operator"),
    ("GET", "/admin/data/certificates", keeping.certificates, "operator"),
    ("GET", "/admin/data/certificates/{n}", keeping.certificate, "operator"),
    ("POST", "/admin/data/certificates/{n}/verify", keeping.check_certificate, "operator"),
    ("POST", "/admin/data/retain", keeping.retain_data, "operator"),
    ("POST", "/admin/backup", keeping.make_backup, "operator"),
)


def create_app(services: Services, tracing: Tracing | None = None) -> Starlette:
    """Builds the application that serves ``services`` over HTTP, and keeps its gauges fresh."""
    paths: dict[object, str] = {row[2]: row[1] for row in ROUTES}
    traced = [] if tracing is None else [Middleware(TraceRequests, tracing=tracing, paths=paths)]
    app = Starlette(
        routes=[_route(*row) for row in ROUTES],
        exception_handlers=HANDLERS,
        middleware=[
            *traced,
            Middleware(TrackRequests, metrics=services.metrics, paths=paths),
            Middleware(SameOriginOnly),
            Middleware(RequireKey, open_paths={row[1] for row in ROUTES if row[3] == "open"} | page.paths()),
            Middleware(LimitRate),
            Middleware(LimitBody),
        ],
    )
    app.state.services = services
    app.state.openapi = openapi.document(ROUTES, keyed=services.keyring is not None)
    health.watch(services)
    return app


def _route(method: str, path: str, endpoint: Callable[..., Any], access: Access) -> Route:
    layers = [] if access == "open" else [Middleware(RequireRole, role=access)]
    return Route(path, endpoint, methods=[method], middleware=layers)
