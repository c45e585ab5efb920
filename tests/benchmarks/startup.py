"""How long a command takes to start, beside programs that do nothing or little.

``python -m tests.benchmarks.startup [--runs N] [--json]`` runs each command N times in turn, in processes of their own,
and tells the processor time of each (median), the least time that it took by the clock, and the ratio of processor time
to that of ``python -c pass`` and ``pip --version`` in the same round (median). A command computes all the while: on an
idle machine the processor time is what a person waits. The clock also counts what else the machine does meanwhile.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from selflearn.cli.output import table
from tests.stores import open_bench, registered
from tests.versions.candidates import promote_new

PYTHON, PIP = "python -c pass", "pip --version"
NOWHERE = "http://127.0.0.1:1"
CLI = (sys.executable, "-m", "selflearn.cli.main")


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """The address of a server that answers every GET with ``body``: what a daemon does for a status, in no time."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def make_state(directory: Path) -> None:
    """A state directory with two versions."""
    bench = registered(open_bench(directory))
    promote_new(bench, directory, 0)
    promote_new(bench, directory, 100)
    bench.store.close()


def status_of(state: Path) -> bytes:
    """What a daemon on this state directory would answer."""
    command = (*CLI, "--state", str(state), "--url", NOWHERE, "status", "--json")
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return json.dumps({**found, "daemon": True, "health": "ready"}).encode()


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds of one run, by the clock and of the processor."""

    clock: float
    processor: float


def run(command: Sequence[str], environment: Mapping[str, str]) -> Run:
    before, used = time.perf_counter(), processor_seconds()
    subprocess.run(command, capture_output=True, check=True, env=environment)
    return Run(time.perf_counter() - before, processor_seconds() - used)


def processor_seconds() -> float:
    """Of all processes that were waited for so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(commands: Mapping[str, Sequence[str]], runs: int) -> list[dict[str, object]]:
    """The figures of each command. They run in turn, so that whatever else the machine does meets all of them."""
    environment = {**os.environ, "COLUMNS": "80"}
    for command in commands.values():  # what is compiled or read for the first time does not count
        run(command, environment)
    rounds = [{name: run(command, environment) for name, command in commands.items()} for _ in range(runs)]
    return [
        {
            "command": name,
            "processor_seconds": statistics.median(each[name].processor for each in rounds),
            "least_seconds": min(each[name].clock for each in rounds),
            "to_python": statistics.median(each[name].processor / each[PYTHON].processor for each in rounds),
            "to_pip": statistics.median(each[name].processor / each[PIP].processor for each in rounds),
        }
        for name in commands
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="How long a command takes to start.")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        state = Path(directory) / "state"
        make_state(state)
        stopped = (*CLI, "--state", str(state), "--url", NOWHERE)
        with answering(status_of(state)) as url:
            commands = {
                PYTHON: (sys.executable, "-c", "pass"),
                PIP: (sys.executable, "-m", "pip", "--version"),
                "selflearn --version": (*CLI, "--version"),
                "selflearn --help": (*CLI, "--help"),
                "selflearn status (daemon)": (*CLI, "--url", url, "status"),
                "selflearn status (stopped)": (*stopped, "status"),
                "selflearn rollback --dry-run (stopped)": (*stopped, "rollback", "--dry-run"),
                "selflearn versions list (stopped)": (*stopped, "versions", "list"),
            }
            found = measure(commands, options.runs)
    if options.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    rows = [
        (row["command"], *(row[name] for name in ("processor_seconds", "least_seconds", "to_python", "to_pip")))
        for row in found
    ]
    table(("command", "processor s", "least s", "× python", "× pip"), rows)


if __name__ == "__main__":
    main()
