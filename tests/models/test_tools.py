from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from selflearn.models.chat import encode_example, encode_prompt, render
from selflearn.models.tools import with_tools
from tests.conftest import TINY_TEMPLATE, TOOL_TEMPLATE, tiny_tokenizer

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": "how is Paris?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "sunny", "tool_call_id": "call_1"},
    {"role": "tool", "content": "warm", "tool_call_id": "call_1"},
]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


def test_a_template_that_knows_tools_gets_them(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = TOOL_TEMPLATE
    text = render(tokenizer, with_tools(CHAT, [TOOL]), prompt=True)
    intro, user, assistant, first, second, last = text.split("<|im_start|>")
    assert (intro, user) == ("tools: weather", "user\nhow is Paris?<|im_end|>\n")
    assert assistant == 'assistant\nweather {"city": "Paris"};weather {"city": "Paris"};<|im_end|>\n'
    assert (first, second, last) == ("tool\nsunny<|im_end|>\n", "tool\nwarm<|im_end|>\n", "assistant\n")
    assert not render(tokenizer, CHAT, prompt=True).startswith("tools")


def test_another_template_gets_text(tokenizer: PreTrainedTokenizerFast) -> None:
    text = render(tokenizer, with_tools(CHAT, [TOOL]), prompt=True)
    system, user, assistant, results, last = text.split("<|im_start|>")[1:]
    assert system.startswith("system\n# Tools")
    assert f"<tools>\n{json.dumps(TOOL)}\n</tools>" in system
    assert user == "user\nhow is Paris?<|im_end|>\n"
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    assert assistant == f"assistant\n{call}\n{call}<|im_end|>\n"
    told = "<tool_response>\nsunny\n</tool_response>\n<tool_response>\nwarm\n</tool_response>"
    assert results == f"user\n{told}<|im_end|>\n"
    assert last == "assistant\n"


def test_the_system_message_stays_before_the_tools(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = with_tools([{"role": "system", "content": "be brief"}, *CHAT[:1]], [TOOL])
    assert render(tokenizer, chat, prompt=False).startswith("<|im_start|>system\nbe brief\n\n# Tools\n")


def test_without_a_template_tools_are_text_too(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = None
    text = render(tokenizer, with_tools(CHAT[:1], [TOOL]), prompt=True)
    assert text.startswith("system: # Tools")
    assert text.endswith("user: how is Paris?\nassistant:")


def test_plain_chats_are_rendered_as_ever(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    for template in (TINY_TEMPLATE, TOOL_TEMPLATE):
        tokenizer.chat_template = template
        expected = tokenizer.apply_chat_template(chat, tokenize=False)
        assert render(tokenizer, chat, prompt=False) == expected


def test_an_example_trains_on_the_prompt_with_its_tools(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = with_tools(CHAT, [TOOL])
    ids, length = encode_example(tokenizer, chat, "It is sunny.")
    assert ids[:length] == encode_prompt(tokenizer, chat)
    assert with_tools(CHAT, []) == CHAT


def test_calls_that_are_no_json_stay_what_they_are(tokenizer: PreTrainedTokenizerFast) -> None:
    broken = {**CALL, "function": {"name": "weather", "arguments": "{city"}}
    text = render(tokenizer, [*CHAT[:1], {"role": "assistant", "content": "so", "tool_calls": [broken]}], prompt=False)
    assert 'so\n<tool_call>\n{"name": "weather", "arguments": "{city"}\n</tool_call>' in text
