"""How long it takes from the command to go back until the old version answers, while clients stream.

::

    python -m tests.benchmarks.rollback                   # on the embedded model: run it alone on the machine
    python -m tests.benchmarks.rollback --quick           # a smoke test, on a small model

Three ways to go back: over HTTP, by ``selflearn rollback`` (its start included), and by the row alone, as the command
line writes it when it does not reach the daemon, which sees it at its next look. Each way to a version that is still
loaded, and to one that has to be loaded first. Measured from the command to the first token of the first answer by the
version that was asked for. Exit code 1 if an answer failed or was mixed, or if p95 is above the target.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selflearn.cli.load import Spread, Target, ask, chat_body, question
from selflearn.cli.wire import Connection
from tests.benchmarks.models import HELP, SMALL, prepared
from tests.benchmarks.peers import Keys, our_daemon, target_of
from tests.benchmarks.processes import end_in_order
from tests.benchmarks.report import Report, tell
from tests.benchmarks.swaps import ROLLBACK, Clients, Run, Swap
from tests.benchmarks.versions import promote_marked
from tests.daemons import Daemon, Lab

NOWHERE = "http://127.0.0.1:1"
RESIDENT = (1, 2)  # the one that was left stays loaded
OTHERWISE = (3, 1, 2)  # of three that take turns the next one is not
TARGETS = {"loaded": 1.0, "to be loaded": 5.0}  # seconds, at p95
GIVE_UP_SECONDS = 60.0
TOKENS = 64

Order = Callable[[int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways to order a version, by name."""

    daemon: Daemon
    keys: Keys
    target: Target

    def all(self, operator: Connection) -> Mapping[str, Order]:
        async def over_http(version: int) -> None:
            head = await operator.send("POST", ROLLBACK, {"to": version, "reason": "benchmark"})
            body = await operator.read()
            if head.status != 200:
                raise RuntimeError(f"{ROLLBACK} to {version} answered {head.status}: {body[:300]!r}")

        async def by_command(version: int) -> None:
            await self._run("--url", self.daemon.url, "rollback", str(version))

        async def by_row(version: int) -> None:
            await self._run("--url", NOWHERE, "rollback", str(version))

        return {"HTTP": over_http, "command": by_command, "row alone": by_row}

    async def _run(self, *words: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "selflearn.cli.main", "--state", str(self.daemon.state), *words),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "SELFLEARN_API_KEY": self.keys.operator},
        )
        _, said = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"selflearn {' '.join(words)} failed: {said.decode()[-300:]}")


async def go_back(connection: Connection, target: Target, order: Order, version: int) -> Swap:
    """Orders a version and asks for one token until that version answers."""
    commanded = time.perf_counter()
    await order(version)
    answered = time.perf_counter()
    while True:
        sample = await ask(connection, chat_body(target, question(0), 1))
        if sample.error is not None:
            raise RuntimeError(f"after the rollback to {version}: {sample.error}")
        if sample.version == str(version):
            return Swap(version, commanded, answered, sample.arrivals[0] if sample.arrivals else None)
        if time.perf_counter() - commanded > GIVE_UP_SECONDS:
            raise RuntimeError(f"version {version} was ordered, and version {sample.version} still answers")


async def measure(ways: Ways, way: str, versions: Sequence[int], *, count: int, clients: int, pause: float) -> Run:
    """Goes back and forth ``count`` times under streaming clients, from one version to the next."""
    async with ways.target.connection() as operator, ways.target.connection() as asking:
        order = ways.all(operator)[way]
        over_http = ways.all(operator)["HTTP"]
        for version in (1, *versions):  # so that the first turn is like the later ones
            if ways.daemon.version() != version:
                await over_http(version)
        streaming = Clients(ways.target, clients, TOKENS)
        load = asyncio.create_task(streaming.stream())
        try:
            made = []
            for number in range(count):
                await asyncio.sleep(pause)
                made.append(await go_back(asking, ways.target, order, versions[number % len(versions)]))
                await streaming.drained()  # so that what was left can be unloaded
            streaming.end()
            return Run(tuple(await load), tuple(made))
        finally:
            load.cancel()


HEADINGS = ("way", "version", "rollbacks", "p50, s", "p95, s", "longest, s", "target", "answers", "failed", "mixed")


def tell_run(report: Report, way: str, residency: str, run: Run) -> list[object]:
    """Writes what a run found, notes what must not be, and returns its row of the table."""
    waits = [swap.first_token - swap.commanded for swap in run.swaps if swap.first_token is not None]
    spread, target = Spread.of(waits), TARGETS[residency]
    failed = sorted({sample.error for sample in run.samples if sample.error is not None})
    number = sum(sample.error is not None for sample in run.samples)
    found = {"answers": len(run.samples), "failed": number, "mixed": run.mixed}
    report.write("rollback", way=way, version=residency, seconds=waits, p50=spread.p50, p95=spread.p95, **found)
    if number or run.mixed:
        report.problem(f"{way}, {residency}: {number} failed, {run.mixed} mixed: {failed[:3]}")
    if spread.p95 is None or spread.p95 > target:
        report.problem(f"{way}, {residency}: p95 {spread.p95} s, target {target} s")
    return [way, residency, len(waits), spread.p50, spread.p95, max(waits), f"≤ {target:g}", *found.values()]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help=HELP)
    parser.add_argument("--dtype", default="bfloat16", help="type of the weights")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--count", type=int, default=24, help="rollbacks of each kind")
    parser.add_argument("--clients", type=int, default=4, help="clients that stream meanwhile")
    parser.add_argument("--ways", default="HTTP,command,row alone", help="which ways, by name")
    parser.add_argument("--work", type=Path, help="where state directories are made (default: the temporary directory)")
    parser.add_argument("--quick", action="store_true", help="little of everything, on a small model")
    return parser.parse_args(arguments)


def main() -> int:
    """Runs all kinds; returns the exit code."""
    options = parse()
    end_in_order()
    count, pause = (3, 0.1) if options.quick else (options.count, 0.5)
    report, rows = Report(), []
    with tempfile.TemporaryDirectory(prefix="selflearn-bench-", dir=options.work) as work:
        root = Path(work)
        model = prepared(options.model or (SMALL if options.quick else None), root)
        lab = Lab(model, root)
        state = lab.state("rollback")
        promote_marked(model, state, 3, dtype=options.dtype, device=options.device)
        settings = {"SERVING__DTYPE": options.dtype, "SERVING__DEVICE": options.device}
        with our_daemon(lab, state, settings) as (daemon, keys):
            ways = Ways(daemon, keys, target_of(daemon, keys.operator))
            for residency, versions in zip(TARGETS, (RESIDENT, OTHERWISE), strict=True):
                for way in options.ways.split(","):
                    tell(f"{way}, {residency}")
                    run = measure(ways, way, versions, count=count, clients=options.clients, pause=pause)
                    rows.append(tell_run(report, way, residency, asyncio.run(run)))
    report.table(f"From the command to the first answer, under {options.clients} streaming clients", HEADINGS, rows)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
