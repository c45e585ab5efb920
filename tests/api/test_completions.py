"""Legacy completions through the official client: raw prompts, many at once, and what becomes of their rows."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.server import Running
from tests.api.test_bad_input import check_error

PROMPT = "the quick brown fox"
GREEDY: Any = {"model": "selflearn", "prompt": PROMPT, "temperature": 0, "max_tokens": 12}


def test_a_prompt_is_continued_as_it_stands(running: Running) -> None:
    tokenizer = running.services.tokenizer
    raw = running.openai.completions.with_raw_response.create(**GREEDY)
    answer = raw.parse()
    assert raw.headers["x-selflearn-version"] == "0"
    assert (answer.object, answer.model) == ("text_completion", "selflearn@0")
    assert answer.id.startswith("cmpl-")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(tokenizer(PROMPT, add_special_tokens=False)["input_ids"])
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (12, "length")
    row = running.row(answer.id)
    assert (row["state"], row["answer"]) == ("completed", answer.choices[0].text)
    assert json.loads(row["messages"]) == [{"role": "user", "content": PROMPT}]
    assert json.loads(row["parameters"])["endpoint"] == "completions"


def test_the_usual_length_is_that_of_openai(running: Running) -> None:
    answer = running.openai.completions.create(model="selflearn", prompt=PROMPT, temperature=0)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


def test_text_and_its_tokens_are_the_same_prompt(running: Running) -> None:
    ids = running.services.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    by_text = running.openai.completions.create(**GREEDY)
    by_ids = running.openai.completions.create(**{**GREEDY, "prompt": ids})
    assert by_ids.choices == by_text.choices
    assert json.loads(running.row(by_ids.id)["messages"]) == [{"role": "user", "content": PROMPT}]


def test_many_prompts_with_many_choices(running: Running) -> None:
    prompts = [PROMPT, "water boils"]
    answer = running.openai.completions.create(**{**GREEDY, "prompt": prompts}, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    alone = [running.openai.completions.create(**{**GREEDY, "prompt": prompt}) for prompt in prompts]
    texts = [one.choices[0].text for one in alone for _ in range(2)]
    assert [choice.text for choice in answer.choices] == texts
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone if one.usage)
    rows = [running.row(answer.id), *(running.row(f"{answer.id}-{number}") for number in (1, 2, 3))]
    assert [json.loads(row["messages"])[0]["content"] for row in rows] == [PROMPT, PROMPT, *prompts[1:] * 2]
    ids = [running.services.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    by_ids = running.openai.completions.create(**{**GREEDY, "prompt": ids})
    assert [choice.text for choice in by_ids.choices] == texts[::2]


def test_a_stream_says_the_same_as_the_whole(running: Running) -> None:
    whole = running.openai.completions.create(**GREEDY)
    chunks = list(running.openai.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "length"
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)


def test_a_stop_text(running: Running) -> None:
    whole = running.openai.completions.create(**GREEDY).choices[0].text
    stopped = running.openai.completions.create(**GREEDY, stop=[whole[5:8]]).choices[0]
    assert (stopped.text, stopped.finish_reason) == (whole[: whole.index(whole[5:8])], "stop")


def test_log_probabilities(running: Running) -> None:
    choice = running.openai.completions.create(**GREEDY, logprobs=2).choices[0]
    found = choice.logprobs
    assert found is not None
    assert found.tokens is not None
    assert found.token_logprobs is not None
    assert found.top_logprobs is not None
    assert found.text_offset is not None
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(found.text_offset) == 12
    assert found.text_offset == [len("".join(found.tokens[:number])) for number in range(12)]
    for token, logprob, top in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        assert logprob <= 0
        assert top[token] == max(top.values()) == pytest.approx(logprob)
    chunks = list(running.openai.completions.create(**GREEDY, logprobs=2, stream=True))
    parts = [chunk.choices[0].logprobs for chunk in chunks]
    assert [token for part in parts if part for token in part.tokens or ()] == found.tokens
    assert [place for part in parts if part for place in part.text_offset or ()] == found.text_offset
    without = running.openai.completions.create(**GREEDY, logprobs=0).choices[0].logprobs
    assert without is not None
    assert (without.tokens, without.top_logprobs) == (found.tokens, None)


def test_a_correction_of_a_completion_does_not_train(running: Running) -> None:
    answer = running.openai.completions.create(**GREEDY)
    for feedback in ({"kind": "correction", "text": "jumps"}, {"kind": "rating", "value": 1}):
        response = running.http.post("/v1/feedback", json={"interaction_id": answer.id, **feedback})
        assert response.status_code == 201
        assert response.json()["status"] == "ignored"
        assert response.json()["example_id"] is None


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": None}, "prompt", "invalid_value"),
    ({"prompt": ""}, "prompt", "invalid_value"),
    ({"prompt": []}, "prompt", "invalid_value"),
    ({"prompt": ["x"] * 17}, "prompt", "invalid_value"),
    ({"prompt": ["x"] * 9}, "prompt", "invalid_value"),
    ({"prompt": [10**6]}, "prompt", "invalid_value"),
    ({"prompt": [-1]}, "prompt[0]", "invalid_value"),
    ({"prompt": [True]}, "prompt[0]", "invalid_value"),
    ({"prompt": "word " * 2000}, "prompt", "context_length_exceeded"),
    ({"max_tokens": 10**6}, "max_tokens", "context_length_exceeded"),
    ({"logprobs": 6}, "logprobs", "invalid_value"),
    ({"logprobs": True}, "logprobs", "invalid_value"),
    ({"echo": True}, "echo", "unsupported_parameter"),
    ({"suffix": "x"}, "suffix", "unsupported_parameter"),
    ({"best_of": 2}, "best_of", "unsupported_parameter"),
    ({"messages": []}, "messages", "unknown_parameter"),
]


@pytest.mark.parametrize(("change", "param", "code"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_requests(running: Running, change: dict[str, Any], param: str, code: str) -> None:
    check_error(running.http.post("/v1/completions", json={**GREEDY, **change}), 400, code, param)


def test_what_asks_for_nothing_is_accepted(running: Running) -> None:
    answer = running.openai.completions.create(**GREEDY, echo=False, best_of=1, suffix=None, user="ann")
    assert answer.choices[0].text
    with pytest.raises(openai.NotFoundError):
        running.openai.completions.create(**{**GREEDY, "model": "gpt-4"})


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(field=st.sampled_from(["prompt", "logprobs", "best_of", "logit_bias", "n", "seed", "stop"]), value=ANYTHING)
def test_any_json_in_any_field(running: Running, field: str, value: Any) -> None:
    body = json.dumps({**GREEDY, "max_tokens": 2, field: value})
    response = running.http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (200, 400), response.text
