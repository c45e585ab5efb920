"""What people do with the official OpenAI client, as a script that runs unchanged against any server.

::

    python -m tests.api.openai_script --base-url http://127.0.0.1:8000/v1 --model selflearn

Chat, stream, tools, a JSON schema, log-probabilities, n=4, and the Responses API. Each prints a line; exit code 1 if
one of them failed. The key comes from OPENAI_API_KEY, as the client has it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import openai
from openai import OpenAI
from pydantic import BaseModel, ConfigDict

QUESTION: Any = [{"role": "user", "content": "Which port does the daemon listen on?"}]
TOKENS = 24
FORMED_TOKENS = 160  # for answers that have to come to an end by themselves


class Listening(BaseModel):
    """What a schema makes of an answer. Bounded, so that any model comes to its end."""

    model_config = ConfigDict(extra="forbid")
    port: Literal[80, 443, 8000]
    secure: bool


PARAMETERS = {"type": "object", "properties": {"port": {"enum": [80, 443]}}, "required": ["port"]}
TOOL: Any = {"type": "function", "function": {"name": "open", "description": "Opens a port.", "parameters": PARAMETERS}}


def chat(client: OpenAI, model: str) -> str:
    answer = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=TOKENS, temperature=0)
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content is not None
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    return f"{choice.finish_reason}, {answer.usage.completion_tokens} tokens"


def stream(client: OpenAI, model: str) -> str:
    chunks = list(
        client.chat.completions.create(
            model=model,
            messages=QUESTION,
            max_tokens=TOKENS,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    whole = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=TOKENS, temperature=0)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    text = "".join(choice.delta.content or "" for choice in choices)
    assert len({chunk.id for chunk in chunks}) == 1
    assert choices[-1].finish_reason == whole.choices[0].finish_reason
    assert text == whole.choices[0].message.content, "a streamed greedy answer differs from the whole one"
    assert chunks[-1].usage is not None
    return f"{len(chunks)} chunks, {chunks[-1].usage.completion_tokens} tokens"


def tools(client: OpenAI, model: str) -> str:
    """A call that must be made, and the conversation that goes on with its result."""
    answer = client.chat.completions.create(
        model=model,
        messages=QUESTION,
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "open"}},
        max_tokens=FORMED_TOKENS,
        temperature=0,
    )
    message = answer.choices[0].message
    assert message.tool_calls, f"no call in {message}"
    call: Any = message.tool_calls[0]
    assert call.function.name == "open"
    arguments = json.loads(call.function.arguments)
    assert arguments["port"] in (80, 443)
    after = [
        *QUESTION,
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "done"},
    ]
    last = client.chat.completions.create(
        model=model, messages=after, tools=[TOOL], tool_choice="none", max_tokens=TOKENS
    )
    assert not last.choices[0].message.tool_calls
    return f"open({arguments})"


def json_schema(client: OpenAI, model: str) -> str:
    """By hand, and by the client's own parsing."""
    form: Any = {
        "type": "json_schema",
        "json_schema": {"name": "listening", "schema": Listening.model_json_schema(), "strict": True},
    }
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, response_format=form, max_tokens=FORMED_TOKENS
    )
    assert answer.choices[0].finish_reason == "stop"
    Listening.model_validate_json(answer.choices[0].message.content or "")
    parsed = client.chat.completions.parse(
        model=model, messages=QUESTION, response_format=Listening, max_tokens=FORMED_TOKENS
    )
    found = parsed.choices[0].message.parsed
    assert isinstance(found, Listening)
    return repr(found)


