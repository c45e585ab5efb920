"""What broken and hostile clients send. None of it may be answered with a 5xx, whatever else becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from selflearn.cli.transport import Address
from selflearn.cli.wire import Connection
from tests.benchmarks.mixed import SCHEMA, TOOL
from tests.benchmarks.tally import Tally

KIND = "fuzz"
ANSWER_SECONDS = 60.0
MEBIBYTE = 1 << 20
POSTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/feedback",
    "/admin/rollback",
    "/admin/rollouts/canary",
    "/admin/rollouts/promote",
    "/admin/rollouts/abort",
)
MESSAGE = {"role": "user", "content": "hello"}
CHAT: Mapping[str, Any] = {
    "model": "selflearn",
    "messages": [{"role": "system", "content": "be kind"}, MESSAGE],
    "max_tokens": 2,
    "temperature": 0.5,
    "top_p": 0.9,
    "n": 1,
    "seed": 1,
    "stop": ["a"],
    "stream": False,
    "logprobs": True,
    "top_logprobs": 2,
    "presence_penalty": 0.1,
    "logit_bias": {"5": 1},
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
    "tools": [{"type": "function", "function": TOOL}],
    "tool_choice": "none",
    "metadata": {"a": "b"},
    "user": "me",
}
VALID: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "selflearn", "prompt": "hello", "max_tokens": 2, "logprobs": 1, "stop": "a"},
    "/v1/responses": {"model": "selflearn", "input": [{**MESSAGE, "type": "message"}], "max_output_tokens": 2},
    "/v1/feedback": {"interaction_id": "chatcmpl-0", "kind": "correction", "text": "a", "reason": "b"},
    "/admin/rollback": {"to": 1, "reason": "fuzz", "dry_run": True},
    "/admin/rollouts/canary": {"version": 1, "share": 0.5, "for_seconds": 5, "reason": "fuzz", "dry_run": True},
    "/admin/rollouts/promote": {"version": 1, "reason": "fuzz", "dry_run": True},
    "/admin/rollouts/abort": {"reason": "fuzz", "dry_run": True},
}
#: Fields that keep a request small, or from changing what is served; they are never mutated.
KEPT = ("max_tokens", "max_output_tokens", "dry_run", "n", "best_of")
ODD: tuple[Any, ...] = (
    *(None, True, False, "", "x", "\ud800", "\x00", "a" * 10_000, [], {}, [[]], [None], {"a": None}),
    *(0, -1, 0.5, 2**31, 2**63, -(2**63) - 1, 10**400, 1e308, float("nan"), float("inf"), -0.0),
    *({"type": "object"}, {"type": "nothing"}, [{"role": "user"}], {"role": "tool"}, "../../etc/passwd", "%s%n"),
)
Shot = tuple[str, str, bytes, Mapping[str, str]]


def random_bytes(random: Random) -> Shot:
    return "POST", random.choice(POSTS), random.randbytes(random.randrange(2000)), {}


def broken_json(random: Random) -> Shot:
    """A good body with a piece cut out, or with some bytes replaced."""
    path = random.choice(POSTS)
    body = bytearray(json.dumps(VALID[path]).encode())
    place = random.randrange(len(body))
    if random.random() < 0.5:
        del body[place : place + random.randrange(1, 40)]
    else:
        body[place : place + 3] = random.randbytes(3)
    return "POST", path, bytes(body), {}


def odd_value(random: Random) -> Shot:
    """A good body in which one value, at any depth, is another than it should be."""
    path = random.choice(POSTS)
    body = copy.deepcopy(dict(VALID[path]))
    places = list(_places(body))
    container, key = random.choice(places)
    container[key] = copy.deepcopy(random.choice(ODD))
    return "POST", path, json.dumps(body).encode(), {}


def _places(value: Any) -> Any:
    """Every place in a JSON value that may be changed: (the object or list, its key or index)."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if key not in KEPT:
            yield value, key
            yield from _places(inner)


def unknown_field(random: Random) -> Shot:
    path = random.choice(POSTS)
    return "POST", path, json.dumps({**VALID[path], f"x{random.randrange(9)}": random.choice(ODD)}).encode(), {}


def huge_number(random: Random) -> Shot:
    """Numbers as text, which JSON allows and no type holds."""
    number = random.choice(("1e999", "-1e999", "9" * 5000, "0." + "1" * 5000, "NaN", "Infinity", "-0", "1E+2147483648"))
    name = random.choice(("temperature", "seed", "max_tokens", "top_logprobs", "n"))
    text = f'{{"model": "selflearn", "messages": [{json.dumps(MESSAGE)}], "max_tokens": 1, "{name}": {number}}}'
    return "POST", "/v1/chat/completions", text.encode(), {}


def deep_nesting(random: Random) -> Shot:
    depth = random.choice((50, 1000, 100_000))
    opening, closing = random.choice((("[", "]"), ('{"a":', "}"), ('{"type":"array","items":', "}")))
    nested = opening * depth + "1" + closing * depth
    place = random.choice(("messages", "metadata", "tools", "response_format", "stop"))
    form = f'{{"type": "json_schema", "json_schema": {{"name": "a", "schema": {nested}}}}}'
    value = form if place == "response_format" else nested
    text = f'{{"model": "selflearn", "max_tokens": 1, "messages": [{json.dumps(MESSAGE)}], "{place}": {value}}}'
    return "POST", "/v1/chat/completions", text.encode(), {}


