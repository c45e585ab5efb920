"""``GET /openapi.json``: this interface in OpenAPI 3.1, made from the routes and the models of bodies and answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from selflearn.api import (
    admin,
    answer_schemas,
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
    page,
    pins,
    record_schemas,
    responses,
    status_schemas,
    story_schemas,
    version_schemas,
)
from selflearn.api.admin_schemas import (
    CanaryRequest,
    LearnRequest,
    Order,
    PageQuery,
    PinRequest,
    PromoteRequest,
    RollbackRequest,
    UnpinRequest,
    UpdateQuery,
    VerifyAuditRequest,
    VersionQuery,
)
from selflearn.api.answering import DONE
from selflearn.api.data_schemas import ExampleQuery, InteractionQuery, QuarantineRequest, ReleaseRequest
from selflearn.api.demonstration_schemas import ExportQuery, Import, ImportProgress, ImportQuery, ProgressQuery
from selflearn.api.event_schemas import RESPONSE_EVENTS, ChatChunk, CompletionChunk
from selflearn.api.keeping_schemas import ForgetRequest, RetainRequest
from selflearn.api.keys import Access
from selflearn.api.responses_schemas import ResponsesRequest
from selflearn.api.schemas import ChatRequest, CompletionRequest, EventRequest, FeedbackRequest
from selflearn.experience.transfer.row_schemas import DemonstrationRow

Endpoint = Callable[..., Any]
ROOT: Final = "#/components/schemas/"
JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
KEY: Final = {"key": {"type": "http", "scheme": "bearer", "description": "selflearn keys add NAME --role ROLE"}}
# What may be answered instead, beside 401 and 403: to requests with a body, and to those that a version answers.
BODY: Final = (400, 408, 413, 415)
ANSWER: Final = (*BODY, 404, 429, 500, 503, 504)
STORE: Final = (400, 404, 503)
REASONS: Final[Mapping[int, str]] = {
    400: "not acceptable; param says what is wrong",
    401: "no key, or one that is not known",
    403: "the key's role does not reach, or a page of another web site asks",
    404: "it names something that does not exist",
    408: "the body did not arrive in time",
    409: "already done, or not possible in the present state",
    413: "the body is too large",
    415: "the body is not JSON",
    429: "too many requests; Retry-After says when to try again",
    500: "a failure of this server",
    503: "not possible right now; Retry-After says when to try again",
    504: "the answer took too long",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route takes and gives: some JSON object if there is no ``answer``, text if ``media`` is not JSON.

    ``events`` is what a stream may consist of instead: data of these models, or these words.
    """

    summary: str
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    status: int = 200
    errors: tuple[int, ...] = ()
    failure: type[BaseModel] = answer_schemas.Error
    events: tuple[type[BaseModel] | str, ...] = ()
    media: str = JSON
    limited: bool = False  # takes ?limit=
    query: type[BaseModel] | None = None  # its other parameters
    lines: bool = False  # takes many bodies as well, one a line


async def show_document(request: Request) -> Response:
    return JSONResponse(request.app.state.openapi)


