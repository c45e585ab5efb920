"""A real daemon of the tour's own, and the calls that the tour makes to it: public HTTP, nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from selflearn.errors import DaemonUnreachable, SelflearnError, StateError

START_SECONDS = 180.0
STOP_SECONDS = 30.0
SWAP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one question; ``version`` is the one that the answer names itself."""

    id: str
    text: str
    version: int


@dataclass(frozen=True, slots=True)
class Client:
    """The HTTP calls of the tour. Thread-safe; every call raises ``SelflearnError`` for an unexpected answer."""

    http: httpx.Client

    def ask(self, question: str, max_tokens: int) -> Answer:
        """Asks one question greedily, as any OpenAI client would."""
        body = {
            "model": "selflearn",
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": max_tokens,
        }
        response = self._call("POST", "/v1/chat/completions", json=body)
        answer = response.json()
        text = answer["choices"][0]["message"]["content"] or ""
        return Answer(answer["id"], text, int(response.headers["x-selflearn-version"]))

    def correct(self, interaction_id: str, text: str) -> str:
        """Sends the right answer; returns what became of it (accepted, folded, ignored)."""
        body = {"interaction_id": interaction_id, "kind": "correction", "text": text}
        return str(self._call("POST", "/v1/feedback", json=body).json()["status"])

    def learn_now(self) -> int:
        return int(self._call("POST", "/admin/learn", json={"trigger": "demo"}).json()["update"])

    def learning(self) -> dict[str, Any]:
        return dict(self._call("GET", "/admin/learn").json())

    def update(self, number: int) -> dict[str, Any]:
        return dict(self._call("GET", f"/admin/updates/{number}").json())

    def roll_back(self, to: int) -> int:
        """Goes back to version ``to`` and returns the version that serves now."""
        body = {"to": to, "reason": "end of the tour"}
        return int(self._call("POST", "/admin/rollback", json=body).json()["to_version"])

    def ready_version(self) -> int | None:
        """The version that takes new requests; None while none does."""
        try:
            response = self.http.get("/readyz")
        except httpx.TransportError:
            return None
        return int(response.json()["version"]) if response.status_code == httpx.codes.OK else None

    def await_version(self, number: int) -> None:
        """Returns once ``number`` takes new requests."""
        deadline = time.monotonic() + SWAP_SECONDS
        while (found := self.ready_version()) != number:
            if time.monotonic() > deadline:
                raise SelflearnError(f"Version {number} does not serve after {SWAP_SECONDS:.0f} s; found {found}.")
            time.sleep(0.1)

    def _call(self, method: str, path: str, json: dict[str, Any] | None = None) -> httpx.Response:
        try:
            response = self.http.request(method, path, json=json)
        except httpx.TransportError as error:
            raise DaemonUnreachable(f"{method} {path} got no answer from the tour's daemon: {error}.") from error
        if response.is_success:
            return response
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = response.text[:300]
        raise SelflearnError(f"{method} {path} answered {response.status_code}: {message}")


def lend_model(source: Path, state: Path) -> None:
    """Makes a prepared base model available under ``state`` without storing it twice.

    ``source`` is its directory, ``<state directory>/models/<name>``; what was computed about it once (``cache/``) is
    lent as well.
    """
    _lend(source, state / "models" / source.name)
    _lend(source.parents[1] / "cache", state / "cache")


def _lend(source: Path, target: Path) -> None:
    if target.exists() or not source.is_dir():
        return
    try:
        shutil.copytree(source, target, copy_function=_link_or_copy)
    except OSError as error:
        message = f"The base model cannot be put under {target}: {error}. Name another directory for the tour."
        raise StateError(message) from error


def _link_or_copy(origin: str, destination: str) -> str:
    try:
        os.link(origin, destination)
    except OSError:  # another file system
        shutil.copy2(origin, destination)
    return destination


@contextmanager
def running_daemon(state: Path) -> Iterator[Client]:
    """Starts ``selflearn serve`` on ``state`` and a free port with default settings; stops it at the end.

    Yields once it is ready. What it says goes to ``state/daemon.log``. Updates start only when asked for.
    """
    port = _free_port()
    log = state / "daemon.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SELFLEARN_")}
    environment["SELFLEARN_LEARNING__ENABLED"] = "false"
    command = [sys.executable, "-m", "selflearn.cli.main", "--state", str(state), "serve", "--port", str(port)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=state
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120.0, trust_env=False) as http:
            client = Client(http)
            _await_ready(client, process, log)
            yield client
    finally:
        _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_ready(client: Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while client.ready_version() is None:
        if process.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log.read_text("utf-8", errors="replace").splitlines()[-15:])
            found = "ended" if process.poll() is not None else f"was not ready after {START_SECONDS:.0f} s"
            raise DaemonUnreachable(f"The tour's daemon {found}. Its log, {log}, ends with:\n{tail}")
        time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
