"""``/v1/demonstrations`` and ``/admin/data/export``: training data comes in, and goes out again."""

from __future__ import annotations

import io
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from selflearn.api.bodies import read_body, validated
from selflearn.api.demonstration_schemas import ExportQuery, ImportQuery, ProgressQuery
from selflearn.api.keys import caller_of
from selflearn.api.replies import reply
from selflearn.api.services import Services
from selflearn.api.state import services_of
from selflearn.errors import BadRequest, SelflearnError
from selflearn.experience.transfer.exporting import Selection, export_lines
from selflearn.experience.transfer.importing import Line, import_rows, import_source
from selflearn.experience.transfer.imports import (
    Counts,
    ImportedFile,
    Sender,
    finish_import,
    progress_of,
    restart_import,
)

LINES: Final = "application/x-ndjson"
#: Names that JSON Lines go by.
_LINES: Final = (LINES, "application/jsonl", "application/x-jsonlines", "application/jsonlines")


async def give_demonstrations(request: Request) -> Response:
    """Takes rows, each by itself; 201 once those that are acceptable are durable, 400 if none is."""
    services = services_of(request)
    wanted = validated(ImportQuery, dict(request.query_params))
    sender = _sender(request, wanted.name)
    lines = _lines(request, await read_body(request, services.api.max_body_bytes), wanted)
    try:
        counts = await run_in_threadpool(_import, services, sender, lines, wanted)
    except SelflearnError:
        services.metrics.feedback.labels("demonstration", "rejected").inc()
        raise
    _count(services, counts)
    if wanted.file is None and counts.rejected.total() == counts.received:
        raise _none_taken(counts)
    return JSONResponse(_answer(sender, counts), 201)


async def show_import(request: Request) -> Response:
    """How far the import of a file has come, for the sender that asks."""
    wanted = validated(ProgressQuery, {**request.query_params, "file": request.path_params["file"]})
    sender, file = _sender(request, wanted.name), ImportedFile(wanted.file, "")
    found = await run_in_threadpool(progress_of, services_of(request).store, sender, file, wanted.format)
    return reply({**_answer(sender, found.counts), "lines": found.lines, "finished_at": found.finished_at})


async def export_data(request: Request) -> Response:
    """Streams examples as JSON Lines."""
    services, sent = services_of(request), request.query_params
    named = {name: sent.getlist(name) for name in ("state", "source") if name in sent}
    wanted = validated(ExportQuery, {**sent, **named})
    selection = Selection(wanted.format, tuple(wanted.state), tuple(wanted.source), wanted.metadata)
    headers = {"content-disposition": f'attachment; filename="{services.learner}-{wanted.format}.jsonl"'}
    # An iterator that is not asynchronous is read in threads, piece by piece.
    lines = export_lines(services.store, services.learner, selection)
    return StreamingResponse(lines, media_type=LINES, headers=headers)


def _sender(request: Request, name: str | None) -> Sender:
    """Only operators' imports are sources of their own: a teacher could get around the cap of its key with names."""
    caller = caller_of(request)
    named = None if name is None else import_source(name)
    source = named if named and caller.may("operator") else caller.name
    return Sender(services_of(request).learner, source, role=caller.role)


def _lines(request: Request, body: bytes, wanted: ImportQuery) -> list[Line]:
    """The rows of a body: lines, or one JSON value over as many lines as it likes."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type in _LINES:
        return list(enumerate(io.BytesIO(body), wanted.line))
    if content_type == "application/json":
        if wanted.file is not None:
            message = f"A part of a file is JSON Lines. Send it with Content-Type: {LINES}, or leave file out."
            raise BadRequest(message, param="file", code="invalid_value")
        return [(1, body)]
    raise BadRequest(
        f"The body is {content_type or 'of no named type'}; send JSON Lines with Content-Type: {LINES}, or one row "
        "with Content-Type: application/json.",
        code="unsupported_media_type",
    )


def _import(services: Services, sender: Sender, lines: list[Line], wanted: ImportQuery) -> Counts:
    file = None if wanted.file is None else ImportedFile(wanted.file, wanted.name or sender.source)
    if file and wanted.again:
        restart_import(services.store, sender, file, wanted.format)
    counts = import_rows(
        services.store,
        sender,
        lines,
        format_=wanted.format,
        file=file,
        settings=services.experience,
        now=services.now,
    )
    if file and wanted.last:
        finish_import(services.store, sender, file, wanted.format, now=services.now)
    return counts


def _count(services: Services, counts: Counts) -> None:
    counted = services.metrics.feedback
    for outcome, number in counts.outcomes.items():
        counted.labels(*outcome.split("/")).inc(number)
    for kind, number in counts.rejected.items():
        counted.labels(kind, "rejected").inc(number)


def _answer(sender: Sender, counts: Counts) -> dict[str, Any]:
    return {"object": "selflearn.import", "source": sender.source, **counts.summary()}


def _none_taken(counts: Counts) -> BadRequest:
    if not counts.received:
        return BadRequest("The body has no rows. Send one JSON object a line.", code="no_rows")
    first = counts.errors[0]
    more = f" {counts.received - 1} more rows were not acceptable either." if counts.received > 1 else ""
    return BadRequest(
        f"Nothing of this can be learned; nothing changed. Line {first.line}: {first.reason}.{more}",
        code="no_acceptable_row",
    )
