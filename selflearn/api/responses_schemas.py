"""What clients may send to ``POST /v1/responses``, and the chat that it asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, field_validator

from selflearn.api.bodies import Finite, Strict, validated
from selflearn.api.schemas import (
    MAX_METADATA,
    ChatRequest,
    FunctionDefinition,
    JsonObjectFormat,
    JsonSchema,
    Lenient,
    MetadataKey,
    MetadataValue,
    RefusalPart,
    TextFormat,
)
from selflearn.errors import BadRequest

MAX_ITEMS = 4096
LOGPROBS = "message.output_text.logprobs"

# Parameters of the Responses API that this server does not implement, with the values that ask for nothing.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "access_programs": (),
    "background": (False,),
    "context_management": ([],),
    "conversation": (),
    "image": (),
    "moderation": (),
    "prompt": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning": ({}, {"effort": "none"}),
    "truncation": ("disabled",),
}

CallId = Annotated[str, Field(min_length=1, max_length=128)]


class InputTextPart(Lenient):
    type: Literal["input_text"]
    text: str


class OutputTextPart(Lenient):
    """A part of an earlier answer, as it came."""

    type: Literal["output_text"]
    text: str


class InputMessage(Lenient):
    """A message of the input: a new one, or one of an earlier output."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[InputTextPart | OutputTextPart | RefusalPart]


class InputCall(Lenient):
    """A call of an earlier output; ``arguments`` is JSON in a string."""

    type: Literal["function_call"]
    call_id: CallId
    name: str = Field(min_length=1, max_length=128)
    arguments: str


class InputCallOutput(Lenient):
    """What a called function returned."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: str | list[InputTextPart]


def _kind(item: Any) -> str | None:
    """What an item of the input is; messages need not say it."""
    kind = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", None)
    return {"message": "InputMessage", "function_call": "InputCall", "function_call_output": "InputCallOutput"}.get(
        kind if isinstance(kind, str) else ""
    )


Item = Annotated[
    Annotated[InputMessage, Tag("InputMessage")]
    | Annotated[InputCall, Tag("InputCall")]
    | Annotated[InputCallOutput, Tag("InputCallOutput")],
    Discriminator(
        _kind,
        custom_error_type="unknown_item",
        custom_error_message="items of type message, function_call and function_call_output are expected",
    ),
]


class FunctionTool(FunctionDefinition):
    """A function that the answer may call. It is held to its schema if ``strict`` is true."""

    type: Literal["function"]


def _no_other_tool(tool: Any) -> Any:
    if isinstance(tool, dict) and tool.get("type", "function") != "function":
        raise ValueError("only tools of type function are supported")
    return tool


class ChosenFunction(Strict):
    type: Literal["function"]
    name: str


class NamedSchema(JsonSchema):
    """A JSON schema that the answer follows."""

    type: Literal["json_schema"]


class TextOptions(Strict):
    format: TextFormat | JsonObjectFormat | NamedSchema | None = None
    verbosity: Literal["medium"] | None = None


class EventOptions(Strict):
    include_obfuscation: bool | None = None  # padding against eavesdroppers; there is none to leave out


Includable = Literal[
    "message.output_text.logprobs",
    # Parts of tools and reasoning that answers of this server never have.
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]


class ResponsesRequest(BaseModel):
    """The body of ``POST /v1/responses``. Other fields are refused by ``refuse_unsupported``."""

    model_config = ConfigDict(
        strict=True, extra="allow", frozen=True, json_schema_extra={"additionalProperties": False}
    )

    model: str
    input: str | Annotated[list[Item], Field(min_length=1, max_length=MAX_ITEMS)]
    instructions: str | None = None
    previous_response_id: str | None = Field(None, min_length=1, max_length=128)
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: Finite | None = Field(None, ge=0.0, le=2.0)
    top_p: Finite | None = Field(None, gt=0.0, le=1.0)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    include: list[Includable] | None = Field(None, max_length=32)
    text: TextOptions | None = None
    tools: list[Annotated[FunctionTool, BeforeValidator(_no_other_tool)]] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | ChosenFunction | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    stream_options: EventOptions | None = None
    store: bool | None = None
    metadata: dict[MetadataKey, MetadataValue] | None = Field(None, max_length=MAX_METADATA)
    user: str | None = Field(None, max_length=256)
    # These change nothing that this server does.
    max_tool_calls: int | None = Field(None, ge=1)  # of tools that OpenAI runs itself
    prompt_cache_key: str | None = Field(None, max_length=256)
    safety_identifier: str | None = Field(None, max_length=256)
    service_tier: Literal["auto", "default"] | None = None

    @field_validator("tools")
    @classmethod
    def _named_once(cls, tools: list[FunctionTool] | None) -> list[FunctionTool] | None:
        if len({tool.name for tool in tools or ()}) < len(tools or ()):
            raise ValueError("two tools have the same name")
        return tools

    @property
    def with_logprobs(self) -> bool:
        """Whether the log-probabilities of the answer's tokens are wanted."""
        return LOGPROBS in (self.include or ()) or bool(self.top_logprobs)


