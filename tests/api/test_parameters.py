"""The parameters of chat completions, each doing what it says, through the official client."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from selflearn.config import ApiSettings
from tests.api.server import Running

ASK: Any = {
    "model": "selflearn",
    "messages": [{"role": "user", "content": "what is the port of the daemon?"}],
    "max_tokens": 16,
}
GREEDY: Any = {**ASK, "temperature": 0}


def _texts(answer: Any) -> list[str]:
    return [choice.message.content for choice in answer.choices]


def test_several_choices_are_several_interactions(running: Running) -> None:
    answer = running.openai.chat.completions.create(**GREEDY, n=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len(set(_texts(answer))) == 1
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 64
    one = running.openai.chat.completions.create(**GREEDY).usage
    assert one is not None
    assert answer.usage.prompt_tokens == one.prompt_tokens
    ids = [answer.id, *(f"{answer.id}-{number}" for number in (1, 2, 3))]
    rows = [running.row(interaction) for interaction in ids]
    assert [row["answer"] for row in rows] == _texts(answer)
    assert {(row["state"], row["version"], row["conversation"]) for row in rows} == {
        ("completed", 0, rows[0]["conversation"])
    }
    given = {"interaction_id": ids[2], "kind": "correction", "text": "8000"}
    assert running.http.post("/v1/feedback", json=given).status_code == 201


def test_several_choices_in_a_stream(running: Running) -> None:
    whole = running.openai.chat.completions.create(**GREEDY, n=3, stop=["zzzz"])
    with running.openai.chat.completions.create(
        **GREEDY, n=3, stop=["zzzz"], stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    texts, reasons = ["", "", ""], ["", "", ""]
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] += choice.delta.content or ""
        reasons[choice.index] += choice.finish_reason or ""
    assert texts == _texts(whole)
    assert reasons == ["length"] * 3
    assert chunks[-1].usage == whole.usage


def test_more_choices_than_are_allowed(start: Callable[..., Running]) -> None:
    running = start(api=ApiSettings(max_choices=2, max_prompt_tokens=30))
    running.serve(0)
    short: Any = {**ASK, "messages": [{"role": "user", "content": "hi"}]}
    assert len(running.openai.chat.completions.create(**short, n=2).choices) == 2
    with pytest.raises(openai.BadRequestError, match=r"api\.max_choices"):
        running.openai.chat.completions.create(**short, n=3)
    with pytest.raises(openai.BadRequestError, match=r"at most 30 .* api\.max_prompt_tokens is 30") as refused:
        running.openai.chat.completions.create(**{**ASK, "messages": [{"role": "user", "content": "hi " * 40}]})
    assert refused.value.code == "context_length_exceeded"


def test_what_was_asked_is_recorded(running: Running) -> None:
    asked: Any = {
        "n": 1,
        "seed": 5,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"7": -3.5},
        "metadata": {"ticket": "7"},
        "response_format": {"type": "text"},
    }
    answer = running.openai.chat.completions.create(**ASK, **asked)
    recorded = json.loads(running.row(answer.id)["parameters"])
    assert {name: recorded[name] for name in asked} == asked


def test_a_seed_repeats_an_answer(running: Running) -> None:
    seeded: Any = {**ASK, "temperature": 1.5, "n": 2}
    first, again = (running.openai.chat.completions.create(**seeded, seed=11) for _ in range(2))
    assert _texts(first) == _texts(again)
    assert len(set(_texts(first))) == 2
    next_seed = running.openai.chat.completions.create(**{**seeded, "n": 1}, seed=12)
    assert _texts(next_seed) == _texts(first)[1:]


def test_a_bias_forbids_and_forces(running: Running) -> None:
    tokenizer = running.services.tokenizer
    forced = tokenizer("fox", add_special_tokens=False)["input_ids"][0]
    answer = running.openai.chat.completions.create(**GREEDY, logit_bias={str(forced): 100})
    assert _texts(answer) == [tokenizer.decode([forced]) * 16]
    plain = running.openai.chat.completions.create(**GREEDY, logprobs=True)
    assert plain.choices[0].logprobs is not None
    first = plain.choices[0].logprobs.content or []
    banned = tokenizer(first[0].token, add_special_tokens=False)["input_ids"][0]
    other = running.openai.chat.completions.create(**GREEDY, logprobs=True, logit_bias={str(banned): -100})
    assert other.choices[0].logprobs is not None
    assert first[0].token not in [entry.token for entry in other.choices[0].logprobs.content or []]


def test_penalties_keep_an_answer_from_repeating_itself(running: Running) -> None:
    def distinct(**penalties: float) -> int:
        asked: Any = {**GREEDY, "max_tokens": 60, "logprobs": True, **penalties}
        answer = running.openai.chat.completions.create(**asked)
        assert answer.choices[0].logprobs is not None
        return len({entry.token for entry in answer.choices[0].logprobs.content or []})

    plain = distinct()
    assert distinct(frequency_penalty=2.0) > plain
    assert distinct(presence_penalty=2.0) > plain
    assert distinct(frequency_penalty=-2.0) <= plain


def test_log_probabilities_of_every_token(running: Running) -> None:
    choice = running.openai.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=3).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.refusal is None
    entries = choice.logprobs.content or []
    assert len(entries) == 16
    raw = b"".join(bytes(entry.bytes or ()) for entry in entries)
    assert raw.decode("utf-8", errors="replace") == choice.message.content
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token  # the greedy choice
        assert math.isclose(entry.top_logprobs[0].logprob, entry.logprob)
        assert 0 >= entry.logprob >= entry.top_logprobs[1].logprob >= entry.top_logprobs[2].logprob


def test_log_probabilities_in_a_stream(running: Running) -> None:
    asked: Any = {**GREEDY, "logprobs": True, "top_logprobs": 1}
    whole = running.openai.chat.completions.create(**asked).choices[0]
    chunks = list(running.openai.chat.completions.create(**asked, stream=True))
    parts = [chunk.choices[0] for chunk in chunks]
    assert whole.logprobs is not None
    assert [entry for part in parts if part.logprobs for entry in part.logprobs.content or ()] == whole.logprobs.content
    for part in parts:
        if part.delta.content and part.logprobs:
            raw = b"".join(bytes(entry.bytes or ()) for entry in part.logprobs.content or ())
            assert raw.decode("utf-8", errors="replace") == part.delta.content


def test_the_stop_text_has_no_log_probabilities(running: Running) -> None:
    whole = running.openai.chat.completions.create(**GREEDY, logprobs=True).choices[0]
    assert whole.message.content
    assert whole.logprobs is not None
    stop = whole.message.content[4:7]
    stopped = running.openai.chat.completions.create(**GREEDY, logprobs=True, stop=stop).choices[0]
    assert stopped.logprobs is not None
    kept = stopped.logprobs.content or []
    assert kept == (whole.logprobs.content or [])[: len(kept)]
    text = b"".join(bytes(entry.bytes or ()) for entry in kept).decode("utf-8", errors="replace")
    assert text.startswith(stopped.message.content or "")
    assert stop not in (stopped.message.content or "")


class Weather(BaseModel):
    city: str
    warm: bool


def test_an_answer_that_is_json(running: Running) -> None:
    limited: Any = {**ASK, "max_tokens": 400, "seed": 1, "response_format": {"type": "json_object"}}
    answer = running.openai.chat.completions.create(**limited).choices[0]
    assert answer.message.content
    assert answer.message.content.lstrip().startswith("{")
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content), dict)


def test_an_answer_that_keeps_to_a_schema(running: Running) -> None:
    schema: Any = {
        "type": "object",
        "properties": {"port": {"type": "integer", "minimum": 1, "maximum": 99}, "up": {"type": "boolean"}},
        "required": ["port", "up"],
        "additionalProperties": False,
    }
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "daemon", "schema": schema, "strict": True}}
    for seed in range(3):
        answer = running.openai.chat.completions.create(
            **{**ASK, "max_tokens": 80}, seed=seed, response_format=wanted
        ).choices[0]
        assert answer.finish_reason == "stop"
        data = json.loads(answer.message.content or "")
        assert set(data) == {"port", "up"}
        assert 1 <= data["port"] <= 99


def test_the_clients_own_parser_works(running: Running) -> None:
    schema: Any = {**ASK, "max_tokens": 400, "seed": 2, "logit_bias": {str(_quote(running)): 5}}
    parsed = running.openai.chat.completions.parse(**schema, response_format=Weather).choices[0].message.parsed
    assert isinstance(parsed, Weather)


def test_a_schema_that_cannot_be_followed(running: Running) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            running.openai.chat.completions.create(**ASK, response_format=wanted, stream=stream)
        assert (refused.value.code, refused.value.param) == ("invalid_schema", "response_format")


def _quote(running: Running) -> int:
    """The token that ends a JSON string: an untrained model rarely comes to it by itself."""
    (token,) = running.services.tokenizer('"', add_special_tokens=False)["input_ids"]
    return int(token)
