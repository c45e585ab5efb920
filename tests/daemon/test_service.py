"""A daemon as a service: what it tells its manager, what it takes anew while it runs, where its log and traces go.

One daemon for all of it. It begins on the database of an earlier release.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import socket
import sqlite3
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from sqlite_utils import Database

from selflearn.store.migrations import migrations
from tests.daemons import Daemon, Lab, chat, run, until

WATCHDOG_SECONDS = 0.4
WEDGED_SECONDS = 2.0
#: SIGUSR1 stops the event loop's thread for a while, SIGUSR2 the engine's.
WEDGES = f"""
import signal, time
from selflearn.serving import loop
engines, original = [], loop.EngineLoop.__init__
def keeping(self, *arguments):
    original(self, *arguments)
    engines.append(self)
loop.EngineLoop.__init__ = keeping
signal.signal(signal.SIGUSR1, lambda *_: time.sleep({WEDGED_SECONDS}))
signal.signal(signal.SIGUSR2, lambda *_: engines[-1].call(lambda: time.sleep({WEDGED_SECONDS})))
"""
#: Nothing passes such a gate, and nobody watches what is served.
STRICT = "[judging]\nmin_improvement = 50\n[watchdog]\nenabled = false\ninterval_seconds = 0.2\n"
EASY = "[judging]\nmin_improvement = 0\n[watchdog]\nenabled = true\ninterval_seconds = 0.2\n"
INTERACTION = "INSERT INTO interactions VALUES (?, 'default', ?, ?, 0, '[]', 'so', ?, 'stop', '{}', 1, 1, 0, 1.0, 2.0)"
TRACE = "0af7651916cd43dd8448eb211c80319c"


@dataclass(slots=True)
class Manager:
    """The service manager's end of NOTIFY_SOCKET: all messages, each with the time (monotonic) of its arrival."""

    listening: socket.socket
    heard: list[tuple[float, dict[str, str]]] = field(default_factory=list)

    def listen(self) -> None:
        with contextlib.suppress(OSError):
            while message := self.listening.recv(4096).decode():
                words = dict(line.split("=", 1) for line in message.splitlines())
                self.heard.append((time.monotonic(), words))

    def times(self, name: str) -> list[float]:
        return [at for at, words in self.heard if name in words]

    def longest_silence(self, since: float) -> float:
        """Seconds between two signs of life, from ``since`` to the last one."""
        times = [since, *(at for at in self.times("WATCHDOG") if at > since)]
        return max((after - before for before, after in itertools.pairwise(times)), default=0.0)


