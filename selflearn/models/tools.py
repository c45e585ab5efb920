"""Tools in chats: for templates that know them as the template wants, for others as text in the Hermes form.

A chat's first message may carry the definitions of its tools under the key ``tools`` (see :func:`with_tools`), so that
whatever renders the chat later, for training too, renders them as well.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = Mapping[str, Any]
Messages = Sequence[Message]

TOOLS_KEY = "tools"
_INSTRUCTIONS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{signatures}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def with_tools(messages: Messages, tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A copy of a chat that carries the definitions of its tools."""
    chat = [dict(message) for message in messages]
    if tools and chat:
        chat[0][TOOLS_KEY] = [dict(tool) for tool in tools]
    return chat


def for_template(messages: Messages, template: str) -> tuple[list[dict[str, Any]], list[Any]]:
    """A chat as ``template`` takes it, and the definitions to give it apart; none if they are in the text."""
    chat = [{key: value for key, value in message.items() if key != TOOLS_KEY} for message in messages]
    tools = list(messages[0].get(TOOLS_KEY, ())) if messages else []
    takes_tools, takes_calls = _abilities(template)
    chat = [_structured(message) for message in chat] if takes_calls else _written_out(chat)
    if tools and not takes_tools:
        return _introduced(chat, tools), []
    return chat, tools


@functools.lru_cache(maxsize=8)
def _abilities(template: str) -> tuple[bool, bool]:
    """Whether a template takes definitions of tools, and whether it takes messages with calls."""
    try:
        parsed = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except TemplateError:  # of another dialect (``generation`` blocks): its words have to do
        return "tools" in template, "tool_calls" in template
    return "tools" in meta.find_undeclared_variables(parsed), "tool_calls" in template


def _structured(message: Message) -> dict[str, Any]:
    """A message for templates that know calls: their arguments are objects there, and contents are never null."""
    shaped = {**message, "content": message.get("content") or ""}
    if message.get("tool_calls"):
        shaped["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _object(call["function"]["arguments"])}}
            for call in message["tool_calls"]
        ]
    return shaped


def _written_out(chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A chat whose calls and results are text; results that follow each other make one message of the user."""
    shaped: list[dict[str, Any]] = []
    after_result = False
    for message in chat:
        text = message.get("content") or ""
        if message["role"] == "tool":
            result = f"<tool_response>\n{text}\n</tool_response>"
            if after_result:
                shaped[-1]["content"] += f"\n{result}"
            else:
                shaped.append({"role": "user", "content": result})
        else:
            calls = [_call_text(call["function"]) for call in message.get("tool_calls") or ()]
            plain = {key: value for key, value in message.items() if key != "tool_calls"}
            shaped.append({**plain, "content": "\n".join([*([text] if text else []), *calls])})
        after_result = message["role"] == "tool"
    return shaped


def _call_text(function: Mapping[str, Any]) -> str:
    call = {"name": function["name"], "arguments": _object(function["arguments"])}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


def _introduced(chat: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chat with the tools explained in its system message."""
    text = _INSTRUCTIONS.format(signatures="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if chat[0]["role"] == "system":
        return [{**chat[0], "content": f"{chat[0]['content']}\n\n{text}"}, *chat[1:]]
    return [{"role": "system", "content": text}, *chat]


def _object(arguments: Any) -> Any:
    """Arguments as an object; what is no JSON stays the text that it is."""
    try:
        return json.loads(arguments)
    except (TypeError, ValueError, RecursionError):
        return arguments