_CHUNKS: Final = (answer_schemas.Error, DONE.decode().strip().removeprefix("data: "))
OPERATIONS: Final[Mapping[Endpoint, Operation]] = {
    chat.chat_completions: Operation(
        "Answer a chat", ChatRequest, answer_schemas.ChatCompletion, errors=ANSWER, events=(ChatChunk, *_CHUNKS)
    ),
    completions.completions: Operation(
        "Continue prompts",
        CompletionRequest,
        answer_schemas.Completion,
        errors=ANSWER,
        events=(CompletionChunk, *_CHUNKS),
    ),
    responses.create_response: Operation(
        "Answer, in the Responses API", ResponsesRequest, answer_schemas.Response, errors=ANSWER, events=RESPONSE_EVENTS
    ),
    responses.show_response: Operation(
        "A response as it was recorded", answer=answer_schemas.Response, errors=(*STORE, 429)
    ),
    models.list_models: Operation("The names that can be asked", answer=answer_schemas.ModelList, errors=(429,)),
    models.show_model: Operation("One of them", answer=answer_schemas.Model, errors=(404, 429, 503)),
    events.report_event: Operation(
        "Say what a person did with an answer",
        EventRequest,
        answer_schemas.Feedback,
        201,
        (*BODY, 404, 409, 429, 503),
    ),
    feedback.give_feedback: Operation(
        "Say what is right, or whether an answer was good",
        FeedbackRequest,
        answer_schemas.Feedback,
        201,
        (*BODY, 404, 409, 429, 503),
    ),
    demonstrations.give_demonstrations: Operation(
        "Give examples of right answers, or of better ones",
        DemonstrationRow,
        Import,
        201,
        (*BODY, 429, 503),
        query=ImportQuery,
        lines=True,
    ),
    demonstrations.show_import: Operation(
        "How far the import of a file has come", answer=ImportProgress, errors=(400, 429, 503), query=ProgressQuery
    ),
    health.livez: Operation("Whether the process lives", answer=answer_schemas.Alive),
    health.readyz: Operation(
        "Whether a version serves", answer=answer_schemas.Ready, errors=(503,), failure=answer_schemas.Starting
    ),
    health.metrics: Operation("Metrics for Prometheus", media="text/plain"),
    show_document: Operation("This document"),
    page.show_page: Operation("The page for people; for programs what this is"),
    page.show_file: Operation("A file of the page", errors=(404,)),
    caller.show_caller: Operation("Whose key this is, and what it may do", answer=answer_schemas.Caller, errors=(429,)),
    admin.status: Operation(
        "Health, model, served version, counts, learning", answer=status_schemas.Status, errors=(503,)
    ),
    admin.learn_status: Operation("What learning does, and waits for", answer=status_schemas.Learning, errors=(503,)),
    admin.learn_now: Operation("Start an update", LearnRequest, answer_schemas.Started, 202, (*BODY, 409, 503)),
    admin.learn_pause: Operation("Start no updates", answer=answer_schemas.Paused, errors=(503,)),
    admin.learn_resume: Operation("Start updates again", answer=answer_schemas.Paused, errors=(503,)),
    admin.learn_cancel: Operation("Stop the running update", answer=answer_schemas.Cancelled, errors=(503,)),
    admin.list_updates: Operation(
        "The updates", answer=status_schemas.UpdateList, errors=(400, 503), query=UpdateQuery
    ),
    admin.show_update: Operation("An update", answer=status_schemas.Update, errors=STORE),
    admin.show_curve: Operation("The losses of an update", answer=version_schemas.Curve, errors=STORE),
    admin.explain: Operation("The whole story of an update", answer=story_schemas.Story, errors=STORE),
    admin.explain_interaction: Operation(
        "What came of an interaction", answer=story_schemas.InteractionStory, errors=(404, 503)
    ),
    admin.verify_everything: Operation(
        "Check every byte of all versions, and that the right one answers",
        answer=version_schemas.VerifiedAll,
        errors=(503,),
    ),
    admin.versions: Operation(
        "The versions", answer=version_schemas.VersionList, errors=(400, 503), query=VersionQuery
    ),
    admin.load_version: Operation(
        "Let a version answer to its own name", answer=version_schemas.Loaded, errors=(*STORE, 409, 500)
    ),
    admin.version: Operation("A version with its manifest", answer=version_schemas.AnyVersion, errors=(*STORE, 409)),
    admin.verify: Operation("Check every byte of a version", answer=version_schemas.Verified, errors=(*STORE, 409)),
    admin.alarms: Operation(
        "What the watchdog found wrong, and what it did", answer=status_schemas.Alarms, errors=(400, 503), limited=True
    ),
    admin.rollout_history: Operation(
        "What was served when", answer=version_schemas.RolloutList, errors=(400, 503), query=PageQuery
    ),
    admin.roll_back: Operation(
        "Go back to a version", RollbackRequest, answer=version_schemas.Change, errors=(*BODY, 404, 409, 503)
    ),
    admin.start_canary: Operation(
        "Let a version answer a share of the conversations",
        CanaryRequest,
        answer=version_schemas.CanaryStarted,
        errors=(*BODY, 404, 409, 503),
    ),
    admin.promote: Operation(
        "Serve a version, or the canary", PromoteRequest, answer=version_schemas.Change, errors=(*BODY, 404, 409, 503)
    ),
    admin.abort_canary: Operation(
        "End the canary", Order, answer=version_schemas.CanaryEnded, errors=(*BODY, 404, 409, 503)
    ),
    pins.pin_version: Operation(
        "Keep a version, or hold it in service",
        PinRequest,
        answer=version_schemas.Pinned,
        errors=(*BODY, 404, 409, 503),
    ),
    pins.unpin_version: Operation(
        "Take a pin away", UnpinRequest, answer=version_schemas.Pinned, errors=(*BODY, 404, 409, 503)
    ),
    audit.show_audit: Operation("Who did what", answer=version_schemas.AuditList, errors=(400, 503), limited=True),
    audit.check_audit: Operation(
        "Whether the audit log is whole", VerifyAuditRequest, answer=version_schemas.AuditVerified, errors=(*BODY, 503)
    ),
    admin.feedback: Operation(
        "The latest feedback", answer=record_schemas.FeedbackList, errors=(400, 503), limited=True
    ),
    data_stats.stats: Operation(
        "What came in, what became of it, and why no update runs", answer=record_schemas.Stats, errors=(503,)
    ),
    data.list_examples: Operation(
        "The newest examples", answer=record_schemas.ExampleList, errors=(400, 503), query=ExampleQuery
    ),
    data.show_example: Operation(
        "An example with all that is known of it", answer=record_schemas.ShownExample, errors=STORE
    ),
    data.list_interactions: Operation(
        "The newest interactions", answer=record_schemas.InteractionList, errors=STORE, query=InteractionQuery
    ),
    data.show_interaction: Operation(
        "An interaction and what came of it", answer=record_schemas.ShownInteraction, errors=(404, 503)
    ),
    data.sources: Operation("Where examples come from", answer=record_schemas.SourceList, errors=(503,)),
    data.quarantine: Operation(
        "Keep examples, or all of a source, from training",
        QuarantineRequest,
        answer=record_schemas.Quarantined,
        errors=(*BODY, 404, 503),
    ),
    data.release: Operation(
        "Let examples train again", ReleaseRequest, answer=record_schemas.Released, errors=(*BODY, 404, 409, 503)
    ),
    demonstrations.export_data: Operation(
        "Examples as JSON Lines", media=demonstrations.LINES, errors=(400, 503), query=ExportQuery
    ),
    keeping.forget_data: Operation(
        "Forget what was said", ForgetRequest, answer=record_schemas.Forgotten, errors=(*BODY, 404, 409, 503)
    ),
    keeping.certificates: Operation("What was forgotten", answer=record_schemas.CertificateList, errors=(503,)),
    keeping.certificate: Operation("What a forgetting did", answer=record_schemas.Certificate, errors=STORE),
    keeping.check_certificate: Operation(
        "Compare a certificate with the state", answer=record_schemas.VerifiedCertificate, errors=STORE
    ),
    keeping.retain_data: Operation(
        "Delete what is too old or too much", RetainRequest, answer=record_schemas.Retained, errors=(*BODY, 503)
    ),
    keeping.prune_versions: Operation(
        "Remove the files of versions that nothing needs",
        RetainRequest,
        answer=version_schemas.PrunedVersions,
        errors=(*BODY, 503),
    ),
    keeping.make_backup: Operation(
        "Back up the database and the versions", answer=record_schemas.Backup, status=201, errors=(404, 409, 503)
    ),
}


