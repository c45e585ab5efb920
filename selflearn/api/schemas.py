"""What clients may send: pydantic models, and their mistakes turned into ``BadRequest`` that names the field."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from selflearn.errors import BadRequest

MAX_ID = 2**53  # larger integers are no numbers of ours, and SQLite would not take them all
Finite = Annotated[float, Field(allow_inf_nan=False)]
Number = Annotated[int, Field(ge=0, le=MAX_ID)]
Schema = TypeVar("Schema", bound=BaseModel)

# Parameters that change nothing that this server does; they're accepted and ignored.
HARMLESS = frozenset({"metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "verbosity"})
# Parameters that this server does not implement, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "seed": (),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "web_search_options": (),
}


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class TextPart(Strict):
    type: Literal["text"]
    text: str


class Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def plain(self) -> dict[str, str]:
        """Returns ``{"role", "content"}`` as chat templates take it: parts joined, developer as system."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    include_usage: bool | None = None


StopText = Annotated[str, Field(min_length=1, max_length=256)]


class ChatRequest(BaseModel):
    """The body of ``POST /v1/chat/completions``."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    model: str
    messages: list[Message] = Field(min_length=1, max_length=4096)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: Finite | None = Field(None, ge=0.0, le=2.0)
    top_p: Finite | None = Field(None, gt=0.0, le=1.0)
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    user: str | None = Field(None, max_length=256)

    @property
    def asked_tokens(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class FeedbackRequest(Strict):
    """The body of ``POST /v1/feedback``; the experience room judges kind, value and text."""

    interaction_id: str = Field(min_length=1, max_length=128)
    kind: str = Field(min_length=1, max_length=64)
    value: Finite | None = None
    text: str | None = None
    reason: str | None = Field(None, max_length=4096)


class LearnRequest(Strict):
    """The body of ``POST /admin/learn``."""

    trigger: str = Field("operator", min_length=1, max_length=64)


class RollbackRequest(Strict):
    """The body of ``POST /admin/rollback``."""

    to: Number | None = None
    reason: str = Field("asked by the operator", min_length=1, max_length=1024)
    dry_run: bool = False


async def read_json(request: Request, schema: type[Schema], max_bytes: int) -> Schema:
    """Reads and checks a JSON body; an empty one counts as ``{}``.

    Raises ``BadRequest`` for everything that is not what ``schema`` expects.
    """
    raw = await _read_body(request, max_bytes)
    if not raw.strip():
        return _validated(schema, {})
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        message = f"The body is {content_type or 'of no named type'}; send JSON with Content-Type: application/json."
        raise BadRequest(message, code="unsupported_media_type")
    return _validated(schema, _parse(raw))


async def _read_body(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise BadRequest(
                f"The body is larger than {max_bytes} bytes (api.max_body_bytes). Send less.", code="request_too_large"
            )
    return bytes(body)


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        data = json.loads(raw)
        # A lone surrogate (\ud800) is valid JSON but no text: neither tokenizer nor database can take it.
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadRequest(
            "The body has a text with half of a surrogate pair. Send valid Unicode.", code="invalid_unicode"
        ) from None
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(data, dict):
        raise BadRequest(f"The body is a JSON {type(data).__name__}; an object is expected.", code="invalid_json")
    return data


def _validated(schema: type[Schema], data: dict[str, Any]) -> Schema:
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        problem = max(error.errors(include_url=False, include_context=False), key=_weight)
        param = field_name(problem["loc"])
        found = "" if problem["type"] == "missing" else f" (found {_short(problem['input'])})"
        code = "missing_required_parameter" if problem["type"] == "missing" else "invalid_value"
        if problem["type"] == "extra_forbidden":
            code = "unknown_parameter"
        raise BadRequest(f"{param}: {problem['msg']}{found}.", param=param, code=code) from None


def _weight(problem: Any) -> tuple[int, bool]:
    """Of a union's complaints the one says most that got furthest into the value, and past its type."""
    return len(problem["loc"]), not problem["type"].endswith("_type")


def field_name(location: tuple[int | str, ...]) -> str:
    """``("messages", 0, "content", "str")`` → ``messages[0].content``, without pydantic's names of union members."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        elif not any(mark in part for mark in "[(-") and part not in ("str", "TextPart"):
            name += f".{part}" if name else part
    return name or "body"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def refuse_unsupported(chat: ChatRequest) -> None:
    """Raises ``BadRequest`` for a parameter that would be silently ignored although it asks for something."""
    for name, value in (chat.model_extra or {}).items():
        if value is None or name in HARMLESS:
            continue
        if name not in NEUTRAL:
            message = f"Unknown parameter: {_short(name)}. Leave it out."
            raise BadRequest(message, param=name, code="unknown_parameter")
        if value not in NEUTRAL[name]:
            message = f"{name}={_short(value)} is not supported by this server. Leave {name} out."
            raise BadRequest(message, param=name, code="unsupported_parameter")


def path_number(request: Request, name: str = "n") -> int:
    """Returns a number from the path; raises ``BadRequest`` unless it is one that a version could have."""
    text = str(request.path_params[name])
    if not (text.isascii() and text.isdigit()) or len(text) > 15:
        raise BadRequest(
            f"{_short(text)} is not a version number; expected 0, 1, 2, …", param=name, code="invalid_value"
        )
    return int(text)


def query_limit(request: Request, default: int = 50, most: int = 1000) -> int:
    """Returns ``?limit=``, between 1 and ``most``."""
    text = request.query_params.get("limit", str(default))
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or not 1 <= int(text) <= most:
        raise BadRequest(
            f"limit={_short(text)} is not possible; expected 1 to {most}.", param="limit", code="invalid_value"
        )
    return int(text)
