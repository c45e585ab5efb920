"""``POST /v1/responses`` and ``GET /v1/responses/{response_id}``: OpenAI's Responses API over the same chats."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from selflearn.api.answering import AnswerResponse, fingerprint
from selflearn.api.bodies import read_json, short
from selflearn.api.exchange import Exchange, admit
from selflearn.api.keys import Caller, caller_of
from selflearn.api.models import find_version
from selflearn.api.plans import CONVERSATION_HEADER, Plan, plan_chat
from selflearn.api.responses_events import ResponseShape
from selflearn.api.responses_history import find_response, history_of, recorded_as, shown
from selflearn.api.responses_objects import PREFIX, Facts, echo_of, tool_echo
from selflearn.api.responses_schemas import NEUTRAL, ResponsesRequest, chat_of
from selflearn.api.schemas import refuse_unsupported
from selflearn.api.services import Services
from selflearn.api.state import request_id_of, services_of
from selflearn.errors import BadRequest

# What chats call otherwise.
_NAMES = {"messages": "input", "response_format": "text.format"}


async def create_response(request: Request) -> Response:
    """Answers; the response is an interaction, whose row is durable before the first byte leaves."""
    services = services_of(request)
    wanted = await read_json(request, ResponsesRequest, services.api.max_body_bytes)
    refuse_unsupported(wanted, NEUTRAL)
    version = find_version(services, wanted.model)
    try:
        plan = await _plan(request, services, wanted)
        exchange = await admit(services, plan, version)
    except BadRequest as error:
        raise _reworded(error) from error
    return ResponseAnswer(exchange, ResponseShape(services, exchange, _facts(services, exchange)))


async def show_response(request: Request) -> Response:
    """A response as it was recorded, for the caller who asked for it."""
    services, name = services_of(request), request.path_params["response_id"]
    for parameter in request.query_params:
        message = f"{short(parameter)} is not supported here: a response is shown as it was recorded. Leave it out."
        raise BadRequest(message, param=parameter, code="unsupported_parameter")
    caller = caller_of(request)

    def read() -> dict[str, Any]:
        return shown(services, find_response(services, caller, name, "response_id"))

    return JSONResponse(await run_in_threadpool(read))


class ResponseAnswer(AnswerResponse):
    """As every answer, but what the engine finds wrong with a request is told in the words of this API."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except BadRequest as error:
            raise _reworded(error) from error


async def _plan(request: Request, services: Services, wanted: ResponsesRequest) -> Plan:
    caller, history, headers = caller_of(request), [], request.headers
    if wanted.previous_response_id is not None:
        row = await run_in_threadpool(_previous, services, caller, wanted.previous_response_id)
        history = history_of(row)
        # What continues a conversation belongs to it, whatever its first words have become by redaction.
        headers = Headers({CONVERSATION_HEADER: row["conversation"], **headers})
    return await plan_chat(
        services,
        caller,
        chat_of(wanted, history),
        request_id_of(request),
        headers,
        id_prefix=PREFIX,
        parameters=recorded_as(caller, echo_of(wanted)),
    )


def _previous(services: Services, caller: Caller, response_id: str) -> dict[str, Any]:
    return find_response(services, caller, response_id, "previous_response_id")


def _facts(services: Services, exchange: Exchange) -> Facts:
    plan, sampling = exchange.plan, exchange.plan.asks[0].sampling
    return Facts(
        id=plan.interaction_id,
        created=plan.created,
        model=f"selflearn@{exchange.version}",
        fingerprint=fingerprint(services, exchange.version),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        echo=plan.parameters["response"],
        tools=[tool_echo(tool) for tool in plan.parameters.get("tools") or ()],
    )


def _reworded(error: BadRequest) -> BadRequest:
    """The same error, with the names that parameters have here."""
    name = _NAMES.get(error.param or "")
    if name is None:
        return error
    return type(error)(str(error).replace(str(error.param), name), param=name, code=error.code)
