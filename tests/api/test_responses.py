"""The Responses API as the official client sees it: whole, streamed, parsed, continued, fetched."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai.types.responses import Response, ResponseFunctionToolCall
from pydantic import BaseModel

from selflearn.api.keyring import add_key, read_keyring
from selflearn.config import ApiSettings
from selflearn.serving import TokenChunk, TokenLogprobs, TokenRequest
from tests.api.server import Running, until

QUESTION = "what is the port of the daemon?"
GREEDY: Any = {"model": "selflearn", "input": QUESTION, "temperature": 0, "max_output_tokens": 12}
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "the weather of a city",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
CALLING: Any = {
    "model": "selflearn",
    "input": "how is the weather in Paris?",
    "tools": [WEATHER],
    "tool_choice": {"type": "function", "name": "weather"},
    "parallel_tool_calls": False,
    "max_output_tokens": 100,
}


class Port(BaseModel):
    """What a structured answer is parsed into."""

    protocol: Literal["tcp", "udp"]
    secure: bool


class Recital:
    """A version whose every answer is the same text, token by token."""

    version, running, waiting, places, alive = 3, 0, 0, 8, True

    def __init__(self, tokenizer: Any, text: str) -> None:
        self._ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]

    def check(self, request: TokenRequest) -> None:
        """Everything can be recited."""

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        for number in self._ids:
            await asyncio.sleep(0)
            yield TokenChunk((number,), None, (TokenLogprobs(number, -0.5),))
        yield TokenChunk(request.stop_ids[:1], "stop", (TokenLogprobs(request.stop_ids[0], -0.5),))

    async def close(self, drain_seconds: float) -> None:
        """Nothing is held."""


@contextlib.contextmanager
def reciting(running: Running, text: str) -> Iterator[None]:
    """Serves a recital for a while."""
    running.call(running.services.traffic.swap(Recital(running.services.tokenizer, text)))
    try:
        yield
    finally:
        running.serve(0)


def message(answer: Any, item: int = 0) -> Any:
    """The one part of a message among the output."""
    assert answer.output[item].type == "message"
    (part,) = answer.output[item].content
    return part


def called(answer: Response) -> ResponseFunctionToolCall:
    (call,) = answer.output
    assert isinstance(call, ResponseFunctionToolCall)
    return call


def recorded(running: Running, answer: Any) -> Any:
    return json.loads(running.row(answer.id)["messages"])


def refusal(running: Running, body: dict[str, Any]) -> tuple[int, Any, Any]:
    response = running.http.post("/v1/responses", json={**GREEDY, **body})
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["param"], error["code"]


def test_a_whole_answer_is_an_interaction(running: Running) -> None:
    asked = {**GREEDY, "instructions": "be brief", "metadata": {"a": "b"}, "user": "ann"}
    raw = running.openai.responses.with_raw_response.create(**asked)
    answer = raw.parse()
    assert raw.headers["x-selflearn-version"] == "0"
    assert raw.headers["x-selflearn-recorded"] == "yes"
    assert answer.model == "selflearn@0"
    assert (answer.status, answer.incomplete_details and answer.incomplete_details.reason) == (
        "incomplete",
        "max_output_tokens",
    )
    assert answer.usage is not None
    assert answer.usage.output_tokens == 12
    assert answer.usage.total_tokens == answer.usage.input_tokens + 12
    assert (answer.instructions, answer.metadata, answer.user) == ("be brief", {"a": "b"}, "ann")
    row = running.row(answer.id)
    assert (row["state"], row["user"], row["answer"]) == ("completed", "ann", answer.output_text)
    assert json.loads(row["parameters"])["endpoint"] == "responses"
    assert recorded(running, answer) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": QUESTION},
    ]
    given = {"interaction_id": answer.id, "kind": "correction", "text": "port 8000"}
    assert running.http.post("/v1/feedback", json=given).status_code == 201


def test_it_says_what_a_chat_says(running: Running) -> None:
    chat = running.openai.chat.completions.create(
        model="selflearn", messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=12
    )
    assert running.openai.responses.create(**GREEDY).output_text == chat.choices[0].message.content


def test_a_stream_tells_every_step(running: Running) -> None:
    whole = running.openai.responses.create(**GREEDY)
    with running.openai.responses.create(**GREEDY, stream=True) as stream:
        assert stream.response.headers["x-selflearn-version"] == "0"
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events if event.type != "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.incomplete"
    assert text == last.response.output_text == whole.output_text
    assert last.response == running.openai.responses.retrieve(last.response.id)


def test_the_row_is_durable_before_the_first_event(running: Running) -> None:
    with running.openai.responses.create(**{**GREEDY, "max_output_tokens": 400}, stream=True) as stream:
        first = next(iter(stream))
        assert first.type == "response.created"
        assert running.row(first.response.id)["state"] == "running"
        assert running.openai.responses.retrieve(first.response.id).status == "in_progress"
    until(lambda: running.row(first.response.id)["state"] == "cancelled")
    left = running.openai.responses.retrieve(first.response.id)
    assert left.status == "cancelled"
    assert refusal(running, {"previous_response_id": left.id}) == (
        400,
        "previous_response_id",
        "response_not_completed",
    )


def test_structured_answers_are_parsed(running: Running) -> None:
    asked: Any = {"model": "selflearn", "input": QUESTION, "max_output_tokens": 80, "text_format": Port}
    parsed = running.openai.responses.parse(**asked)
    assert parsed.status == "completed"
    assert isinstance(parsed.output_parsed, Port)
    with running.openai.responses.stream(**asked) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert isinstance(final.output_parsed, Port)
    assert [event.type for event in events][-1] == "response.completed"
    (done,) = (event for event in events if event.type == "response.output_text.done")
    assert done.parsed == final.output_parsed


def test_any_json_object(running: Running) -> None:
    asked = {**GREEDY, "max_output_tokens": 300, "temperature": 1, "text": {"format": {"type": "json_object"}}}
    answer = running.openai.responses.create(**asked)
    assert answer.text is not None
    assert answer.text.format is not None
    assert answer.text.format.type == "json_object"
    if answer.status == "completed":
        assert isinstance(json.loads(answer.output_text), dict)
    else:
        assert answer.output_text.lstrip().startswith("{")


def test_a_tool_is_called_and_its_result_sent_back(calling: Running) -> None:
    answer = calling.openai.responses.create(**CALLING)
    call = called(answer)
    assert (answer.status, call.name, call.status) == ("completed", "weather", "completed")
    assert json.loads(call.arguments)["city"] in ("Paris", "Rome")
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "12 degrees"}
    after = {**GREEDY, "input": [result], "tools": [WEATHER], "previous_response_id": answer.id}
    by_id = calling.openai.responses.create(**after)
    assert by_id.previous_response_id == answer.id
    asked, assistant, tool = recorded(calling, by_id)
    assert asked == {"role": "user", "content": CALLING["input"]}
    (known,) = assistant["tool_calls"]
    assert known["id"] == call.call_id
    assert known["function"] == {"name": "weather", "arguments": call.arguments}
    assert tool == {"role": "tool", "content": "12 degrees", "tool_call_id": call.call_id}

    sent: Any = [{"role": "user", "content": CALLING["input"]}, *(item.to_dict() for item in answer.output), result]
    by_items = calling.openai.responses.create(**{**GREEDY, "input": sent, "tools": [WEATHER]})
    assert by_items.output_text == by_id.output_text
    assert refusal(calling, {"input": [{**result, "call_id": "call_none"}]}) == (
        400,
        "input[0].call_id",
        "invalid_value",
    )


def test_a_stream_tells_calls(calling: Running) -> None:
    with calling.openai.responses.stream(**CALLING) as stream:
        events = list(stream)
        final = stream.get_final_response()
    call = called(final)
    assert json.loads(call.arguments)["city"] in ("Paris", "Rome")
    assert [event.type for event in events][2:-1] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    kept = called(calling.openai.responses.retrieve(final.id))
    assert (kept.id, kept.call_id, kept.arguments) == (call.id, call.call_id, call.arguments)


def test_text_and_calls_keep_their_order_and_logprobs(calling: Running) -> None:
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    asked: Any = {**GREEDY, "tools": [WEATHER], "include": ["message.output_text.logprobs"]}
    with reciting(calling, f"Let me look.\n{call}\n{call}"):
        with calling.openai.responses.stream(**asked) as stream:
            events = list(stream)
            streamed = stream.get_final_response()
        whole = calling.openai.responses.create(**asked)
    for answer in (streamed, whole, calling.openai.responses.retrieve(streamed.id)):
        assert [item.type for item in answer.output] == ["message", "function_call", "function_call"]
        assert answer.output_text == "Let me look."
        assert answer.model == "selflearn@3"
    told = [entry.token for event in events if event.type == "response.output_text.delta" for entry in event.logprobs]
    assert "".join(told) == "Let me look."
    assert [entry.token for entry in message(streamed).logprobs] == told
    assert [entry.token for entry in message(whole).logprobs] == told
    assert [event.output_index for event in events if event.type == "response.output_item.added"] == [0, 1, 2]
    assert len({item.call_id for item in streamed.output if item.type == "function_call"}) == 2


def test_an_empty_answer_is_an_empty_message(calling: Running) -> None:
    with reciting(calling, ""):
        with calling.openai.responses.stream(**GREEDY) as stream:
            streamed = stream.get_final_response()
        whole = calling.openai.responses.create(**GREEDY)
    for answer in (streamed, whole):
        assert answer.status == "completed"
        assert message(answer).text == ""


def test_logprobs_belong_to_the_text(running: Running) -> None:
    asked: Any = {**GREEDY, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    part = message(running.openai.responses.create(**asked))
    assert b"".join(bytes(entry.bytes) for entry in part.logprobs).decode(errors="replace") == part.text
    assert all(len(entry.top_logprobs) == 2 for entry in part.logprobs)
    assert all(entry.logprob <= 0 for entry in part.logprobs)
    with running.openai.responses.create(**asked, stream=True) as stream:
        events = list(stream)
    told = [entry for event in events if event.type == "response.output_text.delta" for entry in event.logprobs]
    last = events[-1]
    assert last.type == "response.incomplete"
    assert [entry.token for entry in told] == [entry.token for entry in message(last.response).logprobs]
    assert [entry.token for entry in told] == [entry.token for entry in part.logprobs]
    assert message(running.openai.responses.create(**GREEDY)).logprobs == []


def test_a_conversation_is_continued_without_its_instructions(running: Running) -> None:
    first = running.openai.responses.create(**GREEDY, instructions="be brief")
    second = running.openai.responses.create(
        **{**GREEDY, "input": "and who is ann@example.org?"}, instructions="be kind", previous_response_id=first.id
    )
    third = running.openai.responses.create(**{**GREEDY, "input": "thanks"}, previous_response_id=second.id)
    assert recorded(running, third) == [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "and who is [redacted:email]?"},
        {"role": "assistant", "content": second.output_text},
        {"role": "user", "content": "thanks"},
    ]
    rows = [running.row(answer.id) for answer in (first, second, third)]
    assert len({row["conversation"] for row in rows}) == 1


def test_items_of_every_kind_make_a_chat(running: Running) -> None:
    items: Any = [
        {"role": "developer", "content": "be brief"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "what is "}] * 2},
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "let me look", "annotations": [], "logprobs": []}],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "a", "name": "weather", "arguments": '{"city": "Rome"}'},
        {"type": "function_call", "call_id": "b", "name": "weather", "arguments": '{"city": "Paris"}'},
        {"type": "function_call_output", "call_id": "a", "output": "warm"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "cold"}]},
    ]
    told = recorded(running, running.openai.responses.create(**{**GREEDY, "input": items}))
    calls = [
        {"id": name, "type": "function", "function": {"name": "weather", "arguments": f'{{"city": "{city}"}}'}}
        for name, city in (("a", "Rome"), ("b", "Paris"))
    ]
    assert told == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "what is what is "},
        {"role": "assistant", "content": "let me look", "tool_calls": calls},
        {"role": "tool", "content": "warm", "tool_call_id": "a"},
        {"role": "tool", "content": "cold", "tool_call_id": "b"},
    ]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"background": True}, "background", "unsupported_parameter"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "unsupported_parameter"),
        ({"truncation": "auto"}, "truncation", "unsupported_parameter"),
        ({"reasoning": {"effort": "low"}}, "reasoning", "unsupported_parameter"),
        ({"context_management": [{"type": "compaction"}]}, "context_management", "unsupported_parameter"),
        ({"temprature": 1}, "temprature", "unknown_parameter"),
        ({"service_tier": "flex"}, "service_tier", "invalid_value"),
        ({"include": ["everything"]}, "include[0]", "invalid_value"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]", "invalid_value"),
        ({"tools": [WEATHER, WEATHER]}, "tools", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "function", "name": "clock"}, "tools": [WEATHER]}, "tool_choice", "invalid_value"),
        ({"text": {"verbosity": "high"}}, "text.verbosity", "invalid_value"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "odd"}}}}, "text.format", None),
        ({"input": []}, "input", "invalid_value"),
        ({"input": None}, "input", "invalid_value"),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "input[0]", "invalid_value"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]", "invalid_value"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://a/b.png"}]}]},
            "input[0].content[0].type",
            "invalid_value",
        ),
        ({"input": [{"type": "function_call", "call_id": "a", "name": "b"}]}, "input[0].arguments", None),
        ({"input": "long " * 600}, "input", "context_length_exceeded"),
        ({"max_output_tokens": 600}, "max_output_tokens", "context_length_exceeded"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"top_logprobs": 21}, "top_logprobs", "invalid_value"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    running: Running, body: dict[str, Any], param: str, code: str | None
) -> None:
    status, found_param, found_code = refusal(running, body)
    assert (status, found_param) == (400, param)
    assert code is None or found_code == code


def test_parameters_that_ask_for_nothing_are_accepted(running: Running) -> None:
    nothing = {
        "background": False,
        "context_management": [],
        "conversation": None,
        "include": ["reasoning.encrypted_content"],
        "max_tool_calls": 3,
        "prompt_cache_key": "a",
        "reasoning": {"effort": "none"},
        "safety_identifier": "b",
        "service_tier": "auto",
        "stream_options": None,
        "text": {"verbosity": "medium"},
        "tool_choice": "auto",
        "truncation": "disabled",
    }
    response = running.http.post("/v1/responses", json={**GREEDY, **nothing})
    assert response.status_code == 200, response.text
    assert response.json()["max_tool_calls"] == 3


def test_only_stored_responses_can_be_referred_to(running: Running) -> None:
    kept = running.openai.responses.create(**GREEDY)
    assert running.openai.responses.retrieve(kept.id) == kept
    fleeting = running.openai.responses.create(**GREEDY, store=False)
    assert fleeting.to_dict()["store"] is False
    assert running.row(fleeting.id)["state"] == "completed"
    chat = running.openai.chat.completions.create(
        model="selflearn", messages=[{"role": "user", "content": QUESTION}], max_tokens=2
    )
    for name in (fleeting.id, chat.id, "resp_none"):
        with pytest.raises(openai.NotFoundError) as fetched:
            running.openai.responses.retrieve(name)
        assert fetched.value.param == "response_id"
        with pytest.raises(openai.NotFoundError) as continued:
            running.openai.responses.create(**GREEDY, previous_response_id=name)
        assert continued.value.param == "previous_response_id"
    refused = running.http.get(f"/v1/responses/{kept.id}", params={"stream": "true"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stream")


def test_responses_belong_to_the_key_that_asked(start: Callable[..., Running], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    secrets = [add_key(file, name, "client") for name in ("ann", "bob")]
    running = start(keyring=read_keyring(file))
    running.serve(0)
    ann, bob = (running.openai.with_options(api_key=secret) for secret in secrets)
    answer = ann.responses.create(**GREEDY, user="one")
    assert ann.responses.retrieve(answer.id) == answer
    assert ann.responses.create(**GREEDY, user="another", previous_response_id=answer.id).status == "incomplete"
    with pytest.raises(openai.NotFoundError):
        bob.responses.retrieve(answer.id)
    with pytest.raises(openai.NotFoundError, match="of yours"):
        bob.responses.create(**GREEDY, previous_response_id=answer.id)


def test_a_stream_that_breaks_off_says_so(start: Callable[..., Running]) -> None:
    running = start(api=ApiSettings(request_timeout_seconds=0.25))
    running.serve(0)
    events = list(running.openai.responses.create(**{**GREEDY, "max_output_tokens": 480}, stream=True))
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert last.response.error is not None
    assert "longer than" in last.response.error.message
    assert running.openai.responses.retrieve(last.response.id).status == "failed"


def test_it_answers_when_the_store_cannot_write(start: Callable[..., Running]) -> None:
    running = start()
    running.serve(0)
    running.store.close()
    raw = running.openai.responses.with_raw_response.create(**GREEDY)
    assert raw.headers["x-selflearn-recorded"] == "no"
    assert raw.parse().output_text
