"""What this server answers, as models for the OpenAPI document. The answers themselves are put together elsewhere."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from selflearn.api.bodies import Strict
from selflearn.api.responses_schemas import ChosenFunction, FunctionTool, TextOptions

Count = Annotated[int, Field(ge=0)]
Time = Annotated[int, Field(ge=0, description="unix seconds")]
Byte = Annotated[int, Field(ge=0, le=255)]
InteractionId = Annotated[str, Field(description="the interaction: POST /v1/feedback takes it")]
ModelName = Annotated[str, Field(description="the version that answered: selflearn@N")]
Fingerprint = Annotated[str, Field(description="the version and the beginning of its weights' hash")]


class ErrorFields(Strict):
    message: str = Field(description="what was found, what was expected, what to do next")
    type: Literal["invalid_request_error", "requests", "server_error"]
    param: str | None = Field(description="the parameter that is wrong")
    code: str | None = Field(description="a word for programs")


class Error(Strict):
    """Every failure, in OpenAI's form."""

    error: ErrorFields


class Caller(Strict):
    """Who asks."""

    name: str = Field(description="of the key; 'local' without keys")
    role: Literal["client", "teacher", "operator"]
    keys: bool = Field(description="whether this server asks for keys")


class TokenLogprob(Strict):
    token: str
    logprob: float
    bytes: list[Byte]


class TokenLogprobs(TokenLogprob):
    top_logprobs: list[TokenLogprob]


class Called(Strict):
    name: str
    arguments: str = Field(description="JSON, as the model wrote it")


class ToolCall(Strict):
    id: str
    type: Literal["function"]
    function: Called


class ChatAnswer(Strict):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCall] = Field(default=[], description="only if the model calls something")


class ChatLogprobs(Strict):
    content: list[TokenLogprobs]
    refusal: None


class ChatChoice(Strict):
    index: Count
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class Usage(Strict):
    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count


class ChatCompletion(Strict):
    """A whole answer to a chat."""

    id: InteractionId
    object: Literal["chat.completion"]
    created: Time
    model: ModelName
    system_fingerprint: Fingerprint
    choices: list[ChatChoice]
    usage: Usage


class LegacyLogprobs(Strict):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[Count]


class CompletionChoice(Strict):
    index: Count
    text: str
    logprobs: LegacyLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Strict):
    """Whole continuations of prompts."""

    id: InteractionId
    object: Literal["text_completion"]
    created: Time
    model: ModelName
    system_fingerprint: Fingerprint
    choices: list[CompletionChoice]
    usage: Usage


class OutputText(Strict):
    type: Literal["output_text"]
    text: str
    annotations: Annotated[list[Any], Field(max_length=0)]
    logprobs: list[TokenLogprobs]


class OutputMessage(Strict):
    type: Literal["message"]
    id: str
    role: Literal["assistant"]
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputText]


class OutputCall(Strict):
    type: Literal["function_call"]
    id: str
    call_id: str = Field(description="what a function_call_output refers to")
    status: Literal["in_progress", "completed", "incomplete"]
    name: str
    arguments: str = Field(description="JSON, as the model wrote it")


class ResponseError(Strict):
    code: Literal["server_error", "rate_limit_exceeded"]
    message: str


class IncompleteDetails(Strict):
    reason: Literal["max_output_tokens"]


class NoReasoning(Strict):
    effort: None
    summary: None


class InputDetails(Strict):
    cached_tokens: Count
    cache_write_tokens: Count


class OutputDetails(Strict):
    reasoning_tokens: Count


class ResponseUsage(Strict):
    input_tokens: Count
    input_tokens_details: InputDetails
    output_tokens: Count
    output_tokens_details: OutputDetails
    total_tokens: Count


class Response(Strict):
    """An answer of the Responses API."""

    id: InteractionId
    object: Literal["response"]
    created_at: Time
    completed_at: Time | None
    status: Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]
    background: Literal[False]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: ModelName
    system_fingerprint: Fingerprint
    output: list[OutputMessage | OutputCall]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: NoReasoning
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool = Field(description="whether it can be fetched and continued; it is recorded in any case")
    temperature: float
    text: TextOptions
    tool_choice: Literal["none", "auto", "required"] | ChosenFunction
    tools: list[FunctionTool]
    top_logprobs: Count
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None


class Model(Strict):
    """A name that can be asked, and what it stands for."""

    id: str
    object: Literal["model"]
    created: Time
    owned_by: Literal["selflearn"]
    version: Count
    base_model: str
    max_model_len: int = Field(description="tokens of prompt and answer together")


class ModelList(Strict):
    object: Literal["list"]
    data: list[Model]


class Feedback(Strict):
    """What became of a piece of feedback."""

    id: str
    object: Literal["selflearn.feedback"]
    interaction_id: str | None
    conversation: str | None
    kind: str
    status: Literal["accepted", "folded", "ignored", "quarantined"]
    example_id: int | None
    detail: str


class Alive(Strict):
    status: Literal["alive"]


class Ready(Strict):
    """It serves. ``recording`` is false while the database cannot be written: then nothing can be learned from."""

    status: Literal["ready"]
    version: Count
    recording: bool


class Starting(Strict):
    status: Literal["starting"]
    detail: str


class Started(Strict):
    """An update that began."""

    update: int


class Paused(Strict):
    paused: bool


class Cancelled(Strict):
    cancelled: bool
