"""``selflearn bench``: measure a server, this one or any other that speaks the OpenAI API."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli.output import Cell, message, show, table
from selflearn.cli.session import READ_SECONDS, Session, session_of
from selflearn.errors import DaemonUnreachable

if TYPE_CHECKING:
    from selflearn.cli.load import Level, Target

app = typer.Typer()
FAILED = 1
HEADINGS = (
    "clients",
    "answers",
    "failed",
    "tokens/s",
    "first token ms p50",
    "p95",
    "p99",
    "per token ms p50",
    "p95",
    "p99",
    "tokens/answer",
)


Tokens = Annotated[int, typer.Option(min=1, help="Longest answer; all are greedy.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def bench(context: typer.Context, tokens: Tokens = 32, as_json: Json = False) -> None:
    """Measure the running daemon, shortly: time to first token and tokens per second, with 1 client and with 8.

    What it asks is recorded as any other question is. Exit code 1 if a request failed.
    """
    if context.invoked_subcommand is None:
        session = session_of(context)
        session.call("GET", "/v1/models")
        _bench(session, session.url, [1, 8], requests=2, tokens=tokens, as_json=as_json)


@app.command("serve")
def serve(
    context: typer.Context,
    url: Annotated[str | None, typer.Option(help="The server; any that speaks the OpenAI API (default: ours).")] = None,
    clients: Annotated[str, typer.Option(help="Clients at once, one measurement for each number.")] = "1,8,32",
    tokens: Tokens = 64,
    requests: Annotated[int, typer.Option(min=1, help="Questions that each client asks.")] = 4,
    model: Annotated[str | None, typer.Option(help="Model to ask for (default: the first that is listed).")] = None,
    extra: Annotated[str, typer.Option(help="JSON object that is put into every request.")] = "{}",
    as_json: Json = False,
) -> None:
    """Stream chat answers with some clients at once: throughput, time to first token, time per token.

    Exit code 1 if a request failed.
    """
    numbers, added = _numbers(clients), _object(extra)
    session = session_of(context)
    options: dict[str, Any] = {"model": model, "extra": added, "requests": requests, "tokens": tokens}
    _bench(session, url or session.url, numbers, **options, as_json=as_json)


def _bench(
    session: Session,
    url: str,
    clients: Sequence[int],
    *,
    requests: int,
    tokens: int,
    as_json: bool,
    model: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    import asyncio  # here: a fiftieth of a second that no other command needs

    address = url.rstrip("/").removesuffix("/v1")
    levels = asyncio.run(_measure(address, model, session.headers, extra or {}, clients, requests, tokens))
    found = {"url": address, "tokens": tokens, "levels": [each.as_dict() for each in levels]}
    show(found, as_json, lambda _: table(HEADINGS, [_row(each) for each in levels]))
    for error in sorted({error for each in levels for error in each.errors}):
        message(f"failed: {error}")
    if any(each.failed for each in levels):
        raise typer.Exit(FAILED)


async def _measure(
    url: str,
    model: str | None,
    headers: Mapping[str, str],
    extra: Mapping[str, Any],
    numbers: Sequence[int],
    requests: int,
    tokens: int,
) -> list[Level]:
    """One level for each number of clients, after a round of answers that are not counted."""
    from selflearn.cli.load import Target, level, stream_load

    target = Target(url, model or await _first_model(Target(url, "", headers)), headers, extra)
    asked = 0
    levels: list[Level] = []
    for clients in numbers:
        message(f"{clients} clients: {target.model} at {url} …")
        for times in (1, requests):  # the first time to warm up
            samples = await stream_load(target, clients=clients, requests=clients * times, tokens=tokens, first=asked)
            asked += len(samples)
        levels.append(level(clients, samples))
    return levels


async def _first_model(target: Target) -> str:
    """The first model that the server lists."""
    import asyncio

    try:
        async with asyncio.timeout(READ_SECONDS), target.connection() as connection:
            head = await connection.send("GET", "/v1/models")
            body = await connection.read()
    except (OSError, EOFError, ValueError) as error:
        raise DaemonUnreachable(
            f"No server answers at {target.url} ({type(error).__name__}: {error}). Start one, or say with --url where "
            "it is."
        ) from error
    try:
        return str(json.loads(body)["data"][0]["id"])
    except (ValueError, LookupError, TypeError) as error:
        shown = body[:200].decode(errors="replace")
        raise DaemonUnreachable(
            f"{target.url}/v1/models answers {head.status} and names no model: {shown!r}. Check --url and the key, or "
            "name one with --model."
        ) from error


def _row(level: Level) -> tuple[Cell, ...]:
    first, each = level.first_token_seconds, level.per_token_seconds
    times = [first.p50, first.p95, first.p99, each.p50, each.p95, each.p99]
    milliseconds = [None if time is None else f"{1000 * time:.1f}" for time in times]
    speed = f"{level.tokens_per_second:.1f}"
    return (level.clients, level.requests, level.failed, speed, *milliseconds, f"{level.tokens_per_answer:.1f}")


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(f"found {text!r}, expected numbers above 0 such as 1,8,32.", param_hint="--clients")
    return numbers


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise typer.BadParameter(f"found {text!r}, expected a JSON object.", param_hint="--extra")
    return found
