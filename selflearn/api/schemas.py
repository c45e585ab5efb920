"""What clients may send: the bodies of chat completions, completions, feedback and operators' orders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from selflearn.api.bodies import Finite, Number, Strict, short
from selflearn.errors import BadRequest

MAX_SEED = 2**63 - 1
MAX_METADATA = 16
MAX_BIASES = 1024
MAX_PROMPTS = 16
MAX_CONVERSATION = 200  # characters of a conversation's name
MAX_USER = 256

# Parameters of OpenAI that this server does not implement, with the values that ask for nothing.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning_effort": ("none",),
    "web_search_options": (),
    # of legacy completions
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}


class Lenient(BaseModel):
    """A part of a body whose unknown fields mean nothing to us."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class TextPart(Strict):
    type: Literal["text"]
    text: str


class RefusalPart(Strict):
    """What an assistant's message may hold instead of a text."""

    type: Literal["refusal"]
    refusal: str


class CalledFunction(Strict):
    """``arguments`` is JSON in a string, as the model wrote it."""

    name: str = Field(min_length=1, max_length=128)
    arguments: str


class CallPart(Lenient):
    """One call in an assistant's message."""

    id: str = Field(min_length=1, max_length=128)
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Lenient):
    """One message of a chat."""

    # A field is checked against those before it.
    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: list[CallPart] | None = Field(None, max_length=128)
    tool_call_id: str | None = Field(None, min_length=1, max_length=128, validate_default=True)
    content: str | list[TextPart | RefusalPart] | None = Field(None, validate_default=True)
    name: str | None = Field(None, max_length=128)
    function_call: None = None
    audio: None = None

    @field_validator("tool_calls")
    @classmethod
    def _only_assistants_call(cls, calls: list[CallPart] | None, info: ValidationInfo) -> list[CallPart] | None:
        if calls and info.data.get("role") != "assistant":
            raise ValueError("only messages of role assistant have tool_calls")
        return calls

    @field_validator("tool_call_id")
    @classmethod
    def _only_tools_answer_calls(cls, call: str | None, info: ValidationInfo) -> str | None:
        role = info.data.get("role")
        if call is None and role == "tool":
            raise PydanticCustomError("missing", "a message of role tool names the call that it answers")
        if call is not None and role not in ("tool", None):
            raise ValueError("only messages of role tool have a tool_call_id")
        return call

    @field_validator("content")
    @classmethod
    def _something_is_said(cls, content: Any, info: ValidationInfo) -> Any:
        if content is None and "role" in info.data and not info.data.get("tool_calls"):
            raise PydanticCustomError("missing", "only an assistant's message with tool_calls needs no content")
        return content

    def plain(self) -> dict[str, Any]:
        """Returns the message as it is recorded and rendered: text parts joined, developer as system."""
        plain: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": self._text()}
        if self.name is not None:
            plain["name"] = self.name
        if self.tool_calls:
            plain["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        if self.tool_call_id is not None:
            plain["tool_call_id"] = self.tool_call_id
        return plain

    def _text(self) -> str | None:
        if self.content is None or isinstance(self.content, str):
            return self.content
        return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in self.content)


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None  # padding against eavesdroppers; there is none here


class FunctionDefinition(Strict):
    """``parameters`` is a JSON schema of the arguments; without one, a function takes any object."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(Strict):
    name: str


class NamedTool(Strict):
    type: Literal["function"]
    function: FunctionName


class TextFormat(Strict):
    type: Literal["text"]


class JsonObjectFormat(Strict):
    type: Literal["json_object"]


class JsonSchema(Strict):
    """A schema that the answer follows, ``strict`` or not."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(Strict):
    type: Literal["json_schema"]
    json_schema: JsonSchema


_FORMATS = {"text": "TextFormat", "json_object": "JsonObjectFormat", "json_schema": "JsonSchemaFormat"}


def _format_tag(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return _FORMATS.get(kind) if isinstance(kind, str) else None


ResponseFormat = Annotated[
    Annotated[TextFormat, Tag("TextFormat")]
    | Annotated[JsonObjectFormat, Tag("JsonObjectFormat")]
    | Annotated[JsonSchemaFormat, Tag("JsonSchemaFormat")],
    Discriminator(
        _format_tag,
        custom_error_type="response_format",
        custom_error_message="its type is one of text, json_object, json_schema",
    ),
]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]
TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100.0, le=100.0)]


