"""Recorded responses: the conversation that a new one continues, and the object that is fetched later.

Only what was recorded is known, and secrets are redacted before anything is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selflearn.api.answering import fingerprint
from selflearn.api.keys import Caller
from selflearn.api.responses_objects import (
    Facts,
    Status,
    call_id,
    output_of,
    response_object,
    tool_echo,
    usage_of,
)
from selflearn.api.services import Services
from selflearn.api.tools import ToolCall, split_calls
from selflearn.errors import BadRequest, NotFound
from selflearn.experience import get_interaction

ENDPOINT = "responses"
# How a row's state is told; all others have failed.
_STATUS: Mapping[str, Status] = {"running": "in_progress", "completed": "completed", "cancelled": "cancelled"}


def recorded_as(caller: Caller, echo: Mapping[str, Any]) -> dict[str, Any]:
    """What a response's row has among its parameters beside those of the chat."""
    return {"endpoint": ENDPOINT, "caller": caller.name, "response": dict(echo)}


def find_response(services: Services, caller: Caller, response_id: str, param: str) -> dict[str, Any]:
    """The row of a response that this caller asked for and had stored; raises ``NotFound``.

    ``param`` is where the client named it. Reads the database: call it from a thread.
    """
    try:
        row = get_interaction(services.store, services.learner, response_id)
    except NotFound as error:
        if error.code == "interaction_forgotten":
            raise NotFound(str(error), param=param, code=f"{param.removesuffix('_id')}_forgotten") from None
        row = None
    known = row is not None and row["parameters"].get("endpoint") == ENDPOINT
    if row is None or not known or row["parameters"]["caller"] != caller.name:
        message = f"There is no response {response_id[:80]!r} of yours. Expected the id of one (resp_...)."
        raise NotFound(message, param=param, code=f"{param.removesuffix('_id')}_not_found")
    if not row["parameters"]["response"]["store"]:
        message = f"The response {response_id} was made with store=false and cannot be referred to. Store the next one."
        raise NotFound(message, param=param, code="response_not_stored")
    return row


def history_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages up to and including the answer, without the instructions: they hold for one response only.

    Raises ``BadRequest`` if the answer did not come to its end.
    """
    if row["state"] != "completed":
        message = f"The response {row['id']} is {row['state']}; only one that came to its end can be continued."
        raise BadRequest(message, param="previous_response_id", code="response_not_completed")
    instructed = row["parameters"]["response"]["instructions"] is not None
    text, calls = _parted(row)
    answer: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        answer["tool_calls"] = [_called(row["id"], number, call) for number, call in enumerate(calls)]
    return [*row["messages"][int(instructed) :], answer]


def _called(response_id: str, number: int, call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call_id(response_id, number), "type": "function", "function": function}


def shown(services: Services, row: Mapping[str, Any]) -> dict[str, Any]:
    """The response object of a recorded row. Log-probabilities are not recorded, so it has none."""
    parameters, version = row["parameters"], row["version"]
    text, calls = _parted(row)
    status = _STATUS.get(row["state"], "failed")
    if row["finish_reason"] == "length":
        status = "incomplete"
    counted = row["prompt_tokens"], row["completion_tokens"]
    facts = Facts(
        id=row["id"],
        created=row["created_at"],
        model=f"selflearn@{version}",
        fingerprint=fingerprint(services, version),
        temperature=parameters["temperature"],
        top_p=parameters["top_p"],
        echo=parameters["response"],
        tools=[tool_echo(tool) for tool in parameters.get("tools") or ()],
    )
    return response_object(
        facts,
        status,
        output=output_of(row["id"], text, calls, (), whole=status == "completed") if row["answer"] is not None else (),
        usage=None if None in counted else usage_of(*counted),
        error={"code": "server_error", "message": f"The answer was {row['state']}."} if status == "failed" else None,
        completed=row["completed_at"],
    )


def _parted(row: Mapping[str, Any]) -> tuple[str, Sequence[ToolCall]]:
    """A recorded answer's text and calls."""
    text, offered = row["answer"] or "", row["parameters"].get("tools") or ()
    if not offered or row["parameters"].get("tool_choice") == "none":
        return text, ()
    return split_calls(text, {tool["function"]["name"] for tool in offered})