def document(routes: Iterable[tuple[str, str, Endpoint, Access]], *, keyed: bool) -> dict[str, Any]:
    """The document of an interface that has these routes; ``keyed``: it asks for keys."""
    paths: dict[str, Any] = {}
    for method, path, endpoint, access in routes:
        operation = OPERATIONS[endpoint]
        path = re.sub(r":\w+(?=})", "", path)  # of the router's converters nobody else knows
        paths.setdefault(path, {})[method.lower()] = {
            "operationId": endpoint.__name__,
            "tags": [path.split("/")[1] if path.count("/") > 1 else "daemon"],
            "summary": operation.summary,
            "parameters": _parameters(path, operation),
            **_body(operation),
            "responses": _responses(operation, access),
            "security": [{"key": [access]}] if keyed and access != "open" else [],
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "selflearn",
            "version": _version(),
            "summary": "A language model that learns from its own use.",
        },
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": KEY if keyed else {}},
    }


def _version() -> str:
    try:
        return version("selflearn")
    except PackageNotFoundError:  # it runs from its source
        return "0"


def _schemas() -> dict[str, Any]:
    """The components: all models that some operation takes or gives, with those that they consist of."""
    bodies = {operation.body for operation in OPERATIONS.values() if operation.body is not None}
    answers = {operation.answer for operation in OPERATIONS.values() if operation.answer is not None}
    events = {event for operation in OPERATIONS.values() for event in operation.events if not isinstance(event, str)}
    failures = {operation.failure for operation in OPERATIONS.values()}
    named: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in bodies]
    named += [(model, "serialization") for model in answers | events | failures]
    _, found = models_json_schema(sorted(named, key=str), ref_template=f"{ROOT}{{model}}")
    return dict(found["$defs"])


