"""What streams of this server send, event by event, as models for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from selflearn.api.answer_schemas import (
    ChatLogprobs,
    CompletionChoice,
    Count,
    Fingerprint,
    InteractionId,
    ModelName,
    OutputCall,
    OutputMessage,
    OutputText,
    Response,
    Time,
    TokenLogprobs,
    Usage,
)
from selflearn.api.bodies import Strict

Counted = Annotated[Usage | None, Field(default=None, description="in the last chunk, if it was asked for")]


class CalledPiece(Strict):
    name: str = Field(default="", description="in the first piece of a call")
    arguments: str


class CallPiece(Strict):
    """A piece of a call: who is called, then with what."""

    index: Count
    id: str = Field(default="", description="in the first piece of a call")
    type: Literal["function"] = "function"
    function: CalledPiece


class Delta(Strict):
    role: Literal["assistant"] = "assistant"
    content: str = ""
    tool_calls: list[CallPiece] = Field(default=[])


class ChunkChoice(Strict):
    index: Count
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"] | None


class ChatChunk(Strict):
    """What is new of an answer to a chat."""

    id: InteractionId
    object: Literal["chat.completion.chunk"]
    created: Time
    model: ModelName
    system_fingerprint: Fingerprint
    choices: list[ChunkChoice]
    usage: Counted


class CompletionPiece(CompletionChoice):
    finish_reason: Literal["stop", "length"] | None  # type: ignore[assignment]


class CompletionChunk(Strict):
    """What is new of continuations."""

    id: InteractionId
    object: Literal["text_completion"]
    created: Time
    model: ModelName
    system_fingerprint: Fingerprint
    choices: list[CompletionPiece]
    usage: Counted


class ResponseEvent(Strict):
    """Of the Responses API: all events of a stream are numbered from 0."""

    sequence_number: Count


class ResponseProgress(ResponseEvent):
    type: Literal[
        "response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed"
    ]
    response: Response


class ItemEvent(ResponseEvent):
    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: Count
    item: OutputMessage | OutputCall


class PartEvent(ResponseEvent):
    type: Literal["response.content_part.added", "response.content_part.done"]
    item_id: str
    output_index: Count
    content_index: Count
    part: OutputText


class TextDelta(ResponseEvent):
    type: Literal["response.output_text.delta"]
    item_id: str
    output_index: Count
    content_index: Count
    delta: str
    logprobs: list[TokenLogprobs]


class TextDone(ResponseEvent):
    type: Literal["response.output_text.done"]
    item_id: str
    output_index: Count
    content_index: Count
    text: str
    logprobs: list[TokenLogprobs]


class ArgumentsDelta(ResponseEvent):
    type: Literal["response.function_call_arguments.delta"]
    item_id: str
    output_index: Count
    delta: str


class ArgumentsDone(ResponseEvent):
    type: Literal["response.function_call_arguments.done"]
    item_id: str
    output_index: Count
    name: str
    arguments: str


RESPONSE_EVENTS = (ResponseProgress, ItemEvent, PartEvent, TextDelta, TextDone, ArgumentsDelta, ArgumentsDone)
