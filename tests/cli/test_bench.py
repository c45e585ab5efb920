"""``selflearn bench serve`` against a real server, and against servers that do not behave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from selflearn.cli.load import Sample, Target, ask, chat_body, level, percentile, stream_load
from selflearn.cli.transport import Address
from selflearn.errors import DaemonUnreachable
from tests.api.server import Running
from tests.cli.conftest import Command
from tests.shapes import conforms

Serve = Callable[..., str]
TEXT = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
FINISH = b'data: {"choices": [{"delta": {}, "finish_reason": "length"}]}\n\n'


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves connections one after the other, each with the next of some answers; returns the address."""
    with contextlib.ExitStack() as stack:

        def start(*answers: bytes) -> str:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def run() -> None:
                for answer in answers:
                    connection, _ = listening.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(answer)

            thread = threading.Thread(target=run)
            thread.start()
            stack.callback(thread.join, 10.0)
            return f"http://127.0.0.1:{listening.getsockname()[1]}"

        yield start


def ask_once(url: str) -> Sample:
    async def work() -> Sample:
        target = Target(url, "m")
        async with target.connection() as connection:
            return await ask(connection, chat_body(target, "hello", 2))

    return asyncio.run(work())


def test_every_number_of_clients_gets_its_figures(command: Command, running: Running) -> None:
    outcome = command(
        "bench", "serve", "--url", running.url, "--clients", "1,3", "--tokens", 6, "--requests", 2, "--json"
    )
    assert outcome.code == 0, outcome.err
    found = conforms("bench serve", json.loads(outcome.out))
    assert (found["url"], found["tokens"]) == (running.url, 6)
    assert [(each["clients"], each["requests"], each["failed"]) for each in found["levels"]] == [(1, 2, 0), (3, 6, 0)]
    for each in found["levels"]:
        assert 0 < each["tokens_per_answer"] <= 6
        assert each["tokens_per_second"] == pytest.approx(each["tokens"] / each["seconds"])
        assert 0 < each["first_token_seconds"]["p50"] <= each["first_token_seconds"]["p99"] <= each["seconds"]


def test_by_itself_it_measures_the_running_daemon_shortly(command: Command, running: Running) -> None:
    outcome = command("--url", running.url, "bench", "--tokens", 2, "--json")
    assert outcome.code == 0, outcome.err
    found = conforms("bench", json.loads(outcome.out))
    assert found["url"] == running.url
    assert [(each["clients"], each["requests"], each["failed"]) for each in found["levels"]] == [(1, 2, 0), (8, 16, 0)]


def test_the_address_may_be_the_global_one_and_end_in_v1(command: Command, running: Running) -> None:
    outcome = command("--url", running.url + "/v1", "bench", "serve", "--clients", 1, "--tokens", 2, "--requests", 1)
    assert outcome.code == 0, outcome.err
    headings, figures = outcome.out.splitlines()
    assert headings.startswith("clients  answers  failed  tokens/s")
    assert figures.split()[:3] == ["1", "1", "0"]
    assert f"selflearn at {running.url}" in outcome.err


def test_refused_requests_are_failures(command: Command, running: Running) -> None:
    arguments = ("--url", running.url, "--clients", 2, "--requests", 1, "--json")
    outcome = command("bench", "serve", *arguments, "--model", "selflearn@99")
    assert outcome.code == 1
    (found,) = json.loads(outcome.out)["levels"]
    assert (found["failed"], found["tokens"], found["first_token_seconds"]["p50"]) == (2, 0, None)
    assert "HTTP 404" in outcome.err
    refused = command("bench", "serve", *arguments, "--extra", '{"temperature": 9}')
    assert refused.code == 1
    assert "HTTP 400" in refused.err


@pytest.mark.parametrize("wrong", [("--clients", "1,x"), ("--clients", "0"), ("--extra", "[]"), ("--extra", "{")])
def test_wrong_usage_is_said(command: Command, wrong: tuple[str, str]) -> None:
    outcome = command("bench", "serve", *wrong)
    assert outcome.code == 2
    assert "expected" in outcome.err


