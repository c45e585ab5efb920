"""Tools: what a model may call, and the calls in what it wrote.

A call is written in the Hermes form, which most models of today know::

    <tool_call>
    {"name": "weather", "arguments": {"city": "Paris"}}
    </tool_call>
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that the model wrote; ``arguments`` is a JSON object as text."""

    id: str
    name: str
    arguments: str


class CallSplitter:
    """Parts an answer, piece by piece, into text and calls of the ``known`` tools.

    Text passes through at once, but for white space and the beginning of a tag at its end. From ``<tool_call>`` on it
    is held back until the call is whole. What is no call of a known tool stays text, tags included.
    """

    def __init__(self, known: Collection[str]) -> None:
        self._known = known
        self._held = ""
        self._called = False

    def push(self, text: str) -> tuple[str, tuple[ToolCall, ...]]:
        """Takes new text and returns the text and the calls that are certain by now."""
        self._held += text
        shown, calls = [], []
        while (end := self._held.find(CLOSE)) >= 0 and (start := self._held.find(OPEN)) >= 0:
            if end < start:  # a closing tag of nothing
                shown.append(self._held[: end + len(CLOSE)])
                self._held = self._held[end + len(CLOSE) :]
                continue
            block, before = self._held[start : end + len(CLOSE)], self._held[:start]
            self._held = self._held[end + len(CLOSE) :]
            call = parse_call(block.removeprefix(OPEN).removesuffix(CLOSE), self._known)
            shown.append(before + block if call is None else before.rstrip())
            calls += [call] if call else []
        self._called = self._called or bool(calls)
        certain = _certain(self._held)
        shown.append(self._held[:certain])
        self._held = self._held[certain:]
        return self._text("".join(shown)), tuple(calls)

    def finish(self) -> tuple[str, tuple[ToolCall, ...]]:
        """Returns what was held back; the answer is over. A call whose closing tag is missing counts if it is whole."""
        before, tag, rest = self._held.partition(OPEN)
        self._held = ""
        call = parse_call(rest, self._known) if tag else None
        if call is None:
            return self._text(before + tag + rest), ()
        self._called = True
        return self._text(before.rstrip()), (call,)

    def _text(self, text: str) -> str:
        """Once something was called, white space around calls is no text."""
        return "" if self._called and not text.strip() else text


def parse_call(text: str, known: Collection[str]) -> ToolCall | None:
    """Reads the inside of a call; None if it is not one of a known tool."""
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or data.get("name") not in known:
        return None
    arguments = data.get("arguments", {})
    if isinstance(arguments, str):  # some models put JSON into the JSON
        return ToolCall(new_call_id(), data["name"], arguments)
    if not isinstance(arguments, dict):
        return None
    return ToolCall(new_call_id(), data["name"], json.dumps(arguments, ensure_ascii=False))


def new_call_id() -> str:
    return f"call_{uuid.uuid4().hex}"


def split_calls(text: str, known: Collection[str]) -> tuple[str, Sequence[ToolCall]]:
    """A whole answer's text and calls."""
    splitter = CallSplitter(known)
    first, calls = splitter.push(text)
    last, more = splitter.finish()
    return first + last, (*calls, *more)


def _certain(text: str) -> int:
    """How much of ``text`` is no part of a call, nor white space that may stand before one."""
    opened = text.find(OPEN)
    if opened >= 0:
        return len(text[:opened].rstrip())
    for length in range(min(len(text), len(OPEN) - 1), 0, -1):
        if OPEN.startswith(text[-length:]):
            return len(text[:-length].rstrip())
    return len(text.rstrip())
