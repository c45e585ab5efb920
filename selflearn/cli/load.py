"""Load for an OpenAI-compatible server: clients that stream one chat answer after the other, and what they saw.

Each client asks its next question as soon as its answer has ended. No two questions are the same, so that a cache of
prompts helps with nothing but the chat template.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from selflearn.cli.transport import Address
from selflearn.cli.wire import Connection

PERCENTILES = (0.5, 0.95, 0.99)
SHOWN_BYTES = 300
#: A small model's greedy answers to these are long: what is measured is then the same number of tokens each time.
SUBJECTS = (
    "a lighthouse keeper who finds a map",
    "the history of the railway",
    "how bread is made, step by step",
    "a week of travel through Italy",
    "the life of a river from its spring to the sea",
    "the rules of chess for a beginner",
    "a city on the moon in the year 2200",
    "the seasons in a northern forest",
)
END = b"data: [DONE]"
DATA = b"data: "


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask. ``url`` ends before ``/v1``; ``headers`` and ``extra`` are put into every request as they are."""

    url: str
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def connection(self) -> Connection:
        """Raises ``DaemonUnreachable`` for an address that is none."""
        return Connection(Address.parse(self.url), self.headers)


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer. Times are seconds of ``time.perf_counter``; ``arrivals`` are those at which text came.

    ``tokens`` is what the server says it generated, or the number of arrivals if it does not say. ``origins`` are all
    the fingerprints that the answer's parts name.
    """

    sent: float
    ended: float
    arrivals: tuple[float, ...] = ()
    tokens: int = 0
    text: str = ""
    version: str | None = None
    origins: frozenset[str] = frozenset()
    error: str | None = None

    @property
    def first_token(self) -> float | None:
        """Seconds until the first text came."""
        return self.arrivals[0] - self.sent if self.arrivals else None

    @property
    def per_token(self) -> float | None:
        """Seconds from one token to the next, on average."""
        return (self.arrivals[-1] - self.arrivals[0]) / (self.tokens - 1) if self.arrivals and self.tokens > 1 else None

    @property
    def duration(self) -> float:
        return self.ended - self.sent


Ask = Callable[[int], Awaitable[Sample]]


def question(number: int) -> str:
    return f"({number}) Write a long and detailed text about {SUBJECTS[number % len(SUBJECTS)]}."


def chat_body(target: Target, text: str, tokens: int) -> dict[str, Any]:
    """A streamed, greedy chat request that asks the server to count the tokens."""
    return {
        "model": target.model,
        "messages": [{"role": "user", "content": text}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "max_tokens": tokens,
        **target.extra,
    }


async def ask(connection: Connection, body: Mapping[str, Any], path: str = "/v1/chat/completions") -> Sample:
    """Streams one answer; what goes wrong is told in the sample.

    While it streams, lines are only noted with their time: they are looked into when the last one has come.
    """
    lines: list[tuple[float, bytes]] = []
    version: str | None = None
    sent = time.perf_counter()
    try:
        head = await connection.send("POST", path, body)
        version = head.headers.get("x-selflearn-version")
        if head.status != 200:
            shown = (await connection.read())[:SHOWN_BYTES].decode(errors="replace")
            return Sample(sent, time.perf_counter(), version=version, error=f"HTTP {head.status}: {shown}")
        await _note_lines(connection, lines)
        return _sample(sent, time.perf_counter(), version, lines)
    except (OSError, EOFError, ValueError) as error:
        await connection.close()
        return Sample(sent, time.perf_counter(), version=version, error=f"{type(error).__name__}: {error}")


async def _note_lines(connection: Connection, lines: list[tuple[float, bytes]]) -> None:
    rest = b""
    async for piece in connection.pieces():
        now = time.perf_counter()
        *whole, rest = (rest + piece).split(b"\n")
        lines.extend((now, line) for line in whole if line.startswith(DATA) and not line.startswith(END))


def _sample(sent: float, ended: float, version: str | None, lines: Sequence[tuple[float, bytes]]) -> Sample:
    """What the lines of a stream say. A stream without a finish reason was cut off."""
    texts: list[tuple[float, str]] = []
    origins: set[str] = set()
    counted: int | None = None
    finished = False
    for at, line in lines:
        event = json.loads(line[len(DATA) :])
        if "error" in event:
            return Sample(sent, ended, version=version, error=f"within the stream: {str(event['error'])[:SHOWN_BYTES]}")
        counted = (event.get("usage") or {}).get("completion_tokens", counted)
        if event.get("system_fingerprint"):
            origins.add(event["system_fingerprint"])
        for choice in event.get("choices", ()):
            finished = finished or bool(choice.get("finish_reason"))
            if text := choice.get("text") or (choice.get("delta") or {}).get("content"):
                texts.append((at, text))
    return Sample(
        sent,
        ended,
        arrivals=tuple(at for at, _ in texts),
        tokens=len(texts) if counted is None else counted,
        text="".join(text for _, text in texts),
        version=version,
        origins=frozenset(origins),
        error=None if finished else "the stream ended without a finish reason",
    )


async def closed_loop(asks: Sequence[Ask], goes_on: Callable[[int], bool], first: int = 0) -> list[Sample]:
    """Lets each client ask one question after the other, as long as ``goes_on(questions asked so far)``.

    Questions are numbered from ``first`` on, over all clients.
    """
    numbers = itertools.count()
    samples: list[Sample] = []

    async def client(ask_one: Ask) -> None:
        while goes_on(number := next(numbers)):
            samples.append(await ask_one(first + number))

    async with asyncio.TaskGroup() as group:
        for ask_one in asks:
            group.create_task(client(ask_one))
    return samples


async def stream_load(target: Target, *, clients: int, requests: int, tokens: int, first: int = 0) -> list[Sample]:
    """Asks ``requests`` questions with ``clients`` clients, each on a connection of its own."""
    connections = [target.connection() for _ in range(clients)]

    def asking(connection: Connection) -> Ask:
        return lambda number: ask(connection, chat_body(target, question(number), tokens))

    try:
        return await closed_loop([asking(each) for each in connections], lambda number: number < requests, first)
    finally:
        for connection in connections:
            await connection.close()


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of some seconds; None of nothing."""

    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(*(percentile(values, share) for share in PERCENTILES))


@dataclass(frozen=True, slots=True)
class Level:
    """The figures of one number of clients. Only whole answers count; ``seconds`` is the time that they all took."""

    clients: int
    requests: int
    failed: int
    errors: tuple[str, ...]
    seconds: float
    tokens: int
    tokens_per_second: float
    tokens_per_answer: float
    first_token_seconds: Spread
    per_token_seconds: Spread
    request_seconds: Spread

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def level(clients: int, samples: Sequence[Sample]) -> Level:
    """Sums up what ``clients`` clients saw."""
    whole = [sample for sample in samples if sample.error is None]
    seconds = max(sample.ended for sample in samples) - min(sample.sent for sample in samples) if samples else 0.0
    tokens = sum(sample.tokens for sample in whole)
    return Level(
        clients=clients,
        requests=len(samples),
        failed=len(samples) - len(whole),
        errors=tuple(sorted({sample.error for sample in samples if sample.error is not None})),
        seconds=seconds,
        tokens=tokens,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        tokens_per_answer=tokens / len(whole) if whole else 0.0,
        first_token_seconds=Spread.of([each for sample in whole if (each := sample.first_token) is not None]),
        per_token_seconds=Spread.of([each for sample in whole if (each := sample.per_token) is not None]),
        request_seconds=Spread.of([sample.duration for sample in whole]),
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    """The nearest-rank percentile; None of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None
