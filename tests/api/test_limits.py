"""Limits: requests per minute, bodies, slow clients, foreign pages, and the id that every request has."""

from __future__ import annotations

import io
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from selflearn.api.connections import Connection
from selflearn.api.keyring import add_key, read_keyring
from selflearn.api.limits import TokenBucket
from selflearn.config import ApiSettings
from selflearn.monitoring.logs import JsonFormatter
from tests.api.server import Running, until

ASK: Any = {"model": "selflearn", "messages": [{"role": "user", "content": "the quick brown"}], "temperature": 0}
CHAT = "/v1/chat/completions"


@contextmanager
def connected(running: Running) -> Iterator[socket.socket]:
    """A connection of one's own, with small buffers."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(20.0)
        client.connect(("127.0.0.1", httpx.URL(running.url).port))
        yield client


def head(*lines: str, end: str = "\r\n\r\n") -> bytes:
    return (
        "\r\n".join((f"POST {CHAT} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *lines)) + end
    ).encode()


def answer(client: socket.socket) -> tuple[int, dict[str, Any]]:
    """Reads one whole answer: its status and its body."""
    response = b""
    while b"\r\n\r\n" not in response or not response.rstrip().endswith(b"}"):
        data = client.recv(65536)
        assert data, response
        response += data
    return int(response.split()[1]), json.loads(response.partition(b"\r\n\r\n")[2])


def check(found: tuple[int, dict[str, Any]], status: int, code: str) -> None:
    assert (found[0], found[1]["error"]["code"]) == (status, code)


def closed(client: socket.socket) -> bool:
    """Waits until the other side has closed the connection without a word."""
    try:
        return client.recv(1024) == b""
    except ConnectionResetError:
        return True


# Requests per minute


def test_a_bucket_lets_a_minutes_worth_through_and_then_what_comes_in() -> None:
    bucket = TokenBucket(60, 60.0, filled_at=100.0)
    assert [bucket.take(60, 100.0) for _ in range(60)] == [0.0] * 60
    assert bucket.take(60, 100.0) == pytest.approx(1.0)
    assert bucket.take(60, 100.5) == pytest.approx(0.5)
    assert bucket.take(60, 101.0) == 0.0
    assert bucket.seconds_to_full == pytest.approx(60.0)
    assert bucket.take(60, 1000.0) == 0.0
    assert bucket.tokens == 59.0
    assert bucket.take(10, 1000.0) == 0.0  # the limit was lowered
    assert bucket.tokens == 9.0


def test_each_key_has_its_requests(start: Callable[..., Running], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    ann, bob = (add_key(file, name, "operator") for name in ("ann", "bob"))
    running = start(api=ApiSettings(requests_per_minute=2), keyring=read_keyring(file))

    def ask(secret: str, path: str = "/v1/models") -> httpx.Response:
        return running.http.get(path, headers={"authorization": f"Bearer {secret}"})

    remaining = []
    for _ in range(2):
        let_in = ask(ann)
        assert let_in.status_code == 200
        assert let_in.headers["x-ratelimit-limit-requests"] == "2"
        remaining.append(let_in.headers["x-ratelimit-remaining-requests"])
    assert remaining == ["1", "0"]
    refused = ask(ann)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert ask(bob).status_code == 200
    for path in ("/admin/status", "/metrics", "/readyz", "/livez"):
        for _ in range(3):
            assert ask(ann, path).status_code in (200, 503)
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=ann, max_retries=0)
    with client, pytest.raises(openai.RateLimitError, match="requests_per_minute"):
        client.models.list()


def test_without_a_limit_no_header_speaks_of_one(running: Running) -> None:
    assert not [name for name in running.http.get("/v1/models").headers if "ratelimit" in name]


def test_a_full_queue(start: Callable[..., Running], pool: ThreadPoolExecutor) -> None:
    running = start(max_waiting=0)
    running.serve(0)

    def ask(_: int) -> httpx.Response:
        return running.http.post(CHAT, json={**ASK, "max_tokens": 200})

    refused = [response for response in pool.map(ask, range(14)) if response.status_code != 200]
    assert refused
    for response in refused:
        assert response.status_code == 429
        assert response.json()["error"]["code"] == "queue_full"
        assert response.headers["retry-after"] == "1"


# Bodies and slow clients


def test_a_body_that_says_it_is_too_large_is_not_read(start: Callable[..., Running]) -> None:
    running = start(api=ApiSettings(max_body_bytes=2000))
    with connected(running) as client:
        client.sendall(head("Content-Length: 2001"))
        check(answer(client), 413, "request_too_large")
    with connected(running) as client:
        client.sendall(head("Content-Length: 2000") + b" " * 2000)
        assert answer(client)[0] == 400


def test_a_body_that_turns_out_too_large(start: Callable[..., Running]) -> None:
    running = start(api=ApiSettings(max_body_bytes=2000))
    with connected(running) as client:
        client.sendall(head("Transfer-Encoding: chunked") + b"7d1\r\n" + b" " * 2001 + b"\r\n")
        check(answer(client), 413, "request_too_large")


def test_a_body_that_never_comes(start: Callable[..., Running]) -> None:
    running = start(api=ApiSettings(read_timeout_seconds=0.3))
    running.serve(0)
    with connected(running) as client:
        client.sendall(head("Content-Length: 100") + b'{"model": ')
        check(answer(client), 408, "read_timeout")
        assert closed(client)


def test_a_body_that_comes_in_time_may_be_answered_later(start: Callable[..., Running]) -> None:
    running = start(api=ApiSettings(read_timeout_seconds=0.2))
    running.serve(0)
    with running.http.stream("POST", CHAT, json={**ASK, "max_tokens": 480, "stream": True}) as response:
        lines = list(response.iter_lines())
    assert lines[-2] == "data: [DONE]"


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat", head(end="\r\n")])
def test_a_head_that_never_ends(start: Callable[..., Running], sent: bytes) -> None:
    running = start(api=ApiSettings(read_timeout_seconds=0.3))
    with connected(running) as client:
        client.sendall(sent)
        assert closed(client)
    with connected(running) as client:  # and as the second request of a connection
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer(client)[0] == 200
        client.sendall(sent or b"G")
        assert closed(client)


def test_the_rest_of_a_refused_body_is_not_awaited_forever(start: Callable[..., Running]) -> None:
    running = start(api=ApiSettings(read_timeout_seconds=0.5, max_body_bytes=2000))
    with connected(running) as client:
        client.sendall(head("Content-Length: 4000"))
        check(answer(client), 413, "request_too_large")
        client.settimeout(0.1)
        with pytest.raises((ConnectionError, StopIteration)):  # noqa: PT012 - the end comes at any of many sends
            for _ in range(100):
                client.sendall(b" ")
                assert not _readable(client)
                time.sleep(0.1)


def _readable(client: socket.socket) -> bool:
    try:
        if client.recv(100) == b"":
            raise StopIteration
    except TimeoutError:
        return False
    return True


def test_a_client_that_stops_reading_is_cut_off(start: Callable[..., Running]) -> None:
    running = start(api=ApiSettings(send_timeout_seconds=0.05))
    running.serve(0)
    body = json.dumps({**ASK, "max_tokens": 480, "stream": True}).encode()
    with connected(running) as client:
        until(lambda: connections(running))
        (connection,) = connections(running)
        buffered = connection.transport.get_extra_info("socket")
        buffered.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        connection.transport.set_write_buffer_limits(high=2048)
        client.sendall(head(f"Content-Length: {len(body)}") + body)
        until(lambda: running.store.read("SELECT 1 FROM interactions WHERE state = 'cancelled'"))
        until(lambda: running.services.traffic.answers == 0)
        until(lambda: not connections(running))
    (row,) = running.store.read("SELECT answer, completion_tokens FROM interactions")
    assert row["answer"]
    assert row["completion_tokens"] < 480


def connections(running: Running) -> list[Connection]:
    assert running.server is not None
    return [entry for entry in running.server.server_state.connections if isinstance(entry, Connection)]


# Foreign pages


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]", "[::1]:8000", "LOCALHOST"])
def test_names_of_the_daemon_itself(running: Running, host: str) -> None:
    assert running.http.get("/readyz", headers={"host": host}).status_code == 200
    own = {"host": host, "origin": f"http://{host}"}
    assert running.http.get("/readyz", headers=own).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "[evil]", "127.0.0.1.nip.io", ""]
)
def test_other_names_are_refused_on_loopback(running: Running, host: str) -> None:
    for path in ("/readyz", "/livez"):
        refused = running.http.get(path, headers={"host": host})
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "unknown_host"


def test_a_proxy_may_be_named(start: Callable[..., Running]) -> None:
    running = start(api=ApiSettings(allowed_hosts=("Models.example",)))
    assert running.http.get("/livez", headers={"host": "models.example:443"}).status_code == 200
    assert running.http.get("/livez", headers={"host": "other.example"}).status_code == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000"])
def test_pages_of_others_are_refused(running: Running, origin: str) -> None:
    refused = running.http.post("/admin/rollback", json={}, headers={"origin": origin})
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "cross_origin"


# Request ids


@pytest.mark.parametrize("sent", ["a", "x" * 128, "req/1:{2}~!"])
def test_a_request_keeps_its_id(running: Running, sent: str) -> None:
    response = running.http.post(CHAT, json={**ASK, "max_tokens": 2}, headers={"x-request-id": sent})
    assert response.headers["x-request-id"] == sent
    assert json.loads(running.row(response.json()["id"])["parameters"])["request_id"] == sent


@pytest.mark.parametrize("sent", [None, "", "two words", "x" * 129, "é".encode()])
def test_a_request_without_a_usable_id_gets_one(running: Running, sent: str | bytes | None) -> None:
    headers: Any = {} if sent is None else {"x-request-id": sent}
    first, second = (running.http.get("/readyz", headers=headers).headers["x-request-id"] for _ in range(2))
    assert first != second
    for made in (first, second):
        assert len(made) == 36
        assert made.startswith("req-")


def test_failures_and_streams_have_the_id_too(running: Running) -> None:
    mine = {"x-request-id": "mine"}
    for response in (
        running.http.get("/no-such-path", headers=mine),
        running.http.delete("/livez", headers=mine),
        running.http.post(CHAT, json={}, headers=mine),
        running.http.get("/livez", headers={**mine, "host": "evil.example"}),
        running.http.post(CHAT, json={**ASK, "max_tokens": 2, "stream": True}, headers=mine),
    ):
        assert response.headers["x-request-id"] == "mine"
    two = [("x-request-id", "one"), ("x-request-id", "other")]
    assert running.http.get("/livez", headers=two).headers["x-request-id"].startswith("req-")


def test_what_is_logged_meanwhile_has_the_id(start: Callable[..., Running]) -> None:
    running = start()  # nothing serves yet: each chat is answered with 503, which is logged
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter())
    logging.getLogger("selflearn").addHandler(handler)
    try:
        for name in ("first", "second"):
            assert running.http.post(CHAT, json=ASK, headers={"x-request-id": name}).status_code == 503
    finally:
        logging.getLogger("selflearn").removeHandler(handler)
    events = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [event["request_id"] for event in events] == ["first", "second"]
