"""The OpenAPI document, and that the server keeps to it whatever it is sent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from selflearn.api.app import ROUTES
from selflearn.api.keyring import add_key, read_keyring
from selflearn.api.openapi import OPERATIONS
from tests.api.server import Running

TOKENS = 8
ROWS = [(method, re.sub(r":\w+}", "}", path), OPERATIONS[endpoint]) for method, path, endpoint, _ in ROUTES]
VIOLABLE = [(method, path) for method, path, operation in ROWS if operation.body or operation.limited or "{n}" in path]
ANSWERED = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/feedback", "/v1/events")
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
FUZZ = settings(
    max_examples=12, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


def _document(running: Running) -> BaseSchema:
    config = schemathesis.Config.from_dict({"generation": {"allow-extra-parameters": False}})
    return schemathesis.openapi.from_url(f"{running.url}/openapi.json", config=config)


@pytest.fixture(scope="module")
def contract(running: Running) -> BaseSchema:
    return _document(running)


@pytest.fixture(scope="module")
def spoken(calling: Running) -> BaseSchema:
    """The document of a server whose model knows tools."""
    return _document(calling)


@pytest.fixture(scope="module")
def answered(running: Running) -> str:
    """An interaction that feedback can be given on."""
    return running.openai.responses.create(model="selflearn", input="the quick", max_output_tokens=2).id


@pytest.mark.parametrize(("method", "path"), [row[:2] for row in ROWS])
def test_requests_of_the_document_get_its_answers(contract: BaseSchema, answered: str, method: str, path: str) -> None:
    seen: Counter[int] = Counter()

    @FUZZ
    @given(case=contract[path][method].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def send(case: Any) -> None:
        _make_plausible(case.body, answered)
        response = case.call(timeout=60)
        seen[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    send()
    if path in ANSWERED:
        assert any(status < 300 for status in seen), seen


@pytest.mark.parametrize(("method", "path"), VIOLABLE)
def test_requests_that_violate_the_document_are_refused(contract: BaseSchema, method: str, path: str) -> None:
    @FUZZ
    @given(case=contract[path][method].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def send(case: Any) -> None:
        case.call_and_validate(timeout=60, checks=[*CHECKS, negative_data_rejection])

    send()


ASK: Any = {"model": "selflearn", "max_tokens": 60}
CALL: Any = {"name": "clock", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**ASK, "messages": [{"role": "user", "content": "the"}], "logprobs": True, "n": 2}),
        (
            "/v1/chat/completions",
            {
                **ASK,
                "messages": [{"role": "user", "content": "what time is it?"}],
                "tools": [{"type": "function", "function": CALL}],
                "tool_choice": "required",
                "parallel_tool_calls": False,
            },
        ),
        ("/v1/completions", {**ASK, "prompt": ["the quick", "the lazy"], "logprobs": 2}),
        ("/v1/responses", {"model": "selflearn", "input": "the", "top_logprobs": 2, "instructions": "be brief"}),
        (
            "/v1/responses",
            {
                "model": "selflearn",
                "input": "what time is it?",
                "tools": [{"type": "function", **CALL}],
                "tool_choice": {"type": "function", "name": "clock"},
                "parallel_tool_calls": False,
                "max_output_tokens": 60,
            },
        ),
    ],
)
def test_answers_and_streams_look_as_documented(
    spoken: BaseSchema, path: str, body: dict[str, Any], stream: bool
) -> None:
    case = spoken[path]["POST"].Case(body={**body, "stream": stream}, media_type="application/json")
    response = case.call(timeout=60)
    assert response.status_code == 200, response.text
    assert ('"arguments":' in response.text) == ("tools" in body)
    case.validate_response(response, checks=CHECKS)


def _make_plausible(body: Any, interaction: str) -> None:
    """Changes what no schema says and nearly every request would fail at, where it is of the right type."""
    if not isinstance(body, dict):
        return
    if "kind" in body:  # most of what else feedback may have does not go with a correction
        for name in ("conversation", "over", "value"):
            body.pop(name, None)
        body["interaction_id"] = interaction
    plausible = {"model": "selflearn", "kind": "correction", "interaction_id": interaction, "event": "copied"}
    body.update({name: value for name, value in plausible.items() if isinstance(body.get(name), str)})
    for name, value in body.items():
        if name.endswith("_tokens") and type(value) is int and value > TOKENS:
            body[name] = TOKENS
        elif isinstance(value, float) and value.is_integer():
            body[name] = int(value)  # 1.0 is an integer to a schema
    if isinstance(body.get("messages"), list) and all(isinstance(each, dict) for each in body["messages"]):
        for message in body["messages"]:
            if not isinstance(message.get("content"), str):
                message.update(role="user", content="the quick brown fox")


def test_the_document_is_sound(running: Running) -> None:
    document = running.http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    named = set(re.findall(r'"#/components/schemas/(\w+)"', running.http.get("/openapi.json").text))
    assert named <= set(schemas)
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) == len(ROUTES)
    assert len({operation["operationId"] for operation in operations}) == len(ROUTES)
    assert not any(operation["security"] for operation in operations)


def test_the_document_says_who_may_do_what(start: Callable[..., Running], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    secret = add_key(file, "ann", "client")
    running = start(keyring=read_keyring(file))
    document = running.http.get("/openapi.json", headers={"authorization": f"Bearer {secret}"}).json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    roles = {path: next(iter(methods.values()))["security"] for path, methods in document["paths"].items()}
    assert roles["/livez"] == []
    assert roles["/v1/chat/completions"] == [{"key": ["client"]}]
    assert roles["/v1/feedback"] == [{"key": ["teacher"]}]
    assert roles["/admin/rollback"] == [{"key": ["operator"]}]