def _parameters(path: str, operation: Operation) -> list[dict[str, Any]]:
    number, text = {"type": "integer", "minimum": 0}, {"type": "string", "minLength": 1}
    fields = {} if operation.query is None else operation.query.model_json_schema()["properties"]
    in_path = re.findall(r"{(\w+)}", path)
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": number if name == "n" else fields.get(name, text)}
        for name in in_path
    ]
    found += [
        {"name": name, "in": "query", "schema": _said(schema)} for name, schema in fields.items() if name not in in_path
    ]
    if operation.limited:
        limit = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}
        found.append({"name": "limit", "in": "query", "schema": limit})
    return found


def _said(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter that may be left out: in an address it cannot be null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    return kinds[0] if kinds else schema


def _body(operation: Operation) -> dict[str, Any]:
    if operation.body is None:
        return {}
    needed = any(field.is_required() for field in operation.body.model_fields.values())
    content = {JSON: {"schema": _reference(operation.body)}}
    if operation.lines:
        content[demonstrations.LINES] = {"schema": {"type": "string"}}
    return {"requestBody": {"required": needed, "content": content}}


def _responses(operation: Operation, access: Access) -> dict[str, Any]:
    answer = {"type": "object"} if operation.answer is None else _reference(operation.answer)
    content = {operation.media: {"schema": answer if operation.media == JSON else {"type": "string"}}}
    if operation.events:
        content[EVENTS] = {"schema": _event(operation)}
    barred = (403,) if access == "open" else (401, 403)
    return {
        str(operation.status): {"description": "done", "content": content},
        **{str(status): _failure(status, answer_schemas.Error) for status in barred},
        **{str(status): _failure(status, operation.failure) for status in operation.errors},
    }


def _event(operation: Operation) -> dict[str, Any]:
    """One server-sent event; that is what the schema of a stream describes."""
    data = [
        {"const": one}
        if isinstance(one, str)
        else {"type": "string", "contentMediaType": JSON, "contentSchema": _reference(one)}
        for one in operation.events
    ]
    return {
        "type": "object",
        "required": ["data"],
        "properties": {"event": {"type": "string"}, "data": {"anyOf": data}},
    }


def _failure(status: int, model: type[BaseModel]) -> dict[str, Any]:
    return {"description": REASONS[status], "content": {JSON: {"schema": _reference(model)}}}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"{ROOT}{model.__name__}"}
