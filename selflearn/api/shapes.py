"""What an answer must look like: JSON, a schema, calls of tools, as a constraint for the engine.

Grammars are llguidance's Lark. What stands around a call's arguments is fixed text, so that a schema of arguments
keeps its own root, to which its references point.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from selflearn.api.schemas import ChatRequest, FunctionDefinition, JsonSchemaFormat, NamedTool, TextFormat
from selflearn.api.tools import CLOSE, OPEN
from selflearn.errors import BadRequest
from selflearn.serving import Constraint

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
MAX_CALLS = 16  # in one answer that must consist of calls: a model that finds no end still ends
# The separators that chat templates write, and models have seen most.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def offered_tools(chat: ChatRequest) -> dict[str, dict[str, Any]]:
    """The tools that the answer may call, by name, as the prompt defines them; none if it must not call any.

    Raises ``BadRequest`` for a choice among tools that are not there.
    """
    tools = {tool.function.name: tool.model_dump(exclude_none=True) for tool in chat.tools or ()}
    choice = chat.tool_choice
    if isinstance(choice, NamedTool) and choice.function.name not in tools:
        message = f"tool_choice names {choice.function.name[:80]!r}, which is none of the tools. Name one of them."
        raise BadRequest(message, param="tool_choice", code="invalid_value")
    if choice == "required" and not tools:
        message = "tool_choice is 'required', but there are no tools. Send tools, or leave tool_choice out."
        raise BadRequest(message, param="tool_choice", code="invalid_value")
    return {} if choice == "none" else tools


def constraint_of(chat: ChatRequest) -> Constraint | None:
    """What the answer must look like; None for free text."""
    schema, choice = _answer_schema(chat), chat.tool_choice
    functions = [tool.function for tool in chat.tools or () if choice != "none"]
    if isinstance(choice, NamedTool):
        return _calls([function for function in functions if function.name == choice.function.name], chat)
    if choice == "required":
        return _calls(functions, chat)
    if functions and schema is not None:
        return _lark("answer | calls", f"answer: {_json(schema)}", *_call_rules(functions, chat))
    if any(function.strict for function in functions):
        return _text_or_calls(functions)
    return None if schema is None else Constraint("json_schema", json.dumps(schema))


def _answer_schema(chat: ChatRequest) -> Mapping[str, Any] | None:
    wanted = chat.response_format
    if wanted is None or isinstance(wanted, TextFormat):
        return None
    if isinstance(wanted, JsonSchemaFormat) and wanted.json_schema.schema_ is not None:
        return wanted.json_schema.schema_
    return ANY_OBJECT


def _calls(functions: list[FunctionDefinition], chat: ChatRequest) -> Constraint:
    return _lark("calls", *_call_rules(functions, chat))


def _call_rules(functions: list[FunctionDefinition], chat: ChatRequest) -> list[str]:
    more = "" if chat.parallel_tool_calls is False else f' ("\\n" call){{0,{MAX_CALLS - 1}}}'
    return [f"calls: call{more}", f'call: "{OPEN}" body', *_body_rules(functions, every=True)]


def _text_or_calls(functions: list[FunctionDefinition]) -> Constraint:
    """Text in which every ``<tool_call>`` begins a call that keeps to the schemas of strict tools."""
    return _lark(
        "text | prelude calls",
        "text: TEXT",
        f"TEXT: /(?s:.*)/ & ~/(?s:.*){OPEN}(?s:.*)/",
        f"prelude[lazy]: /(?s:.*){OPEN}/",
        f'calls: body ("\\n{OPEN}" body)*',
        *_body_rules(functions, every=False),
    )


def _body_rules(functions: list[FunctionDefinition], *, every: bool) -> list[str]:
    """Rules for what follows the opening tag; ``every``: also arguments of tools that are not strict are checked."""
    rules = ["body: " + " | ".join(f"body_{number}" for number in range(len(functions)))]
    for number, function in enumerate(functions):
        checked = function.parameters if every or function.strict else None
        head = json.dumps(f'\n{{"name": "{function.name}", "arguments": ')
        rules += [f'body_{number}: {head} arguments_{number} "}}\\n{CLOSE}"']
        rules += [f"arguments_{number}: {_json(checked or ANY_OBJECT)}"]
    return rules


def _json(schema: Mapping[str, Any]) -> str:
    return f"%json {json.dumps({**schema, 'x-guidance': _SPACING})}"


def _lark(start: str, *rules: str) -> Constraint:
    return Constraint("lark", "\n".join([f"start: {start}", *rules]) + "\n")