class ResponsesChat(ChatRequest):
    """The chat that a response is: complaints about it use the words of the Responses API."""

    @property
    def asked_tokens(self) -> tuple[str, int | None]:
        return "max_output_tokens", self.max_tokens


def chat_of(wanted: ResponsesRequest, history: Sequence[Mapping[str, Any]]) -> ResponsesChat:
    """The chat that a request asks for, after the messages of ``history``; raises ``BadRequest``."""
    lead = [] if wanted.instructions is None else [{"role": "system", "content": wanted.instructions}]
    asked: dict[str, Any] = {
        "model": wanted.model,
        "messages": [*lead, *_messages(wanted, history)],
        "max_tokens": wanted.max_output_tokens,
        "logprobs": wanted.with_logprobs,
        "top_logprobs": wanted.top_logprobs if wanted.with_logprobs else None,
        "response_format": _format(wanted.text),
        "tools": [_tool(tool) for tool in wanted.tools or ()] or None,
        "tool_choice": _choice(wanted.tool_choice),
    }
    same = ("temperature", "top_p", "parallel_tool_calls", "stream", "metadata", "user")
    return validated(ResponsesChat, {**asked, **{name: getattr(wanted, name) for name in same}})


def _messages(wanted: ResponsesRequest, history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A chat's messages. Calls belong to the message of the assistant that they follow, or make one."""
    messages = [dict(message) for message in history]
    if isinstance(wanted.input, str):
        return [*messages, {"role": "user", "content": wanted.input}]
    called = {call["id"] for message in messages for call in message.get("tool_calls") or ()}
    new: list[dict[str, Any]] = []
    for number, item in enumerate(wanted.input):
        if isinstance(item, InputCall):
            if not new or new[-1]["role"] != "assistant":
                new.append({"role": "assistant", "content": None})
            new[-1].setdefault("tool_calls", []).append(_call(item))
            called.add(item.call_id)
        elif isinstance(item, InputMessage):
            new.append({"role": item.role, "content": _text(item.content)})
        elif item.call_id in called:
            new.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
        else:
            raise _unknown_call(number, item.call_id)
    return [*messages, *new]


def _unknown_call(number: int, call_id: str) -> BadRequest:
    param = f"input[{number}].call_id"
    message = (
        f"{param}: there is no call {call_id[:80]!r} before this output of one. Send the function_call before it, or "
        "the previous_response_id of the response that called."
    )
    return BadRequest(message, param=param, code="invalid_value")


def _text(content: str | Sequence[InputTextPart | OutputTextPart | RefusalPart]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.refusal if isinstance(part, RefusalPart) else part.text for part in content)


def _call(item: InputCall) -> dict[str, Any]:
    return {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}


def _tool(tool: FunctionTool) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump(exclude={"type"})}


def _choice(choice: str | ChosenFunction | None) -> str | dict[str, Any] | None:
    if isinstance(choice, ChosenFunction):
        return {"type": "function", "function": {"name": choice.name}}
    return choice


def _format(text: TextOptions | None) -> dict[str, Any] | None:
    wanted = text.format if text else None
    if isinstance(wanted, NamedSchema):
        return {"type": "json_schema", "json_schema": wanted.model_dump(exclude={"type"}, by_alias=True)}
    return None if wanted is None else wanted.model_dump()