@dataclass(slots=True)
class Collector:
    """Takes OTLP over HTTP as any collector does."""

    server: ThreadingHTTPServer
    spans: list[Span]
    resources: list[dict[str, str]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


@dataclass(slots=True)
class Service:
    daemon: Daemon
    manager: Manager
    collector: Collector
    log: Path
    authority: trustme.CA
    certificate: Path
    settings: dict[str, str]

    def told(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def reload(self, toml: str) -> str:
        """Changes the settings' file and has it read; returns what is logged about it."""
        before, reloads = len(self.told()), len(self.manager.times("RELOADING"))
        (self.daemon.state / "selflearn.toml").write_text(toml)
        self.daemon.signal(signal.SIGHUP)
        until(lambda: len(self.manager.times("RELOADING")) > reloads)
        until(lambda: self.manager.times("READY")[-1] >= self.manager.times("RELOADING")[-1])
        return self.told()[before:]


def values(span: Span) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in span.attributes}


@contextlib.contextmanager
def listening_manager(path: Path) -> Iterator[Manager]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        manager = Manager(listening)
        thread = threading.Thread(target=manager.listen)
        thread.start()
        yield manager
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(path))  # an empty message is the end
        thread.join()


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    spans: list[Span] = []
    resources: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            for found in ExportTraceServiceRequest.FromString(body).resource_spans:
                resources.append({pair.key: pair.value.string_value for pair in found.resource.attributes})
                spans.extend(span for scope in found.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Collector(server, spans, resources)
        server.shutdown()
        thread.join()


def make_old_database(state: Path) -> None:
    """As a release of before the judging's tables left it: two interactions and their feedback."""
    with contextlib.closing(sqlite3.connect(state / "selflearn.db", isolation_level=None)) as connection:
        migrations().apply(Database(connection), stop_before="m003_experience")
        rows = [("chatcmpl-1", "talk", "ann", "completed"), ("chatcmpl-2", "other", "local", "completed")]
        connection.executemany(INTERACTION, rows)


@pytest.fixture(scope="module")
def service(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    place, state, authority = tmp_path_factory.mktemp("service"), lab.state("service"), trustme.CA()
    log, certificate = place / "selflearn.log", place / "tls.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    make_old_database(state)
    (state / "selflearn.toml").write_text(STRICT)
    settings = {
        "API__TLS_CERTIFICATE_FILE": str(certificate),
        "LOGGING__FILE": str(log),
        "LOGGING__FORMAT": "json",
        "LOGGING__LEVEL": "debug",
        "JUDGING__MIN_HOLDOUT": "4",
    }
    with contextlib.ExitStack() as stack:
        manager = stack.enter_context(listening_manager(place / "notify"))
        collector = stack.enter_context(collecting())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("NOTIFY_SOCKET", str(place / "notify"))
        patch.setenv("WATCHDOG_USEC", str(int(WATCHDOG_SECONDS * 1e6)))
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        daemon = stack.enter_context(replace(lab, trust=trust).daemon(state, before=WEDGES, **settings))
        yield Service(daemon, manager, collector, log, authority, certificate, settings)


def test_it_says_that_it_serves_once_it_does(service: Service) -> None:
    first = service.manager.heard[0][1]
    assert first["READY"] == "1"
    assert first["STATUS"] == "serves v000000; 0 requests run, 0 wait; no update runs"


def test_what_an_earlier_release_recorded_is_there(service: Service) -> None:
    listed = service.daemon.get("/admin/data/interactions")["interactions"]
    assert {"chatcmpl-1", "chatcmpl-2"} <= {row["id"] for row in listed}
    assert service.daemon.correct("chatcmpl-1", "it is so").status_code == 201


@pytest.mark.parametrize("wedge", [signal.SIGUSR1, signal.SIGUSR2], ids=["event loop", "engine"])
def test_the_watchdog_is_fed_as_long_as_nothing_is_wedged(service: Service, wedge: signal.Signals) -> None:
    since = time.monotonic()
    until(lambda: service.manager.times("WATCHDOG") and service.manager.times("WATCHDOG")[-1] > since + 1.0)
    assert service.manager.longest_silence(since) < WEDGED_SECONDS / 2
    since = time.monotonic()
    service.daemon.signal(wedge)
    until(lambda: service.manager.times("WATCHDOG")[-1] > since + WEDGED_SECONDS)
    assert service.manager.longest_silence(since) > WEDGED_SECONDS * 0.75


def test_a_bad_file_changes_nothing(service: Service) -> None:
    told = service.reload(STRICT + "[api]\nrequests_per_minute = 1\n[learning]\nbatch_size = -3\n")
    assert "settings not reloaded, the old ones stay: setting learning.batch_size" in told
    assert service.manager.heard[-1][1].get("STATUS", "").startswith(("settings not reloaded", "serves"))
    assert [service.daemon.http.get("/v1/models").status_code for _ in range(3)] == [200, 200, 200]


def test_thresholds_are_taken_anew_and_what_is_not_is_named(service: Service) -> None:
    asked = time.monotonic()
    told = service.reload(EASY.replace("true", "false") + "[experience]\nmax_characters = 9999\n")
    reloading = next(words for at, words in service.manager.heard if at > asked and "RELOADING" in words)
    assert asked <= int(reloading["MONOTONIC_USEC"]) / 1e6 <= time.monotonic()
    assert '"changed": "judging.min_improvement"' in told
    assert "settings that changed, but need a restart: experience.max_characters" in told

    daemon = service.daemon  # the gate in force lets an update through that the one of the start could not
    daemon.teach("harbour")
    update = daemon.await_update(daemon.learn())
    assert update["state"] == "promoted", update["reason"]
    watched = 'selflearn_watchdog_share{side="served",signal="collapse"}'
    assert watched not in daemon.http.get("/metrics").text
    assert '"changed": "watchdog.enabled"' in service.reload(EASY)
    until(lambda: 'side="served"' in daemon.http.get("/metrics").text)


def test_an_update_is_a_trace_of_its_steps(service: Service) -> None:
    until(lambda: service.collector.named("update"))
    (update,) = service.collector.named("update")
    assert values(update)["selflearn.outcome"] == "promoted"
    assert values(update)["selflearn.train"] > 0
    steps = [span for span in service.collector.spans if span.parent_span_id == update.span_id]
    names = [span.name.removeprefix("update: ") for span in sorted(steps, key=lambda span: span.start_time_unix_nano)]
    expected = ["preparing", "loading", "measuring parent", "training", "measuring candidate", "judging", "promoting"]
    assert [name for name in names if name in expected] == expected
    assert all(span.end_time_unix_nano >= span.start_time_unix_nano for span in steps)
    assert {span.trace_id for span in steps} == {update.trace_id}


def test_a_request_is_a_span_with_version_and_tokens(service: Service) -> None:
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "x-request-id": "traced"}
    answer = service.daemon.http.post("/v1/chat/completions", json=chat("the secret of the sea", 4), headers=headers)
    name = "POST /v1/chat/completions"
    until(lambda: TRACE in {span.trace_id.hex() for span in service.collector.named(name)})
    (span,) = [span for span in service.collector.named(name) if span.trace_id.hex() == TRACE]
    told, usage = values(span), answer.json()["usage"]
    assert told["selflearn.version"] == int(answer.headers["x-selflearn-version"])
    assert told["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert told["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert (told["http.response.status_code"], told["selflearn.request_id"]) == (200, "traced")
    assert 0 < told["selflearn.time_to_first_token"] < 60
    assert service.collector.resources[0]["service.name"] == "selflearn"

    service.daemon.http.get("/nowhere")
    until(lambda: service.collector.named("GET other"))
    assert values(service.collector.named("GET other")[0])["http.response.status_code"] == 404
    everything = b"".join(span.SerializeToString() for span in service.collector.spans)
    assert b"secret of the sea" not in everything
    assert b"/readyz" not in everything


def test_the_log_goes_on_in_a_new_file_when_it_was_moved(service: Service) -> None:
    moved = service.log.with_suffix(".1")
    service.log.rename(moved)
    answer = service.daemon.ask("where do you write now?")
    lines = [json.loads(line) for line in service.told().splitlines()]
    assert answer.id in {line.get("interaction") for line in lines}
    assert answer.id not in moved.read_text()


def test_only_https_is_spoken_and_a_new_certificate_is_taken_anew(service: Service) -> None:
    plain = service.daemon.url.replace("https", "http")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{plain}/livez", trust_env=False)
    address = ("127.0.0.1", int(service.daemon.url.rpartition(":")[2]))
    before = ssl.get_server_certificate(address)
    key, whole = service.certificate.with_suffix(".key"), service.certificate.read_bytes()
    service.certificate.write_text("no certificate")
    assert "cannot be used" in service.reload(EASY)
    assert ssl.get_server_certificate(address) == before
    service.authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(service.certificate)
    service.reload(EASY)
    assert ssl.get_server_certificate(address) != before
    assert not key.exists()
    assert whole != service.certificate.read_bytes()
    command = [sys.executable, "-m", "selflearn.cli.main", "--state", str(service.daemon.state), "status", "--json"]
    found = run(command, service.daemon.state, timeout=60, SERVING__PORT=str(address[1]), **service.settings)
    assert found.code == 0, found.err
    assert json.loads(found.out)["daemon"] is True


def test_it_says_that_it_stops(service: Service) -> None:
    """The last one: it ends the daemon."""
    service.daemon.signal(signal.SIGTERM)
    assert service.daemon.await_end() == 0
    (stopping,) = [words for _, words in service.manager.heard if "STOPPING" in words]
    assert stopping["STATUS"] == "requests in flight are finished"
