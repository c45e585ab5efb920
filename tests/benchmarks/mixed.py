"""What good clients do, in one mixture: every endpoint, whole and streamed, patient and not. Each answer is checked.

The daemon serves marked versions: a greedy text that no constraint forms is the letter of one version, over and over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from selflearn.cli.load import DATA, END
from selflearn.cli.wire import Connection, Head
from tests.benchmarks.tally import Tally, require
from tests.benchmarks.versions import letter

TOKENS = 16
JSON_TOKENS = 120
REMEMBERED = 50
PATIENCE_SECONDS = 0.3
SCHEMA = {
    "type": "object",
    "properties": {"port": {"enum": [80, 443, 8000]}, "open": {"type": "boolean"}},
    "required": ["port", "open"],
    "additionalProperties": False,
}
TOOL = {"name": "close_port", "description": "Closes a port.", "parameters": SCHEMA}


@dataclass(slots=True)
class Visitor:
    """A client that does one thing after the other, over connections of its own."""

    client: Connection
    teacher: Connection
    random: Random
    tally: Tally
    answered: list[str] = field(default_factory=list)

    async def post(self, kind: str, path: str, body: Mapping[str, Any], status: int = 200) -> tuple[Head, Any]:
        """Posts as a client and returns the answer, which must have the status."""
        connection = self.teacher if path == "/v1/feedback" else self.client
        head = await connection.send("POST", path, body)
        content = await connection.read()
        self.tally.status(kind, head.status)
        require(head.status == status, f"HTTP {head.status}, expected {status}: {content[:300]!r}")
        return head, json.loads(content)

    async def events(self, kind: str, path: str, body: Mapping[str, Any]) -> tuple[Head, list[dict[str, Any]]]:
        """Posts, and returns all events of the stream."""
        head = await self.client.send("POST", path, {**body, "stream": True})
        content = await self.client.read()
        self.tally.status(kind, head.status)
        require(head.status == 200, f"HTTP {head.status}: {content[:300]!r}")
        lines = [line for line in content.split(b"\n") if line.startswith(DATA) and not line.startswith(END)]
        found = [json.loads(line[len(DATA) :]) for line in lines]
        require(not any("error" in event and event["error"] for event in found), f"an error within: {found[-1]}")
        return head, found

    def question(self) -> str:
        return f"What is the use of port {self.random.randrange(65536)}?"

    def chat(self, **more: Any) -> dict[str, Any]:
        """A greedy chat request."""
        messages = [{"role": "user", "content": self.question()}]
        return {"model": "selflearn", "messages": messages, "temperature": 0, "max_tokens": TOKENS, **more}

    def remember(self, interaction: str) -> None:
        """Keeps an answer in mind, to say later what one thinks of it."""
        self.answered.append(interaction)
        del self.answered[:-REMEMBERED]


Kind = Callable[[Visitor, str], Awaitable[None]]


def written_by(head: Head, text: str) -> None:
    """Checks that a text is of the version that the answer names."""
    version = int(head.headers["x-selflearn-version"])
    require(set(text) == {letter(version)}, f"version {version} is said to have written {text[:80]!r}")


async def chat_whole(visitor: Visitor, kind: str) -> None:
    head, answer = await visitor.post(kind, "/v1/chat/completions", visitor.chat())
    (choice,) = answer["choices"]
    written_by(head, choice["message"]["content"])
    require(choice["finish_reason"] == "length", f"finish_reason {choice['finish_reason']}")
    require(answer["usage"]["completion_tokens"] == TOKENS, f"usage {answer['usage']}")
    visitor.remember(answer["id"])


async def chat_streamed(visitor: Visitor, kind: str) -> None:
    body = visitor.chat(stream_options={"include_usage": True})
    head, events = await visitor.events(kind, "/v1/chat/completions", body)
    choices = [choice for event in events for choice in event["choices"]]
    written_by(head, "".join(choice["delta"].get("content") or "" for choice in choices))
    require(choices[-1]["finish_reason"] == "length", "no finish reason at the end")
    require(events[-1]["usage"]["completion_tokens"] == TOKENS, f"usage {events[-1]['usage']}")
    require(len({event["system_fingerprint"] for event in events}) == 1, "several fingerprints in one answer")
    visitor.remember(events[0]["id"])


async def chat_choices(visitor: Visitor, kind: str) -> None:
    head, answer = await visitor.post(kind, "/v1/chat/completions", visitor.chat(n=3))
    require([choice["index"] for choice in answer["choices"]] == [0, 1, 2], "not three choices")
    for choice in answer["choices"]:
        written_by(head, choice["message"]["content"])
    visitor.remember(f"{answer['id']}-2")


async def chat_sampled(visitor: Visitor, kind: str) -> None:
    more = {"temperature": 0.9, "top_p": 0.9, "seed": visitor.random.randrange(100), "presence_penalty": 0.5}
    _, answer = await visitor.post(kind, "/v1/chat/completions", visitor.chat(**more, stop=["zq"], user="soak"))
    require(answer["choices"][0]["finish_reason"] in ("stop", "length"), "no finish reason")


async def chat_logprobs(visitor: Visitor, kind: str) -> None:
    body = visitor.chat(logprobs=True, top_logprobs=3)
    head, answer = await visitor.post(kind, "/v1/chat/completions", body)
    entries = answer["choices"][0]["logprobs"]["content"]
    written_by(head, "".join(entry["token"] for entry in entries))
    require(all(len(entry["top_logprobs"]) == 3 and entry["logprob"] <= 0 for entry in entries), "wrong logprobs")


async def chat_json(visitor: Visitor, kind: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "port", "schema": SCHEMA, "strict": True}}
    body = visitor.chat(response_format=form, max_tokens=JSON_TOKENS)
    _, answer = await visitor.post(kind, "/v1/chat/completions", body)
    (choice,) = answer["choices"]
    found = json.loads(choice["message"]["content"])
    require(set(found) == {"port", "open"} and found["port"] in (80, 443, 8000), f"not of the schema: {found}")


async def chat_tool(visitor: Visitor, kind: str) -> None:
    tools = [{"type": "function", "function": TOOL}]
    body = visitor.chat(tools=tools, tool_choice="required", parallel_tool_calls=False, max_tokens=JSON_TOKENS)
    _, answer = await visitor.post(kind, "/v1/chat/completions", body)
    (choice,) = answer["choices"]
    require(choice["finish_reason"] == "tool_calls", f"finish_reason {choice['finish_reason']}, not tool_calls")
    json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])


async def completion(visitor: Visitor, kind: str) -> None:
    body = {"model": "selflearn", "prompt": visitor.question(), "max_tokens": TOKENS, "temperature": 0.5}
    if visitor.random.random() < 0.5:
        _, answer = await visitor.post(kind, "/v1/completions", {**body, "logprobs": 2})
        choice = answer["choices"][0]
    else:
        _, events = await visitor.events(kind, "/v1/completions", body)
        choice = [each for event in events for each in event["choices"]][-1]
    require(choice["finish_reason"] in ("stop", "length"), "no finish reason")


async def response(visitor: Visitor, kind: str) -> None:
    body = {"model": "selflearn", "input": visitor.question(), "max_output_tokens": TOKENS, "temperature": 0}
    if visitor.random.random() < 0.5:
        head, answer = await visitor.post(kind, "/v1/responses", body)
    else:
        head, events = await visitor.events(kind, "/v1/responses", body)
        answer = events[-1]["response"]
        numbers = [event["sequence_number"] for event in events]
        require(numbers == list(range(len(events))), "events are missing")
    written_by(head, "".join(part["text"] for item in answer["output"] for part in item["content"]))
    visitor.remember(answer["id"])


async def feedback(visitor: Visitor, kind: str) -> None:
    """A correction or a rating, once for each answer; nothing if there is none."""
    if not visitor.answered:
        return await chat_whole(visitor, kind)
    given: dict[str, Any] = {"interaction_id": visitor.answered.pop(visitor.random.randrange(len(visitor.answered)))}
    if visitor.random.random() < 0.5:
        given |= {"kind": "rating", "value": visitor.random.choice((1, -1))}
    else:
        given |= {"kind": "correction", "text": f"It is used by service {visitor.random.randrange(10**6)}."}
    await visitor.post(kind, "/v1/feedback", given, status=201)
    return None


async def look(visitor: Visitor, kind: str) -> None:
    path = visitor.random.choice(
        ("/v1/models", "/v1/models/selflearn", "/metrics", "/livez", "/readyz", "/openapi.json")
    )
    head = await visitor.client.send("GET", path)
    await visitor.client.read()
    visitor.tally.status(kind, head.status)
    require(head.status == 200, f"{path}: HTTP {head.status}")


async def hang_up(visitor: Visitor, kind: str) -> None:
    """Asks for a long answer and leaves: at once, while it waits for the beginning, or after some pieces."""
    body = visitor.chat(
        max_tokens=20 * TOKENS, stream=visitor.random.random() < 0.7, n=visitor.random.choice((1, 1, 2))
    )
    path = "/v1/chat/completions"
    try:
        if not body["stream"]:
            await visitor.client.send_only("POST", path, body)
            await asyncio.sleep(visitor.random.random() * PATIENCE_SECONDS)
            return
        head = await visitor.client.send("POST", path, body)
        visitor.tally.status(kind, head.status)
        left = visitor.random.randrange(6)
        async with contextlib.aclosing(visitor.client.pieces()) as pieces:
            async for _ in pieces:
                if (left := left - 1) < 0:
                    break
    finally:
        visitor.tally.cut_off(kind)
        await visitor.client.close()


#: How often each thing is done, as a weight.
MIXTURE: Mapping[Kind, int] = {
    chat_whole: 4,
    chat_streamed: 6,
    chat_choices: 2,
    chat_sampled: 2,
    chat_logprobs: 2,
    chat_json: 2,
    chat_tool: 1,
    completion: 2,
    response: 3,
    feedback: 3,
    look: 2,
    hang_up: 3,
}


async def visit(visitor: Visitor, kinds: Mapping[Kind, int] = MIXTURE) -> None:
    """Does one thing, and tallies what comes of it."""
    (kind,) = visitor.random.choices(list(kinds), weights=list(kinds.values()))
    name = kind.__name__.replace("_", " ")
    with visitor.tally.timed(name):
        try:
            await kind(visitor, name)
        except (OSError, EOFError, ValueError, LookupError, TypeError, AssertionError) as error:
            visitor.tally.wrong(name, f"{type(error).__name__}: {error}"[:400])
            await visitor.client.close()
            await visitor.teacher.close()
