"""Whatever a client sends: OpenAI's error object with the right status, never a 500, never a dead engine."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.server import Running

MESSAGES: Any = [{"role": "user", "content": "hello"}]
GOOD: dict[str, Any] = {"model": "selflearn", "messages": MESSAGES, "max_tokens": 2}
JSON_TYPE = {"content-type": "application/json"}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "weather"}}
OTHER_TOOL: dict[str, Any] = {"type": "function", "function": {"name": "news"}}

WRONG_BODIES: list[tuple[dict[str, Any], int, str | None, str]] = [
    ({"model": None}, 400, "model", "invalid_value"),
    ({"model": "gpt-4"}, 404, "model", "model_not_found"),
    ({"model": "selflearn@99"}, 404, "model", "model_not_found"),
    ({"model": "selflearn@" + "9" * 40}, 404, "model", "model_not_found"),
    ({"model": "selflearn@../../etc"}, 404, "model", "model_not_found"),
    ({"model": ""}, 404, "model", "model_not_found"),
    ({"messages": []}, 400, "messages", "invalid_value"),
    ({"messages": None}, 400, "messages", "invalid_value"),
    ({"messages": "hello"}, 400, "messages", "invalid_value"),
    ({"messages": [1]}, 400, "messages[0]", "invalid_value"),
    ({"messages": [{"role": "user"}]}, 400, "messages[0].content", "missing_required_parameter"),
    ({"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content", "invalid_value"),
    ({"messages": [{"role": "user", "content": None}]}, 400, "messages[0].content", "missing_required_parameter"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]},
        400,
        "messages[0].tool_calls[0].function",
        "missing_required_parameter",
    ),
    (
        {"messages": [{"role": "user", "content": "x", "tool_call_id": "1"}]},
        400,
        "messages[0].tool_call_id",
        "invalid_value",
    ),
    (
        {"messages": [{"role": "assistant", "content": "x", "audio": {"id": "1"}}]},
        400,
        "messages[0].audio",
        "invalid_value",
    ),
    ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].tool_call_id", "missing_required_parameter"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
        400,
        "messages[0].content[0].type",
        "invalid_value",
    ),
    ({"max_tokens": -1}, 400, "max_tokens", "invalid_value"),
    ({"max_tokens": 0}, 400, "max_tokens", "invalid_value"),
    ({"max_tokens": "5"}, 400, "max_tokens", "invalid_value"),
    ({"max_tokens": 1.5}, 400, "max_tokens", "invalid_value"),
    ({"max_tokens": True}, 400, "max_tokens", "invalid_value"),
    ({"max_tokens": 100_000}, 400, "max_tokens", "context_length_exceeded"),
    ({"max_tokens": 10**30}, 400, "max_tokens", "context_length_exceeded"),
    ({"max_completion_tokens": 10**6}, 400, "max_completion_tokens", "context_length_exceeded"),
    ({"messages": [{"role": "user", "content": "word " * 2000}]}, 400, "messages", "context_length_exceeded"),
    ({"temperature": -0.1}, 400, "temperature", "invalid_value"),
    ({"temperature": 3}, 400, "temperature", "invalid_value"),
    ({"temperature": "hot"}, 400, "temperature", "invalid_value"),
    ({"top_p": 0}, 400, "top_p", "invalid_value"),
    ({"top_p": 1.1}, 400, "top_p", "invalid_value"),
    ({"stream": "yes"}, 400, "stream", "invalid_value"),
    ({"stop": ["a", "b", "c", "d", "e"]}, 400, "stop", "invalid_value"),
    ({"stop": ""}, 400, "stop", "invalid_value"),
    ({"stop": 5}, 400, "stop", "invalid_value"),
    ({"user": ["ann"]}, 400, "user", "invalid_value"),
    ({"n": 9}, 400, "n", "invalid_value"),
    ({"n": 0}, 400, "n", "invalid_value"),
    ({"seed": 2**63}, 400, "seed", "invalid_value"),
    ({"seed": 1.5}, 400, "seed", "invalid_value"),
    ({"logprobs": 1}, 400, "logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "invalid_value"),
    ({"top_logprobs": 2}, 400, "top_logprobs", "invalid_value"),
    ({"presence_penalty": 2.1}, 400, "presence_penalty", "invalid_value"),
    ({"frequency_penalty": "x"}, 400, "frequency_penalty", "invalid_value"),
    ({"logit_bias": {"5": 101}}, 400, "logit_bias.5", "invalid_value"),
    ({"logit_bias": {"the": 1}}, 400, "logit_bias.the", "invalid_value"),
    ({"logit_bias": {"99999": 1}}, 400, "logit_bias", "invalid_value"),
    ({"metadata": {"a": 1}}, 400, "metadata.a", "invalid_value"),
    ({"metadata": {str(number): "x" for number in range(17)}}, 400, "metadata", "invalid_value"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options", "invalid_value"),
    ({"stream": True, "stream_options": {"pace": 1}}, 400, "stream_options.pace", "unknown_parameter"),
    ({"tools": [{"type": "function"}]}, 400, "tools[0].function", "missing_required_parameter"),
    ({"tools": [{"type": "web_search"}]}, 400, "tools[0].type", "invalid_value"),
    ({"tools": [TOOL, TOOL]}, 400, "tools", "invalid_value"),
    ({"tool_choice": "required"}, 400, "tool_choice", "invalid_value"),
    ({"tools": [TOOL], "tool_choice": OTHER_TOOL}, 400, "tool_choice", "invalid_value"),
    ({"response_format": {"type": "xml"}}, 400, "response_format", "invalid_value"),
    ({"response_format": {"type": "json_schema"}}, 400, "response_format.json_schema", "missing_required_parameter"),
    ({"service_tier": "flex"}, 400, "service_tier", "invalid_value"),
    ({"verbosity": "high"}, 400, "verbosity", "invalid_value"),
    ({"reasoning_effort": "high"}, 400, "reasoning_effort", "unsupported_parameter"),
    ({"modalities": ["audio"]}, 400, "modalities", "unsupported_parameter"),
    ({"functions": [{"name": "f"}]}, 400, "functions", "unsupported_parameter"),
    ({"prediction": {"type": "content", "content": "x"}}, 400, "prediction", "unsupported_parameter"),
    ({"web_search_options": {}}, 400, "web_search_options", "unsupported_parameter"),
    ({"frobnicate": 1}, 400, "frobnicate", "unknown_parameter"),
]


def check_error(response: Any, status: int, code: str, param: str | None = None) -> None:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (response.status_code, error["code"], error["param"]) == (status, code, param), error
    assert error["message"]
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")


@pytest.fixture(autouse=True)
def _still_answers(running: Running) -> Any:
    yield
    answer = running.openai.chat.completions.create(**GOOD)
    assert answer.choices[0].finish_reason is not None


@pytest.mark.parametrize(("change", "status", "param", "code"), WRONG_BODIES, ids=lambda value: str(value)[:50])
def test_wrong_chat_requests(
    running: Running, change: dict[str, Any], status: int, param: str | None, code: str
) -> None:
    before = running.store.read("SELECT count(*) AS n FROM interactions")
    check_error(running.http.post("/v1/chat/completions", json={**GOOD, **change}), status, code, param)
    assert running.store.read("SELECT count(*) AS n FROM interactions") == before


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_missing_fields(running: Running, missing: str) -> None:
    body = {name: value for name, value in GOOD.items() if name != missing}
    response = running.http.post("/v1/chat/completions", json=body)
    check_error(response, 400, "missing_required_parameter", missing)


BROKEN_JSON = [
    b"{",
    b"not json",
    b"[]",
    b'"text"',
    b"null",
    b"5",
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"model": "selflearn", "max_tokens": ' + b"9" * 6000 + b"}",
]


@pytest.mark.parametrize("raw", BROKEN_JSON, ids=lambda raw: repr(raw[:20]))
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/feedback", "/admin/learn", "/admin/rollback"])
def test_broken_json(running: Running, raw: bytes, path: str) -> None:
    check_error(running.http.post(path, content=raw, headers=JSON_TYPE), 400, "invalid_json")


def test_half_a_surrogate_pair(running: Running) -> None:
    raw = json.dumps({**GOOD, "messages": [{"role": "user", "content": "\ud800"}]}).encode()
    response = running.http.post("/v1/chat/completions", content=raw, headers=JSON_TYPE)
    check_error(response, 400, "invalid_unicode")


def test_not_a_number(running: Running) -> None:
    raw = json.dumps({**GOOD, "temperature": float("nan")}).encode()
    response = running.http.post("/v1/chat/completions", content=raw, headers=JSON_TYPE)
    check_error(response, 400, "invalid_value", "temperature")


def test_other_content_types_and_sizes(running: Running) -> None:
    http = running.http
    text = http.post("/v1/chat/completions", content=json.dumps(GOOD), headers={"content-type": "text/plain"})
    check_error(text, 415, "unsupported_media_type")
    large = http.post("/v1/chat/completions", content=b" " * (3 * 1024 * 1024), headers=JSON_TYPE)
    check_error(large, 413, "request_too_large")
    check_error(http.post("/v1/chat/completions", headers=JSON_TYPE), 400, "missing_required_parameter", "model")


def test_unknown_routes_and_methods(running: Running) -> None:
    http = running.http
    check_error(http.get("/v1/nothing"), 404, "unknown_url")
    check_error(http.get("/v1/chat/completions"), 405, "method_not_allowed")
    check_error(http.delete("/admin/learn"), 405, "method_not_allowed")
    check_error(http.get("/v1/models/gpt-4"), 404, "model_not_found", "model")
    check_error(http.get("/v1/models/selflearn@12"), 404, "model_not_found", "model")
    check_error(http.get("/v1/models/../../etc/passwd"), 404, "unknown_url")


@pytest.mark.parametrize("number", ["-1", "x", "1.5", "9" * 30, "²", "%00", "1e3"])
def test_numbers_in_paths(running: Running, number: str) -> None:
    for path in ("/admin/versions/{}", "/admin/why/{}", "/admin/updates/{}"):
        check_error(running.http.get(path.format(number)), 400, "invalid_value", "n")
    check_error(running.http.post(f"/admin/versions/{number}/verify"), 400, "invalid_value", "n")


def test_numbers_of_nothing(running: Running) -> None:
    check_error(running.http.get("/admin/versions/123456789012345"), 404, "version_not_found", "version")
    check_error(running.http.get("/admin/why/7"), 404, "update_not_found", "update")
    check_error(running.http.get("/admin/updates/7"), 404, "update_not_found", "n")
    for limit in ("0", "-1", "x", "9" * 30):
        check_error(running.http.get(f"/admin/rollouts?limit={limit}"), 400, "invalid_value", "limit")


def test_wrong_feedback_changes_nothing(running: Running) -> None:
    answer = running.openai.chat.completions.create(**GOOD)
    before = running.store.read("SELECT count(*) AS n FROM feedback")
    good = {"interaction_id": answer.id, "kind": "correction", "text": "the right answer"}
    wrong: list[tuple[dict[str, Any], int, str, str | None]] = [
        ({**good, "interaction_id": "chatcmpl-none"}, 404, "interaction_not_found", "interaction_id"),
        ({**good, "kind": "applause"}, 400, "unknown_kind", "kind"),
        ({**good, "text": "  "}, 400, "empty_text", "text"),
        ({**good, "text": 5}, 400, "invalid_value", "text"),
        ({**good, "text": None}, 400, "empty_text", "text"),
        ({**good, "extra": 1}, 400, "unknown_parameter", "extra"),
        ({"interaction_id": answer.id, "kind": "rating", "value": 2}, 400, "invalid_value", "value"),
        ({"interaction_id": answer.id, "kind": "rating", "value": "1"}, 400, "invalid_value", "value"),
        ({"interaction_id": answer.id, "kind": "rating"}, 400, "invalid_value", "value"),
        ({"interaction_id": answer.id}, 400, "missing_required_parameter", "kind"),
        ({"kind": "rating", "value": 1}, 400, "invalid_value", "interaction_id"),
        ({**good, "interaction_id": None, "conversation": "c"}, 400, "conversation_not_allowed", "conversation"),
        ({**good, "over": answer.id}, 400, "over_not_allowed", "over"),
        ({**good, "user": 5}, 400, "invalid_value", "user"),
        ({}, 400, "missing_required_parameter", "kind"),
    ]
    for body, status, code, param in wrong:
        check_error(running.http.post("/v1/feedback", json=body), status, code, param)
    assert running.store.read("SELECT count(*) AS n FROM feedback") == before


def test_pages_of_other_sites_are_kept_out(running: Running) -> None:
    for origin in ("https://evil.example", "null", "http://[", "http://127.0.0.1:1"):
        response = running.http.post("/admin/learn/pause", headers={"origin": origin})
        check_error(response, 403, "cross_origin")
    assert running.http.get("/readyz", headers={"origin": running.url}).status_code == 200


def test_a_long_conversation_name(running: Running) -> None:
    for name in ("x" * 500, ""):
        response = running.http.post("/v1/chat/completions", json=GOOD, headers={"x-selflearn-conversation": name})
        check_error(response, 400, "invalid_value", "x-selflearn-conversation")


def test_the_official_client_knows_the_errors(running: Running) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        running.openai.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as thoughtful:
        running.openai.chat.completions.create(**GOOD, reasoning_effort="high")
    assert thoughtful.value.code == "unsupported_parameter"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["messages", "max_tokens", "temperature", "top_p", "stop", "stream", "stream_options", "user", "n", "tools"]
FIELDS += ["tool_choice", "response_format", "seed", "logprobs", "top_logprobs", "logit_bias", "metadata", "functions"]


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(field=st.sampled_from(FIELDS), value=ANYTHING)
def test_any_json_in_any_field(running: Running, field: str, value: Any) -> None:
    raw = json.dumps({**GOOD, field: value}).encode()
    response = running.http.post("/v1/chat/completions", content=raw, headers=JSON_TYPE)
    assert response.status_code in (200, 400), response.text