def test_no_server(command: Command, serve: Serve) -> None:
    assert command("bench", "serve", "--url", "http://127.0.0.1:1").code == 4
    assert command("bench", "serve", "--url", "no url").code == 4
    other = serve(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    outcome = command("bench", "serve", "--url", other)
    assert outcome.code == 4
    assert "names no model" in outcome.err


def test_the_key_is_sent(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            for _ in range(2):
                connection, _ = listening.accept()
                with connection:
                    seen.append(connection.recv(65536))
                    connection.sendall(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")

        thread = threading.Thread(target=run)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("SELFLEARN_API_KEY", "sl-one")
        assert command("bench", "serve", "--url", url).code == 4
        file = tmp_path / "key"
        file.write_text("sl-two\n")
        assert command("--key-file", file, "bench", "serve", "--url", url).code == 4
        thread.join()
    assert b"\r\nauthorization: Bearer sl-one\r\n" in seen[0]
    assert b"\r\nauthorization: Bearer sl-two\r\n" in seen[1]


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_stream_that_ends_with_its_connection_counts(serve: Serve, before: bytes) -> None:
    found = ask_once(serve(before + b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + TEXT + TEXT + FINISH))
    assert found.error is None
    assert (found.text, found.tokens, len(found.arrivals)) == ("aa", 2, 2)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", "IncompleteReadError"),
        (b"220 mail.example\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20000 + b"\r\n", "header is longer"),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + TEXT, "without a finish reason"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n" + TEXT + FINISH, "within an answer"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nda", "IncompleteReadError"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n", "ValueError"),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\ndata: {\n\n", "JSONDecodeError"),
        (b'HTTP/1.1 200 OK\r\nconnection: close\r\n\r\ndata: {"error": "gone"}\n\n', "within the stream: gone"),
        (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy", "HTTP 503: busy"),
    ],
)
def test_broken_answers_are_failures(serve: Serve, answer: bytes, error: str) -> None:
    found = ask_once(serve(answer))
    assert found.error is not None
    assert error in found.error


def test_each_question_is_asked_once(running: Running) -> None:
    load = stream_load(Target(running.url, "selflearn"), clients=2, requests=5, tokens=2, first=100)
    samples = asyncio.run(load)
    assert [sample.error for sample in samples] == [None] * 5
    rows = running.store.read("SELECT messages FROM interactions")
    asked = [number for number in range(100, 106) if any(f"({number}) " in row["messages"] for row in rows)]
    assert asked == [100, 101, 102, 103, 104]
    assert {sample.version for sample in samples} == {"0"}


def test_addresses() -> None:
    assert Address.parse("https://example.org/a/") == Address("example.org", 443, True, "/a")
    assert Address.parse("http://[::1]:8000").authority == "[::1]:8000"
    for wrong in ("example.org", "ftp://example.org", "http://", "http://a:b"):
        with pytest.raises(DaemonUnreachable, match="no address"):
            Address.parse(wrong)


def test_figures() -> None:
    fast = Sample(sent=0.0, ended=2.0, arrivals=(1.0, 2.0), tokens=3)
    slow = Sample(sent=1.0, ended=4.0, arrivals=(4.0,), tokens=1)
    broken = Sample(sent=1.0, ended=5.0, error="HTTP 500")
    found = level(2, [fast, slow, broken])
    assert (found.requests, found.failed, found.errors) == (3, 1, ("HTTP 500",))
    assert (found.seconds, found.tokens_per_second, found.tokens_per_answer) == (5.0, 0.8, 2.0)
    assert (found.first_token_seconds.p50, found.first_token_seconds.p99) == (1.0, 3.0)
    assert found.per_token_seconds.p50 == 0.5
    assert level(1, []).tokens_per_second == 0.0
    assert percentile([], 0.5) is None
    assert [percentile([4, 1, 3, 2], share) for share in (0.25, 0.5, 0.95)] == [1, 2, 4]
