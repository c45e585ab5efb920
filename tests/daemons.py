"""Real daemons for tests: processes of their own on a tiny model, started, asked, killed, and never left behind.

A daemon dies with the process that runs the tests (the kernel sees to it), a worker dies with its daemon.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai

from tests.forked import ForkedDaemon

START_SECONDS = 120.0
UPDATE_SECONDS = 180.0
DEATH_SECONDS = 60.0
LESSONS = 12  # eight of them judge, the others train
LONG_ANSWER = 450  # tokens: some seconds
WORKER = "selflearn.learning.worker"

#: Settings for small and quick updates that pass the gate, and that start only when a test says so.
QUICK = {
    "SERVING__DTYPE": "float32",
    "SERVING__THREADS": "1",
    "LEARNING__ENABLED": "false",
    "LEARNING__THREADS": "1",
    "LEARNING__PASSES": "3",
    "LEARNING__RANK": "4",
    "LEARNING__FISHER_SEQUENCES": "8",
    "JUDGING__ANSWER_TOKENS": "8",
    "JUDGING__MIN_MATCH": "-9",
    "JUDGING__MAX_RETAINED_RISE": "5",
    "JUDGING__MAX_ANCHOR_RISE": "5",
    "JUDGING__MAX_KL_DRIFT": "5",
    "JUDGING__MAX_WEIGHT_DRIFT": "9",
}
#: On top of them: training that lasts until somebody ends it.
ENDLESS = {"LEARNING__PASSES": "1000", "LEARNING__PATIENCE": "100000"}

_SERVE = (
    "import ctypes, signal; ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG\n"
    "from selflearn.cli.main import main; main()"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: what it says, and the version by its header and by its fingerprint."""

    id: str
    text: str
    version: int
    fingerprint_version: int
    recorded: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Lab:
    """A tiny model, a place for state directories, and what is computed once about the model for all of them."""

    model: Path
    root: Path
    trust: ssl.SSLContext | None = None  # with it daemons are asked by HTTPS

    def state(self, name: str) -> Path:
        """A new state directory that shares the cache of the others."""
        (self.root / "cache").mkdir(exist_ok=True)
        state = self.root / name
        state.mkdir()
        (state / "cache").symlink_to(self.root / "cache")
        return state

    def serve_arguments(self, state: Path, port: int, *options: str, model: Path | None = None) -> list[str]:
        named = ["--port", str(port), "--model", str(model or self.model), *options]
        return ["--state", str(state), "serve", *named]

    def serve_command(self, state: Path, port: int, *options: str, model: Path | None = None) -> list[str]:
        return [sys.executable, "-c", _SERVE, *self.serve_arguments(state, port, *options, model=model)]

    @contextlib.contextmanager
    def daemon(
        self,
        state: Path,
        *,
        failpoint: str = "",
        key: str = "",
        before: str = "",
        **settings: str,
    ) -> Iterator[Daemon]:
        """Starts a daemon, waits until it serves, and ends it and its worker whatever happens.

        ``settings`` are those of :data:`QUICK`, by the same names; ``key`` is sent with every request. What it says
        goes to ``<state>.daemon.log``. ``before`` is Python that its process runs before anything else.
        """
        port, log = free_port(), state.with_name(f"{state.name}.daemon.log")
        process = ForkedDaemon(
            self.serve_arguments(state, port), log, environment(failpoint, **settings), state, before
        )
        limits = httpx.Limits(max_connections=64)
        url = f"{'http' if self.trust is None else 'https'}://127.0.0.1:{port}"
        headers = {"authorization": f"Bearer {key}"} if key else {}
        try:
            with httpx.Client(
                base_url=url, headers=headers, timeout=60.0, trust_env=False, limits=limits, verify=self.trust or True
            ) as http:
                daemon = Daemon(state, url, log, process, http)
                daemon.await_ready()
                yield daemon
        finally:
            end(process)
            for worker in workers(state):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)

    def refused_start(
        self, state: Path, *options: str, port: int | None = None, model: Path | None = None, **settings: str
    ) -> Outcome:
        """Tries to start a daemon where none can; returns how it ended."""
        command = self.serve_command(state, port or free_port(), *options, model=model)
        return run(command, state.parent, timeout=DEATH_SECONDS, **settings)