def hostile_schema(random: Random) -> Shot:
    """Schemas that are legal and ask for much."""
    schema = random.choice(
        (
            {"$ref": "#"},
            {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}, "$ref": "#/$defs/a"},
            {"type": "string", "pattern": "^(a+)+$"},
            {"type": "string", "pattern": "(a{1,500}){1,500}"},
            {"type": "array", "minItems": 100_000, "items": {"type": "integer"}},
            {"enum": [f"value {number}" for number in range(3000)]},
            {"type": "integer", "multipleOf": 1e-300},
            {"allOf": [{"type": "object", "properties": {f"p{n}": {"type": "string"}}} for n in range(100)]},
            {"type": "object", "patternProperties": {"(": {}}},
            {"$ref": "file:///etc/passwd"},
            {"$ref": "http://127.0.0.1:1/"},
        )
    )
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    body = {"model": "selflearn", "messages": [MESSAGE], "max_tokens": 2, "response_format": form}
    return "POST", "/v1/chat/completions", json.dumps(body).encode(), {}


def large_body(random: Random) -> Shot:
    size = random.choice((MEBIBYTE, 2 * MEBIBYTE, 5 * MEBIBYTE))
    messages = [{"role": "user", "content": "x" * size}]
    body = {"model": "selflearn", "messages": messages, "max_tokens": 1}
    return "POST", random.choice(POSTS), json.dumps(body).encode(), {}


def odd_path(random: Random) -> Shot:
    number = random.choice(("0", "-1", "99", "9" * 40, "abc", "%00", "..%2f..%2fetc", "1.5", "", "é".encode().hex()))
    path = random.choice(
        ("/admin/updates/{}", "/admin/why/{}", "/admin/versions/{}", "/v1/models/{}", "/v1/responses/{}", "/{}")
    )
    paths = (path.format(number), f"/admin/rollouts?limit={number}", f"/admin/feedback?limit={number}&limit=x")
    return random.choice(("GET", "HEAD", "OPTIONS", "PUT", "TRACE")), random.choice(paths), b"", {}


def odd_header(random: Random) -> Shot:
    name, value = random.choice(
        (
            ("x-request-id", "a" * 5000),
            ("x-request-id", "a b"),
            ("x-selflearn-conversation", "c" * 5000),
            ("x-selflearn-conversation", ""),
            ("authorization", "Bearer sl-wrong"),
            ("authorization", "Basic YTpi"),
            ("authorization", ""),
            ("origin", "http://evil.example"),
            ("host", "evil.example"),
            ("content-type", "text/plain"),
            ("content-encoding", "gzip"),
            ("accept", "image/png"),
            ("expect", "100-continue"),
            ("x-forwarded-for", "' OR 1=1 --"),
        )
    )
    return "POST", random.choice(POSTS[:4]), json.dumps({**CHAT, "tools": None}).encode(), {name: value}


SHOTS: tuple[Callable[[Random], Shot], ...] = (
    *(random_bytes, broken_json, odd_value, odd_value, odd_value, unknown_field, huge_number),
    *(deep_nesting, hostile_schema, large_body, odd_path, odd_header),
)
#: What is sent without any care for HTTP.
RAW: tuple[bytes, ...] = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS client
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 999999999999\r\n\r\n{}",
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\n{",
    b"POST /v1/feedback HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"POST /v1/feedback HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\n",
    b"GET /livez HTTP/1.1\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n" * 50,
    b"\r\n\r\n\r\n",
    b"",
)


async def shoot(connection: Connection, random: Random, tally: Tally) -> None:
    """Sends one request that is wrong in some way, and tallies what comes back."""
    make = random.choice(SHOTS)
    kind = f"{KIND}: {make.__name__.replace('_', ' ')}"
    method, path, body, headers = make(random)
    with tally.timed(kind):
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                head = await connection.send(method, path, body, headers)
                if method != "HEAD":
                    await connection.read()
            tally.status(kind, head.status)
            if head.status >= 500:
                tally.problem(f"{method} {path} {dict(headers)}: {body[:300]!r}")
        except TimeoutError:
            tally.wrong(kind, f"no answer in {ANSWER_SECONDS:.0f} s to {method} {path}: {body[:300]!r}")
        except (OSError, EOFError, ValueError):
            tally.cut_off(kind)
    if method == "HEAD" or random.random() < 0.1:
        await connection.close()


async def shout(address: Address, random: Random, tally: Tally) -> None:
    """Opens a socket, says something that is not HTTP, and leaves with or without waiting."""
    kind = f"{KIND}: raw bytes"
    said = random.choice((*RAW, random.randbytes(random.randrange(3000))))
    with tally.timed(kind):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        with contextlib.suppress(OSError):
            writer.write(said)
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(random.random()):
                    _count(await reader.read(200), kind, tally)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _count(said: bytes, kind: str, tally: Tally) -> None:
    status = said[9:12]
    if said.startswith(b"HTTP/1.") and status.isdigit():
        tally.status(kind, int(status))
    else:
        tally.cut_off(kind)
