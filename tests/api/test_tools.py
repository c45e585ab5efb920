"""Tools: calls found in what a model writes, however it comes, and calls that a model is made to write."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selflearn.api.schemas import ChatRequest
from selflearn.api.shapes import constraint_of
from selflearn.api.tools import CallSplitter, ToolCall, split_calls
from selflearn.models.base import LoadedBase
from selflearn.serving import Constraint
from selflearn.serving.grammar import Grammars
from tests.api.server import Running

WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "description": "tells it", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "clock"}},
]
ASK: Any = {
    "model": "selflearn",
    "messages": [{"role": "user", "content": "how is the weather?"}],
    "tools": TOOLS,
    "max_tokens": 120,
    "temperature": 1,
    "seed": 3,
}
KNOWN = ("weather", "clock")
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TICK = '<tool_call>{"name": "clock"}</tool_call>'


def _named(calls: Any) -> list[tuple[str, str]]:
    return [(call.name, call.arguments) for call in calls]


@pytest.fixture(scope="module")
def running(calling: Running) -> Running:
    return calling


@pytest.mark.parametrize(
    ("text", "shown", "calls"),
    [
        ("just text", "just text", []),
        (CALL, "", [("weather", '{"city": "Paris"}')]),
        (f"{CALL}\n{TICK}\n", "", [("weather", '{"city": "Paris"}'), ("clock", "{}")]),
        (f"Let me look.\n{TICK}", "Let me look.", [("clock", "{}")]),
        (f"{TICK} and then", " and then", [("clock", "{}")]),
        ('<tool_call>{"name": "clock"}', "", [("clock", "{}")]),
        ('<tool_call>{"name": "clock"', '<tool_call>{"name": "clock"', []),
        ('<tool_call>{"name": "rm"}</tool_call>', '<tool_call>{"name": "rm"}</tool_call>', []),
        ("<tool_call>[1]</tool_call>", "<tool_call>[1]</tool_call>", []),
        (f"</tool_call>{TICK}", "</tool_call>", [("clock", "{}")]),
        ("a < b and <tool", "a < b and <tool", []),
        ('<tool_call>{"name": "clock", "arguments": "{}"}</tool_call>', "", [("clock", "{}")]),
        ('<tool_call>{"name": "clock", "arguments": 5}</tool_call>', None, []),
    ],
)
def test_calls_are_told_from_text(text: str, shown: str | None, calls: list[tuple[str, str]]) -> None:
    found_text, found_calls = split_calls(text, KNOWN)
    assert found_text == (text if shown is None else shown)
    assert _named(found_calls) == calls
    assert len({call.id for call in found_calls}) == len(calls)


PARTS = st.sampled_from(["hello ", "\n", "<tool_call>", "</tool_call>", CALL, TICK, "<tool", " <", "{}", "é"])


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(PARTS, max_size=8), size=st.integers(1, 7))
def test_pieces_say_the_same_as_the_whole(parts: list[str], size: int) -> None:
    text = "".join(parts)
    splitter, shown, calls = CallSplitter(KNOWN), "", list[ToolCall]()
    for start in range(0, len(text), size):
        piece, found = splitter.push(text[start : start + size])
        shown += piece
        calls += found
    piece, found = splitter.finish()
    whole_text, whole_calls = split_calls(text, KNOWN)
    assert (shown + piece, _named([*calls, *found])) == (whole_text, _named(whole_calls))


def test_text_before_a_call_is_not_held_back() -> None:
    splitter = CallSplitter(KNOWN)
    assert splitter.push("Let me look. <b") == ("Let me look. <b", ())
    assert splitter.push(" <tool") == ("", ())
    assert splitter.push("box>") == (" <toolbox>", ())


# What a grammar lets a model write

TOWNS = {
    "type": "object",
    "properties": {"town": {"$ref": "#/$defs/town"}},
    "required": ["town"],
    "additionalProperties": False,
    "$defs": {"town": {"enum": ["Paris"]}},
}
PARIS = '<tool_call>\n{"name": "find", "arguments": {"town": "Paris"}}\n</tool_call>'
OSLO = PARIS.replace("Paris", "Oslo")
NOW = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
FREE: dict[str, Any] = {}
REQUIRED: dict[str, Any] = {"tool_choice": "required"}
FIND: dict[str, Any] = {"tool_choice": {"type": "function", "function": {"name": "find"}}}
JSON: dict[str, Any] = {"response_format": {"type": "json_object"}}


@pytest.mark.parametrize(
    ("asked", "text", "allowed"),
    [
        (FREE, "hello", True),
        (FREE, f"hello {PARIS}", True),
        (FREE, f"{NOW}\n{PARIS}", True),
        (FREE, f"hello {OSLO}", False),
        (FREE, "<tool_call>hello", False),
        (REQUIRED, "hello", False),
        (REQUIRED, PARIS, True),
        (REQUIRED, OSLO, False),
        (REQUIRED, f"{NOW}\n{PARIS}", True),
        ({**REQUIRED, "parallel_tool_calls": False}, f"{NOW}\n{PARIS}", False),
        (FIND, PARIS, True),
        (FIND, NOW, False),
        (JSON, '{"town": 5}', True),
        (JSON, "5", False),
        (JSON, PARIS, True),
        ({**JSON, **REQUIRED}, '{"town": 5}', False),
    ],
)
def test_what_a_model_may_write(base: LoadedBase, asked: dict[str, Any], text: str, allowed: bool) -> None:
    find = {"type": "function", "function": {"name": "find", "parameters": TOWNS, "strict": True}}
    body = {"model": "selflearn", "messages": ASK["messages"], "tools": [find, TOOLS[1]], **asked}
    constraint = constraint_of(ChatRequest.model_validate(body))
    assert constraint is not None
    assert _allows(base.tokenizer, constraint, text) is allowed


def test_free_text_is_not_held_to_anything() -> None:
    body: Any = {"model": "selflearn", "messages": ASK["messages"]}
    assert constraint_of(ChatRequest.model_validate(body)) is None
    assert constraint_of(ChatRequest.model_validate({**body, "tools": TOOLS})) is None


def _allows(tokenizer: Any, constraint: Constraint, text: str) -> bool:
    """Whether a model that keeps to the constraint can write the text, and end there."""
    matcher = Grammars(tokenizer, len(tokenizer)).compile(constraint).matcher([tokenizer.eos_token_id])
    for token in [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]:
        if not int(matcher.mask()[token // 32]) >> token % 32 & 1:
            return False
        matcher.advance(token)
    return True


# With the engine


def test_a_required_call(running: Running) -> None:
    answer = running.openai.chat.completions.create(**ASK, tool_choice="required")
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls
    for call in choice.message.tool_calls:
        assert call.type == "function"
        assert call.id.startswith("call_")
        assert call.function.name in KNOWN
        assert isinstance(json.loads(call.function.arguments), dict)
    row = running.row(answer.id)
    assert row["answer"].startswith("<tool_call>\n{")
    assert json.loads(row["parameters"])["tools"] == TOOLS


def test_a_named_call_keeps_to_its_schema(running: Running) -> None:
    choice: Any = {"type": "function", "function": {"name": "weather"}}
    answer = running.openai.chat.completions.create(**ASK, tool_choice=choice, parallel_tool_calls=False)
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "weather"
    arguments = json.loads(call.function.arguments)
    assert arguments["city"] in ("Paris", "Rome")
    assert 1 <= arguments["days"] <= 9


def test_a_streamed_call_says_the_same(running: Running) -> None:
    asked: Any = {**ASK, "tool_choice": {"type": "function", "function": {"name": "weather"}}}
    whole = running.openai.chat.completions.create(**asked, parallel_tool_calls=False)
    chunks = list(running.openai.chat.completions.create(**asked, parallel_tool_calls=False, stream=True))
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert [delta.index for delta in deltas] == [0, 0]
    assert deltas[0].function is not None
    assert (deltas[0].function.name, deltas[0].type) == ("weather", "function")
    (call,) = whole.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert "".join(delta.function.arguments or "" for delta in deltas if delta.function) == call.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_clients_own_accumulator_understands_the_stream(running: Running) -> None:
    with running.openai.chat.completions.stream(**ASK, tool_choice="required") as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls
    assert final.choices[0].finish_reason == "tool_calls"


def test_strict_tools_bind_what_the_model_chooses_to_call(running: Running) -> None:
    strict = [{**TOOLS[0], "function": {**TOOLS[0]["function"], "strict": True}}]
    answer = running.openai.chat.completions.create(**{**ASK, "tools": strict})
    assert answer.choices[0].message.content is not None


def test_no_calls_when_none_are_wanted(running: Running) -> None:
    plain = running.openai.chat.completions.create(**{**ASK, "tools": []})
    silent = running.openai.chat.completions.create(**ASK, tool_choice="none")
    assert plain.usage is not None
    assert silent.usage is not None
    assert plain.usage.prompt_tokens == silent.usage.prompt_tokens
    assert silent.choices[0].message.tool_calls is None


def test_a_conversation_with_calls_goes_on(running: Running) -> None:
    asked: Any = [
        *ASK["messages"],
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]
    answer = running.openai.chat.completions.create(**{**ASK, "messages": asked, "max_tokens": 4})
    assert json.loads(running.row(answer.id)["messages"]) == asked


def test_a_correction_of_an_answer_with_tools_trains_with_them(running: Running) -> None:
    answer = running.openai.chat.completions.create(**{**ASK, "max_tokens": 4})
    given = {"interaction_id": answer.id, "kind": "correction", "text": TICK}
    example = running.http.post("/v1/feedback", json=given).json()["example_id"]
    (row,) = running.store.read("SELECT messages, target FROM examples WHERE id = ?", (example,))
    assert json.loads(row["messages"])[0]["tools"] == TOOLS
    assert row["target"] == TICK


def test_a_schema_of_arguments_that_cannot_be_followed(running: Running) -> None:
    impossible = {"type": "function", "function": {"name": "f", "parameters": {"type": "no such type"}}}
    with pytest.raises(openai.BadRequestError) as refused:
        running.openai.chat.completions.create(**{**ASK, "tools": [impossible]}, tool_choice="required")
    assert refused.value.code == "invalid_schema"