def logprobs(client: OpenAI, model: str) -> str:
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=TOKENS, temperature=0, logprobs=True, top_logprobs=3
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None
    entries = choice.logprobs.content or []
    assert entries
    for entry in entries:
        assert entry.logprob <= 0.0
        assert [top.logprob for top in entry.top_logprobs] == sorted(
            (t.logprob for t in entry.top_logprobs), reverse=True
        )
        assert len(entry.top_logprobs) == 3
        assert entry.token == entry.top_logprobs[0].token, "a greedy token is not the most probable one"
    said = b"".join(bytes(entry.bytes or []) for entry in entries)
    assert said.decode("utf-8", errors="replace") == choice.message.content
    return f"{len(entries)} tokens, mean {sum(entry.logprob for entry in entries) / len(entries):.2f}"


def four_choices(client: OpenAI, model: str) -> str:
    """Four answers at once; with a seed they are the same four again."""

    def ask() -> list[str | None]:
        answer = client.chat.completions.create(
            model=model, messages=QUESTION, n=4, seed=7, temperature=1.0, max_tokens=TOKENS
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
        return [choice.message.content for choice in answer.choices]

    first = ask()
    assert ask() == first, "the same seed gave other answers"
    return f"{len(set(first))} different ones of 4"


def completions(client: OpenAI, model: str) -> str:
    answer = client.completions.create(
        model=model, prompt="The daemon listens on port", max_tokens=TOKENS, temperature=0
    )
    assert answer.choices[0].finish_reason in ("stop", "length")
    return repr(answer.choices[0].text[:40])


def responses(client: OpenAI, model: str) -> str:
    """Whole, streamed, continued, and formed by a schema."""
    whole = client.responses.create(
        model=model, input="Which port is it?", instructions="Be brief.", max_output_tokens=TOKENS, temperature=0
    )
    assert whole.status in ("completed", "incomplete")
    assert whole.usage is not None
    with client.responses.stream(
        model=model, input="Which port is it?", instructions="Be brief.", max_output_tokens=TOKENS, temperature=0
    ) as events:
        seen = list(events)
        streamed: Any = seen[-1]
    assert seen[0].type == "response.created"
    assert streamed.type == f"response.{whole.status}"
    assert streamed.response.output_text == whole.output_text, "a streamed greedy response differs from the whole one"
    further = client.responses.create(
        model=model, input="Are you sure?", previous_response_id=whole.id, max_output_tokens=TOKENS
    )
    assert further.previous_response_id == whole.id
    parsed = client.responses.parse(
        model=model, input="Which port is it?", text_format=Listening, max_output_tokens=FORMED_TOKENS
    )
    assert isinstance(parsed.output_parsed, Listening)
    return f"{whole.status}, {len(seen)} events, {parsed.output_parsed!r}"


def models(client: OpenAI, model: str) -> str:
    names = [found.id for found in client.models.list()]
    assert model in names, f"{model} is not among {names}"
    return ", ".join(names)


def refusal(client: OpenAI, model: str) -> str:
    """What is wrong is refused by name."""
    try:
        client.chat.completions.create(model=model, messages=QUESTION, temperature=9)
    except openai.BadRequestError as refused:
        error = refused
    else:
        raise AssertionError("temperature=9 was accepted")
    assert error.param == "temperature"
    return str(error.code)


FEATURES: tuple[Callable[[OpenAI, str], str], ...] = (
    *(models, chat, stream, tools, json_schema, logprobs, four_choices, completions, responses, refusal),
)


def run(client: OpenAI, model: str) -> dict[str, str]:
    """Tries every feature; returns what failed, by its name."""
    failed: dict[str, str] = {}
    for feature in FEATURES:
        try:
            print(f"{feature.__name__:<14} {feature(client, model)}")
        except (openai.OpenAIError, AssertionError, ValueError) as error:
            failed[feature.__name__] = f"{type(error).__name__}: {error}"
            print(f"{feature.__name__:<14} FAILED: {failed[feature.__name__]}")
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default="selflearn")
    options = parser.parse_args(arguments)
    key = os.environ.get("OPENAI_API_KEY", "none")
    with OpenAI(base_url=options.base_url, api_key=key, max_retries=0, timeout=120.0) as client:
        return 1 if run(client, options.model) else 0


if __name__ == "__main__":
    sys.exit(main())