@dataclass(frozen=True, slots=True)
class Daemon:
    """One daemon that runs, and short words for what tests ask of it."""

    state: Path
    url: str
    log: Path
    process: ForkedDaemon
    http: httpx.Client

    # Its life

    def await_ready(self) -> None:
        until(lambda: self.process.poll() is not None or self.version() is not None, START_SECONDS)
        assert self.process.poll() is None, f"the daemon ended with code {self.process.returncode}"

    def await_end(self, seconds: float = DEATH_SECONDS) -> int:
        """Waits until the process has ended by itself; returns its exit code (negative: the signal)."""
        return self.process.wait(seconds)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def workers(self) -> list[int]:
        return workers(self.state)

    @contextlib.contextmanager
    def unable_to_write(self) -> Iterator[None]:
        """The operating system refuses what this process writes beyond the first kilobyte of any file."""
        before = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (1024, before[1]))
        try:
            yield
        finally:
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, before)

    # What it is asked

    def version(self) -> int | None:
        """The version that takes new requests; None while none does."""
        try:
            response = self.http.get("/readyz")
        except httpx.TransportError:
            return None
        return int(response.json()["version"]) if response.is_success else None

    def get(self, path: str) -> Any:
        response = self.http.get(path)
        assert response.is_success, response.text
        return response.json()

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def ask(self, question: str, max_tokens: int = 4) -> Answer:
        """Asks greedily for one whole answer."""
        response = self.post("/v1/chat/completions", **chat(question, max_tokens))
        assert response.status_code == 200, response.text
        body = response.json()
        return _answer(body["id"], body["choices"][0]["message"]["content"], body["system_fingerprint"], response)

    def correct(self, interaction_id: str, text: str) -> httpx.Response:
        return self.post("/v1/feedback", interaction_id=interaction_id, kind="correction", text=text)

    def teach(self, topic: str, lessons: int = LESSONS) -> dict[str, str]:
        """Corrects the answers to some questions; returns the feedback's id by the interaction's."""
        learned: dict[str, str] = {}
        for number in range(lessons):
            asked = self.ask(f"{topic} question {number}")
            response = self.correct(asked.id, f"the answer is {topic} {number % 3}")
            assert response.status_code == 201, response.text
            learned[asked.id] = response.json()["id"]
        return learned

    @contextlib.contextmanager
    def openai(self) -> Iterator[openai.OpenAI]:
        url = f"{self.url}/v1"
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60.0) as client:
            yield client

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels; ``name`` may name labels too: ``a_total{b="c"}``."""
        text = self.http.get("/metrics").text
        pattern = re.compile(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", re.MULTILINE)
        return sum(float(value) for value in pattern.findall(text))

    # Learning

    def learn(self) -> int:
        response = self.post("/admin/learn", trigger="test")
        assert response.status_code == 202, response.text
        return int(response.json()["update"])

    def await_update(self, number: int) -> dict[str, Any]:
        """Waits until the update has ended and, if it was promoted, serves; returns its row."""
        until(lambda: self.get(f"/admin/updates/{number}")["state"] != "running", UPDATE_SECONDS)
        found: dict[str, Any] = self.get(f"/admin/updates/{number}")
        if found["state"] == "promoted":
            until(lambda: self.version() == number)
        until(lambda: self.get("/admin/learn")["running"] is None)
        return found

    def await_worker(self) -> int:
        """Waits until a worker works; returns its process id."""
        until(self.workers)
        return self.workers()[0]

    def await_training(self) -> int:
        """Waits until a worker has done some steps; returns its process id."""
        until(lambda: ((self.get("/admin/learn")["running"] or {}).get("step") or 0) > 2)
        return self.await_worker()


def chat(question: str, max_tokens: int) -> dict[str, Any]:
    """A greedy chat request."""
    messages = [{"role": "user", "content": question}]
    return {"model": "selflearn", "messages": messages, "max_tokens": max_tokens, "temperature": 0}


def _answer(answer_id: str, text: str, fingerprint: str, response: httpx.Response) -> Answer:
    found = re.fullmatch(r"selflearn-v(\d{6})-[0-9a-f]{8}", fingerprint)
    assert found is not None, fingerprint
    version, recorded = response.headers["x-selflearn-version"], response.headers["x-selflearn-recorded"]
    return Answer(answer_id, text, int(version), int(found[1]), recorded == "yes")


def stream(client: openai.OpenAI, question: str, max_tokens: int) -> Answer:
    """Streams one whole greedy answer through the official client; every chunk must name the same version."""
    asked: Any = client.chat.completions.with_raw_response
    response = asked.create(**chat(question, max_tokens), stream=True)
    chunks = list(response.parse())
    assert len({chunk.system_fingerprint for chunk in chunks}) == 1
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] in ("stop", "length")
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    return _answer(chunks[0].id, text, chunks[0].system_fingerprint, response)


def until(holds: Callable[[], object], seconds: float = DEATH_SECONDS) -> None:
    """Waits until ``holds()``; fails the test if it never does."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain"
        time.sleep(0.05)


def environment(failpoint: str = "", **settings: str) -> dict[str, str]:
    """This process's environment with the settings of a daemon, and with no other settings of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SELFLEARN_")}
    ours = {f"SELFLEARN_{name}": value for name, value in {**QUICK, **settings}.items()}
    return {**kept, **ours, **({"SELFLEARN_FAILPOINT": failpoint} if failpoint else {})}


def command(state: Path, *arguments: object) -> Outcome:
    """Runs ``selflearn --state STATE ARGUMENTS`` in a process of its own."""
    words = [sys.executable, "-m", "selflearn.cli.main", "--state", str(state), *map(str, arguments)]
    return run(words, state, timeout=UPDATE_SECONDS)


def run(words: list[str], directory: Path, *, timeout: float, **settings: str) -> Outcome:
    ended = subprocess.run(
        words, cwd=directory, env=environment(**settings), capture_output=True, text=True, timeout=timeout, check=False
    )
    return Outcome(ended.returncode, ended.stdout, ended.stderr)


def end(process: ForkedDaemon, seconds: float = 30.0) -> None:
    """Ends a process gracefully, or not."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def workers(state: Path) -> list[int]:
    """Process ids of the workers that work for a state directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if WORKER.encode() in words and any(word.startswith(bytes(state / "work")) for word in words):
                found.append(int(entry.name))
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rows(state: Path, sql: str, *parameters: object) -> list[dict[str, Any]]:
    """Looks into the database of a state directory as any other program would."""
    with contextlib.closing(sqlite3.connect(state / "selflearn.db")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(sql, parameters)]


def update_states(state: Path) -> dict[int, str]:
    return {row["id"]: row["state"] for row in rows(state, "SELECT id, state FROM updates ORDER BY id")}


def directories(state: Path, name: str) -> list[str]:
    """What lies in ``work`` or ``versions``."""
    directory = state / name
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


def flip_byte(file: Path) -> None:
    """Changes one byte in the middle of a read-only file; a second time changes it back."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    mode = file.stat().st_mode
    file.chmod(0o644)
    file.write_bytes(data)
    file.chmod(mode)


def as_json(outcome: Outcome) -> Any:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)
