"""What a response looks like on the wire: the object, its output, its usage.

Everything in it comes from the request, the recorded row and the raw answer, so that a response that is fetched later
says the same as when it was made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from selflearn.api.responses_schemas import ResponsesRequest
from selflearn.api.tools import ToolCall

PREFIX = "resp_"
Status = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is true of a response from its beginning; ``echo`` is :func:`echo_of` its request.

    ``created`` is unix seconds, ``tools`` are those that were offered, from :func:`tool_echo`.
    """

    id: str
    created: float
    model: str
    fingerprint: str
    temperature: float
    top_p: float
    echo: Mapping[str, Any]
    tools: Sequence[Mapping[str, Any]]


def echo_of(wanted: ResponsesRequest) -> dict[str, Any]:
    """What a response repeats of its request, except its tools: these have a place in the row already."""
    text = wanted.text.format if wanted.text else None
    choice = wanted.tool_choice or "auto"
    return {
        "instructions": wanted.instructions,
        "max_output_tokens": wanted.max_output_tokens,
        "max_tool_calls": wanted.max_tool_calls,
        "metadata": wanted.metadata or {},
        "parallel_tool_calls": wanted.parallel_tool_calls is not False,
        "previous_response_id": wanted.previous_response_id,
        "prompt_cache_key": wanted.prompt_cache_key,
        "safety_identifier": wanted.safety_identifier,
        "store": wanted.store is not False,
        "text": {"format": text.model_dump(by_alias=True) if text else {"type": "text"}, "verbosity": "medium"},
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "top_logprobs": wanted.top_logprobs or 0,
        "user": wanted.user,
    }


def response_object(
    facts: Facts,
    status: Status,
    *,
    output: Sequence[Mapping[str, Any]] = (),
    usage: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
    completed: float | None = None,
) -> dict[str, Any]:
    """The whole object; the client's types know every one of these fields but ``system_fingerprint``."""
    return {
        "id": facts.id,
        "object": "response",
        "created_at": int(facts.created),
        "completed_at": None if completed is None else int(completed),
        "status": status,
        "background": False,
        "error": error,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "model": facts.model,
        "system_fingerprint": facts.fingerprint,
        "output": list(output),
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "temperature": facts.temperature,
        "top_p": facts.top_p,
        "tools": list(facts.tools),
        "truncation": "disabled",
        "usage": usage,
        **facts.echo,
    }


def output_of(
    response_id: str, text: str, calls: Sequence[ToolCall], logprobs: Sequence[Mapping[str, Any]], *, whole: bool
) -> list[dict[str, Any]]:
    """An answer's items: its text, unless only something is called, then its calls. ``whole``: it was not cut off."""
    status = "completed" if whole else "incomplete"
    message = [message_item(response_id, status, [text_part(text, logprobs)])] if text or not calls else []
    return [*message, *(call_item(response_id, number, call) for number, call in enumerate(calls))]


def message_item(response_id: str, status: str, content: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    item_id = f"msg_{response_id.removeprefix(PREFIX)}"
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": list(content)}


def text_part(text: str, logprobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def call_item(response_id: str, number: int, call: ToolCall) -> dict[str, Any]:
    """The item of a response's call ``number``; calls are held back until they are whole, so it is complete."""
    return {
        "id": f"fc_{response_id.removeprefix(PREFIX)}_{number}",
        "type": "function_call",
        "status": "completed",
        "call_id": call_id(response_id, number),
        "name": call.name,
        "arguments": call.arguments,
    }


def call_id(response_id: str, number: int) -> str:
    """The name of a response's call ``number``: always the same, so that later requests can refer to it."""
    return f"call_{response_id.removeprefix(PREFIX)}_{number}"


def usage_of(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Counts of tokens. There is no reasoning, and what a cache may have saved is not counted."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }


def tool_echo(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A function of a chat's tools in the flat form of the Responses API, all fields named."""
    blank = {"name": "", "description": None, "parameters": None, "strict": None}
    return {"type": "function", **blank, **tool["function"]}
