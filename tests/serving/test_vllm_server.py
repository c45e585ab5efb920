"""The watch over a vLLM server, with stand-ins for vLLM that start in a second; tests/vllm has the real one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from selflearn.errors import EngineError, EngineUnavailable
from selflearn.serving.vllm_client import Address
from selflearn.serving.vllm_server import Launch, VLLMServer
from tests.processes import children, group_members

SECONDS = 30.0
#: Answers every request with 200 on the unix socket that is its argument.
HEALTHY = """
import socketserver, sys
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.rfile.readline()
        self.wfile.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\nconnection: close\\r\\n\\r\\n")
socketserver.UnixStreamServer(sys.argv[1], Handler).serve_forever()
"""
#: A daemon that starts a "vLLM" of two processes and waits for it.
DAEMON = """
import sys
from pathlib import Path
from selflearn.serving.vllm_client import Address
from selflearn.serving.vllm_server import Launch, VLLMServer
child = "import subprocess; subprocess.run(['sleep', '600'])"
launch = Launch((sys.executable, "-c", child), {"PATH": "/usr/bin:/bin"}, Path(sys.argv[1], "vllm.log"))
VLLMServer(Address(socket=Path(sys.argv[1], "vllm.sock")), launch).start()
"""


def stand_in(directory: Path, code: str) -> VLLMServer:
    socket = directory / "vllm.sock"
    launch = Launch((sys.executable, "-c", code, str(socket)), dict(os.environ), directory / "vllm.log")
    return VLLMServer(Address(socket=socket), launch, start_seconds=SECONDS)


@contextlib.contextmanager
def started(server: VLLMServer) -> Iterator[VLLMServer]:
    server.start()
    try:
        yield server
    finally:
        server.close()


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_it_is_started_again_and_whoever_subscribed_is_told(tmp_path: Path) -> None:
    told: list[bool] = []
    server = stand_in(tmp_path, HEALTHY)
    server.subscribe(lambda: told.append(server.up))
    with pytest.raises(EngineUnavailable, match="not been started"):
        server.expect_up()
    with started(server):
        server.expect_up()
        first = server.process_id
        assert first is not None
        os.killpg(first, signal.SIGKILL)
        until(lambda: not server.up)
        with pytest.raises(EngineUnavailable, match="expected back"):
            server.expect_up()
        until(lambda: server.up)
        last = server.process_id
        assert last is not None
        assert last != first
        assert told == [False, False]  # before anybody else could ask it anything
    assert not server.up
    assert not group_members(last)
    assert not (tmp_path / "vllm.sock").exists()


def test_a_listener_that_fails_is_asked_again(tmp_path: Path) -> None:
    told: list[int] = []

    def listener() -> None:
        told.append(1)
        if len(told) == 1:
            raise EngineError("not yet")

    server = stand_in(tmp_path, HEALTHY)
    server.subscribe(listener)
    with started(server):
        assert len(told) == 2


def test_a_suspicion_is_looked_into(tmp_path: Path) -> None:
    told: list[int] = []
    server = stand_in(tmp_path, HEALTHY)
    server.subscribe(lambda: told.append(1))
    with started(server):
        process = server.process_id
        server.suspect()
        until(lambda: server.up)
        assert len(told) == 2
        assert server.process_id == process


def test_what_keeps_it_from_starting_is_told(tmp_path: Path) -> None:
    (tmp_path / "vllm.log").write_text("ValueError: of yesterday\n")
    server = stand_in(tmp_path, "print('WARNING: an INFO about Errors'); raise ValueError('there is no such model')")
    with pytest.raises(EngineError, match=r"has ended\. ValueError: there is no such model All .*vllm\.log"):
        server.start()
    assert server.process_id is None


def test_a_server_that_never_gets_healthy_is_ended(tmp_path: Path) -> None:
    socket = tmp_path / "vllm.sock"
    launch = Launch((sys.executable, "-c", "import time; time.sleep(600)"), {}, tmp_path / "vllm.log")
    server = VLLMServer(Address(socket=socket), launch, start_seconds=1.0)
    with pytest.raises(EngineError, match="was not healthy for"):
        server.start()
    assert server.process_id is None


def test_an_address_where_nobody_is_is_told() -> None:
    server = VLLMServer(Address("http://127.0.0.1:9"), start_seconds=0.5)
    with pytest.raises(EngineError, match="is not healthy"):
        server.start()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_of_it_outlives_the_daemon(number: signal.Signals, tmp_path: Path) -> None:
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON, str(tmp_path)])
    try:
        until(lambda: children(daemon.pid))
        (keeper,) = children(daemon.pid)
        until(lambda: len(group_members(keeper)) == 3)
    finally:
        daemon.send_signal(number)
        daemon.wait()
    until(lambda: not group_members(keeper))


def test_nothing_of_it_outlives_its_first_process(tmp_path: Path) -> None:
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON, str(tmp_path)], stderr=subprocess.DEVNULL)
    try:
        until(lambda: children(daemon.pid))
        (keeper,) = children(daemon.pid)
        until(lambda: len(group_members(keeper)) == 3)
        (first,) = children(keeper)
        os.kill(first, signal.SIGKILL)
        until(lambda: not group_members(keeper))
    finally:
        daemon.kill()
        daemon.wait()