class SamplingBody(BaseModel):
    """What chat completions and completions have in common. Other fields are refused by ``refuse_unsupported``."""

    model_config = ConfigDict(
        strict=True, extra="allow", frozen=True, json_schema_extra={"additionalProperties": False}
    )

    model: str
    max_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1, le=128)
    temperature: Finite | None = Field(None, ge=0.0, le=2.0)
    top_p: Finite | None = Field(None, gt=0.0, le=1.0)
    seed: int | None = Field(None, ge=-MAX_SEED - 1, le=MAX_SEED)
    presence_penalty: Finite | None = Field(None, ge=-2.0, le=2.0)
    frequency_penalty: Finite | None = Field(None, ge=-2.0, le=2.0)
    logit_bias: dict[TokenId, Bias] | None = Field(None, max_length=MAX_BIASES)
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=MAX_USER)

    @property
    def asked_tokens(self) -> tuple[str, int | None]:
        """The parameter that says how long the answer may be, and what it says."""
        return "max_tokens", self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def biases(self) -> tuple[tuple[int, float], ...]:
        return tuple((int(token), bias) for token, bias in (self.logit_bias or {}).items())

    @property
    def asked_logprobs(self) -> int | None:
        """How many alternatives are wanted beside each token's log-probability; None: not even that."""
        return None


class ChatRequest(SamplingBody):
    """The body of ``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1, max_length=4096)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[MetadataKey, MetadataValue] | None = Field(None, max_length=MAX_METADATA)
    # These change nothing that this server does.
    store: bool | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = Field(None, max_length=256)
    prompt_cache_key: str | None = Field(None, max_length=256)
    verbosity: Literal["medium"] | None = None

    @field_validator("tools")
    @classmethod
    def _named_once(cls, tools: list[Tool] | None) -> list[Tool] | None:
        names = [tool.function.name for tool in tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("two tools have the same name")
        return tools

    @field_validator("top_logprobs")
    @classmethod
    def _alternatives_of_something(cls, wanted: int | None, info: ValidationInfo) -> int | None:
        if wanted and not info.data.get("logprobs"):
            raise ValueError("it is only possible with logprobs true")
        return wanted

    @property
    def asked_tokens(self) -> tuple[str, int | None]:
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return super().asked_tokens

    @property
    def asked_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


PromptTokens = Annotated[list[Number], Field(min_length=1)]


class CompletionRequest(SamplingBody):
    """The body of ``POST /v1/completions``."""

    prompt: str | PromptTokens | Annotated[list[str] | list[PromptTokens], Field(min_length=1)]
    logprobs: int | None = Field(None, ge=0, le=5)

    @field_validator("prompt")
    @classmethod
    def _not_too_many(cls, prompt: Any) -> Any:
        if isinstance(prompt, list) and not isinstance(prompt[0], int) and len(prompt) > MAX_PROMPTS:
            raise ValueError(f"there are {len(prompt)} prompts; at most {MAX_PROMPTS} are possible")
        return prompt

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    @property
    def asked_logprobs(self) -> int | None:
        return self.logprobs


class FeedbackRequest(Strict):
    """The body of ``POST /v1/feedback``; the experience room judges what of it goes together."""

    interaction_id: str | None = Field(None, min_length=1, max_length=128)
    conversation: str | None = Field(None, min_length=1, max_length=MAX_CONVERSATION)
    kind: str = Field(min_length=1, max_length=64)
    value: Finite | None = None
    text: str | None = None
    over: str | None = Field(None, min_length=1, max_length=128)
    reason: str | None = Field(None, max_length=4096)
    user: str | None = Field(None, min_length=1, max_length=MAX_USER)


class EventRequest(Strict):
    """The body of ``POST /v1/events``; the experience room judges the event."""

    interaction_id: str = Field(min_length=1, max_length=128)
    event: str = Field(min_length=1, max_length=64)
    user: str | None = Field(None, min_length=1, max_length=MAX_USER)


def refuse_unsupported(body: BaseModel, neutral: Mapping[str, tuple[Any, ...]] = NEUTRAL) -> None:
    """Raises ``BadRequest`` for a parameter that would be silently ignored although it asks for something."""
    for name, value in (body.model_extra or {}).items():
        if value is None:
            continue
        if name not in neutral:
            message = f"Unknown parameter: {short(name)}. Leave it out."
            raise BadRequest(message, param=name, code="unknown_parameter")
        if value not in neutral[name]:
            message = f"{name}={short(value)} is not supported by this server. Leave {name} out."
            raise BadRequest(message, param=name, code="unsupported_parameter")
