"""Rows of training data as others write them: what each format may hold, brought into one shape as it is checked.

Fields that are not named here mean nothing to us and are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel, model_validator

#: Most messages of one row, as of one request.
MAX_MESSAGES = 4096


class Lenient(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class TextPart(Lenient):
    type: Literal["text"]
    text: str


class RefusalPart(Lenient):
    type: Literal["refusal"]
    refusal: str


def _joined(content: Any) -> Any:
    """The text of a list of parts; anything else as it is."""
    return "".join(map(_part_text, content)) if isinstance(content, list) else content


def _part_text(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get(kind) if kind in ("text", "refusal") else None
    if not isinstance(text, str):
        raise ValueError(f"only text can be learned from; found a part of type {str(kind)[:40]!r}")
    return text


def _as_json(arguments: Any) -> Any:
    return json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else arguments


Text = Annotated[str, BeforeValidator(_joined, json_schema_input_type=str | list[TextPart | RefusalPart])]


class Function(Lenient):
    """``arguments`` is JSON in a string; an object is taken as well."""

    name: str = Field(min_length=1, max_length=128)
    arguments: Annotated[str, BeforeValidator(_as_json, json_schema_input_type=str | dict[str, Any])] = "{}"


class Call(Lenient):
    id: str | None = None
    type: Literal["function"] = "function"
    function: Function


class Turn(Lenient):
    """A message. ``weight`` 0 says of an answer that it does not train."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    weight: Literal[0, 1] | None = None
    function_call: None = None

    @model_validator(mode="after")
    def _something_is_said(self) -> Turn:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError("it has no content; only an assistant's message with tool_calls needs none")
        return self

    @property
    def is_answer(self) -> bool:
        """Whether this is text of the assistant, which can be learned; a call of a function cannot."""
        return self.role == "assistant" and not self.tool_calls and bool((self.content or "").strip())

    def plain(self) -> dict[str, Any]:
        """The message as it is recorded and rendered: developer as system, nothing that is not said."""
        plain: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": self.content}
        if self.name is not None:
            plain["name"] = self.name
        if self.tool_calls:
            plain["tool_calls"] = [call.model_dump(exclude_none=True) for call in self.tool_calls]
        if self.tool_call_id is not None:
            plain["tool_call_id"] = self.tool_call_id
        return plain


def _said_by(role: str) -> Callable[[Any], Any]:
    """A string becomes the one message of ``role``. White space around it joined it to the rest; in a chat it has no
    use."""
    return lambda value: [{"role": role, "content": value.strip()}] if isinstance(value, str) else value


_Turns = Annotated[list[Turn], Field(min_length=1, max_length=MAX_MESSAGES)]
Asked = Annotated[_Turns, BeforeValidator(_said_by("user"), json_schema_input_type=str | list[Turn])]
Answered = Annotated[_Turns, BeforeValidator(_said_by("assistant"), json_schema_input_type=str | list[Turn])]


class Definition(BaseModel):
    """What a function is called, and whatever else is said of it."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    name: str = Field(min_length=1, max_length=128)


class ToolRow(Lenient):
    type: Literal["function"] = "function"
    function: Definition


def _tools(value: Any) -> Any:
    """Definitions as OpenAI has them, from JSON in a string, or from bare functions."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError) as error:
            raise ValueError("tools is neither a list nor JSON of one") from error
    if not isinstance(value, list):
        return value
    return [{"function": tool} if isinstance(tool, dict) and "function" not in tool else tool for tool in value]


Tools = Annotated[
    Annotated[list[ToolRow], Field(max_length=128)] | None,
    BeforeValidator(_tools, json_schema_input_type=list[dict[str, Any]] | str | None),
]


class ChatRow(Lenient):
    """OpenAI's form for supervised fine-tuning: every answer of the assistant trains unless its weight is 0."""

    messages: _Turns
    tools: Tools = None


class CompletionRow(Lenient):
    """Prompt and completion, both texts or messages (TRL)."""

    prompt: Asked
    completion: Answered
    tools: Tools = None


class KtoRow(CompletionRow):
    """A completion that was good (``label`` true) or bad."""

    label: bool


class PreferenceRow(Lenient):
    """Two answers, texts or messages, of which one is better (TRL). Without a prompt, both begin with it."""

    prompt: Asked | None = None
    chosen: Answered
    rejected: Answered
    tools: Tools = None


class DpoInput(Lenient):
    messages: _Turns
    tools: Tools = None


class DpoRow(Lenient):
    """OpenAI's form for preferences."""

    input: DpoInput
    preferred_output: _Turns
    non_preferred_output: _Turns


_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    **dict.fromkeys(("observation", "tool", "function_response"), "tool"),
    "system": "system",
    "function_call": "function_call",
}


def _from_speaker(turn: Any) -> Any:
    """``{"from", "value"}`` as a message; one that has a role already as it is."""
    if not isinstance(turn, dict) or "from" not in turn:
        return turn
    role = _SPEAKERS.get(str(turn["from"]).lower())
    if role is None:
        raise ValueError(f"from is one of {', '.join(_SPEAKERS)}; found {str(turn['from'])[:40]!r}")
    weight = {"weight": turn["weight"]} if role == "assistant" and "weight" in turn else {}
    if role == "function_call":
        return {"role": "assistant", "tool_calls": _calls(turn.get("value"))}
    return {"role": role, "content": turn.get("value"), **weight}


def _calls(value: Any) -> list[Any]:
    """The call, or the list of calls, that a ``function_call`` has as JSON in its value."""
    try:
        calls = json.loads(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError("the value of a function_call is JSON with name and arguments") from error
    return [{"function": call} for call in (calls if isinstance(calls, list) else [calls])]


class Spoken(Lenient):
    """A turn as ShareGPT has it."""

    from_: str = Field(alias="from")
    value: str
    weight: Literal[0, 1] | None = None


SpokenTurn = Annotated[Turn, BeforeValidator(_from_speaker, json_schema_input_type=Spoken | Turn)]


class ShareGptRow(Lenient):
    """ShareGPT's form: human and gpt in turn."""

    conversations: Annotated[list[SpokenTurn], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: str | None = None
    tools: Tools = None


class DemonstrationRow(RootModel[ChatRow | CompletionRow | KtoRow | PreferenceRow | DpoRow | ShareGptRow]):
    """One row in any of the formats."""
