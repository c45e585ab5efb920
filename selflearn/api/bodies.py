"""Reading requests: JSON bodies, numbers in paths and queries. What is wrong with them is told as ``BadRequest``."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from selflearn.errors import BadRequest

MAX_ID = 2**53  # larger integers are no numbers of ours, and SQLite would not take them all
Finite = Annotated[float, Field(allow_inf_nan=False)]
Number = Annotated[int, Field(ge=0, le=MAX_ID)]
Schema = TypeVar("Schema", bound=BaseModel)
_SIMPLE = ("bool", "float", "int", "str")  # as members of unions; other members are classes, with a capital letter


class Strict(BaseModel):
    """A body, or a part of one, that takes nothing but its own fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Query(BaseModel):
    """Parameters of an address, which are texts at first."""

    model_config = ConfigDict(extra="forbid", frozen=True)


async def read_json(request: Request, schema: type[Schema], max_bytes: int) -> Schema:
    """Reads and checks a JSON body; an empty one counts as ``{}``.

    Raises ``BadRequest`` for everything that is not what ``schema`` expects.
    """
    raw = await read_body(request, max_bytes)
    if not raw.strip():
        return validated(schema, {})
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        message = f"The body is {content_type or 'of no named type'}; send JSON with Content-Type: application/json."
        raise BadRequest(message, code="unsupported_media_type")
    return validated(schema, _parse(raw))


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The bytes of a body; raises ``BadRequest`` for more than ``max_bytes``."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large(max_bytes)
    return bytes(body)


def too_large(max_bytes: int) -> BadRequest:
    """The error for a body of more than ``max_bytes``."""
    message = f"The body is larger than {max_bytes} bytes (api.max_body_bytes). Send less."
    return BadRequest(message, code="request_too_large")


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


def validated(schema: type[Schema], data: dict[str, Any]) -> Schema:
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        problem = max(error.errors(include_url=False, include_context=False), key=_weight)
        param = field_name(problem["loc"])
        found = "" if problem["type"] == "missing" else f" (found {short(problem['input'])})"
        code = "missing_required_parameter" if problem["type"] == "missing" else "invalid_value"
        if problem["type"] == "extra_forbidden":
            code = "unknown_parameter"
        message = problem["msg"].removeprefix("Value error, ").rstrip(".")
        raise BadRequest(f"{param}: {message}{found}.", param=param, code=code) from None


def _weight(problem: Any) -> tuple[int, bool]:
    """Of a union's complaints the one says most that got furthest into the value, and past its type."""
    return len(problem["loc"]), not problem["type"].endswith("_type")


def field_name(location: tuple[int | str, ...]) -> str:
    """``("messages", 0, "content", "str")`` → ``messages[0].content``, without pydantic's names of union members."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        elif not any(mark in part for mark in "[(-") and part not in _SIMPLE and not part[:1].isupper():
            name += f".{part}" if name else part
    return name or "body"


def short(value: object) -> str:
    """A value as it is shown in an error: not more than 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def path_number(request: Request, name: str = "n") -> int:
    """Returns a number from the path; raises ``BadRequest`` unless it is one that a row could have."""
    text = str(request.path_params[name])
    if not (text.isascii() and text.isdigit()) or len(text) > 15:
        raise BadRequest(f"{short(text)} is not a number; expected 0, 1, 2, …", param=name, code="invalid_value")
    return int(text)


def query_limit(request: Request, default: int = 50, most: int = 1000) -> int:
    """Returns ``?limit=``, between 1 and ``most``."""
    text = request.query_params.get("limit", str(default))
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or not 1 <= int(text) <= most:
        raise BadRequest(
            f"limit={short(text)} is not possible; expected 1 to {most}.", param="limit", code="invalid_value"
        )
    return int(text)
