"""Minutes of everything at once against a real daemon with keys: does it stay up, right, and of the same size?

::

    python -m tests.benchmarks.soak                                          # 10 minutes, on the embedded model
    python -m tests.benchmarks.soak --minutes 0.3 --model random:256,2       # a smoke test

Clients chat, stream, complete, correct and hang up, an operator changes the served version every few seconds, and a
fuzzer sends nonsense beside them. The verdict: no 5xx, no wrong answer, resident memory and file descriptors flat after
the first third. Exit code 1 if one of them does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from selflearn.cli.load import Target
from selflearn.cli.transport import Address
from selflearn.cli.wire import Connection
from tests.benchmarks.fuzz import shoot, shout
from tests.benchmarks.mixed import Visitor, visit
from tests.benchmarks.models import HELP, prepared
from tests.benchmarks.peers import Keys, our_daemon, target_of
from tests.benchmarks.processes import Usage, end_in_order, usage
from tests.benchmarks.report import MEBIBYTE, Report, tell
from tests.benchmarks.tally import HEADINGS, Tally
from tests.benchmarks.versions import promote_marked
from tests.daemons import Daemon, Lab, until

MARKED = 3
WARM_SHARE = 1 / 3
LEAST_JUDGED = 60  # samples, one a second; fewer say nothing about memory
MAX_GROWTH = 0.02  # of the resident size, over what is judged
LEAST_GROWTH = 4 * MEBIBYTE
MAX_DESCRIPTORS = 4.0
SAMPLE_SECONDS = 1.0
TELL_SECONDS = 30.0
PAIRS = 400  # samples from which a slope is computed
SETTINGS = {"SERVING__DEFAULT_MAX_TOKENS": "16", "SERVING__DRAIN_SECONDS": "30"}


@dataclass(frozen=True, slots=True)
class Soak:
    """One run: whom it asks, how it is counted, and when it ends (by ``time.monotonic``)."""

    daemon: Daemon
    keys: Keys
    tally: Tally
    ends_at: float
    seed: int

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.ends_at

    def target(self, role: str) -> Target:
        return target_of(self.daemon, getattr(self.keys, role))

    def random(self, name: str) -> Random:
        return Random(f"{self.seed} {name}")


async def run(soak: Soak, visitors: int, fuzzers: int) -> list[Usage]:
    """Everything at once until the end; returns what the daemon held, second by second."""
    samples: list[Usage] = []
    async with asyncio.TaskGroup() as group:
        for number in range(visitors):
            group.create_task(_visits(soak, number))
        for number in range(fuzzers):
            group.create_task(_fuzzes(soak, number))
        group.create_task(_operates(soak))
        group.create_task(_watches(soak, samples))
    return samples


async def _visits(soak: Soak, number: int) -> None:
    async with soak.target("client").connection() as client, soak.target("teacher").connection() as teacher:
        visitor = Visitor(client, teacher, soak.random(f"visitor {number}"), soak.tally)
        while not soak.over:
            await visit(visitor)


async def _fuzzes(soak: Soak, number: int) -> None:
    random = soak.random(f"fuzzer {number}")
    address = Address.parse(soak.daemon.url)
    async with soak.target("operator").connection() as connection:
        while not soak.over:
            if random.random() < 0.2:
                await shout(address, random, soak.tally)
            else:
                await shoot(connection, random, soak.tally)
            await asyncio.sleep(0.02)


async def _operates(soak: Soak) -> None:
    """Changes what is served every few seconds: back, forth, and by way of a canary."""
    random = soak.random("operator")
    async with soak.target("operator").connection() as connection:
        while not soak.over:
            await asyncio.sleep(random.uniform(1.0, 4.0))
            version = random.randrange(1, MARKED + 1)
            path, body = random.choice(
                (
                    ("/admin/rollback", {"to": version}),
                    ("/admin/rollouts/promote", {"version": version}),
                    ("/admin/rollouts/canary", {"version": version, "share": 0.3, "for_seconds": 3}),
                    ("/admin/rollouts/abort", {}),
                )
            )
            await _order(soak, connection, path, {**body, "reason": "soak"})


async def _order(soak: Soak, connection: Connection, path: str, body: dict[str, object]) -> None:
    """Orders something; that there is nothing to do (it is served already, no canary) is no problem."""
    kind = f"operator: {path.rpartition('/')[2]}"
    with soak.tally.timed(kind):
        try:
            head = await connection.send("POST", path, body)
            content = await connection.read()
        except (OSError, EOFError, ValueError) as error:
            soak.tally.wrong(kind, f"{type(error).__name__}: {error}")
            await connection.close()
            return
    soak.tally.status(kind, head.status)
    if head.status not in (200, 409):
        soak.tally.wrong(kind, f"HTTP {head.status} to {body}: {content[:300]!r}")


async def _watches(soak: Soak, samples: list[Usage]) -> None:
    told = time.monotonic()
    while not soak.over:
        samples.append(usage(soak.daemon.process.pid))
        if time.monotonic() - told >= TELL_SECONDS:
            told = time.monotonic()
            held = samples[-1]
            size = f"{held.resident / MEBIBYTE:.0f} MiB, {held.descriptors} descriptors"
            tell(f"{soak.ends_at - told:.0f} s left: {soak.tally.requests} requests, {size}")
        await asyncio.sleep(SAMPLE_SECONDS)


def growth(values: Sequence[float]) -> float:
    """How much a series grew from its first to its last value by the median of all its slopes (Theil and Sen)."""
    step = max(1, len(values) // PAIRS)
    points = list(enumerate(values))[::step]
    slopes = [(b - a) / (j - i) for n, (i, a) in enumerate(points) for j, b in points[n + 1 :]]
    return statistics.median(slopes) * (len(values) - 1) if slopes else 0.0


def judge(report: Report, samples: Sequence[Usage]) -> None:
    """Memory and descriptors after the warm-up."""
    judged = samples[int(len(samples) * WARM_SHARE) :]
    rows: list[list[object]] = []
    enough = len(judged) >= LEAST_JUDGED
    for name, values, least in (
        ("resident memory, MiB", [each.resident / MEBIBYTE for each in judged], LEAST_GROWTH / MEBIBYTE),
        ("private memory, MiB", [each.private / MEBIBYTE for each in judged], None),
        ("file descriptors", [float(each.descriptors) for each in judged], MAX_DESCRIPTORS),
        ("threads", [float(each.threads) for each in judged], None),
    ):
        if not values:
            continue
        grown, middle = growth(values), statistics.median(values)
        limit = None if least is None else max(least, MAX_GROWTH * middle) if "memory" in name else least
        verdict = (
            "–" if limit is None else "not judged: too short" if not enough else "flat" if grown <= limit else "GROWS"
        )
        rows.append([name, min(values), middle, max(values), grown, limit, verdict])
        report.write("soak", what=name, samples=len(values), median=middle, grown=grown, limit=limit, verdict=verdict)
        if verdict == "GROWS":
            report.problem(f"{name} grew by {grown:.1f} in {len(values)} s; at most {limit:.1f} is flat")
    report.table("What the daemon held after the warm-up", ("", "least", "median", "most", "grown", "limit", ""), rows)


def judge_answers(report: Report, daemon: Daemon, tally: Tally) -> None:
    """What clients saw, what the daemon counted, and what its log says."""
    report.table("Requests", HEADINGS, tally.rows())
    for text, count in tally.problems.items():
        report.problem(f"{count} times {text}")
    counted = sum(daemon.metric(f'selflearn_requests_total{{code="{code}"}}') for code in (500, 502, 503, 504))
    if counted:
        report.problem(f"the daemon counted {counted:.0f} answers of 5xx")
    if failed := daemon.metric("selflearn_store_write_errors_total"):
        report.problem(f"the daemon could not write {failed:.0f} times")
    if tracebacks := daemon.log.read_text("utf-8", errors="replace").count("Traceback (most recent call last)"):
        report.problem(f"{tracebacks} tracebacks in the daemon's log")


def main() -> int:
    """Runs the soak; returns the exit code."""
    options = parse()
    end_in_order()
    report, tally = Report(), Tally()
    with tempfile.TemporaryDirectory(prefix="selflearn-soak-") as work:
        lab = Lab(prepared(options.model, Path(work)), Path(work))
        state = lab.state("soak")
        promote_marked(lab.model, state, MARKED, dtype=options.dtype, device=options.device)
        settings = {**SETTINGS, "SERVING__DTYPE": options.dtype, "SERVING__DEVICE": options.device}
        with our_daemon(lab, state, settings) as (daemon, keys):
            soak = Soak(daemon, keys, tally, time.monotonic() + 60.0 * options.minutes, options.seed)
            judge(report, asyncio.run(run(soak, options.visitors, options.fuzzers)))
            with contextlib.suppress(AssertionError):
                until(lambda: daemon.get("/admin/status")["requests"] == {"running": 0, "waiting": 0})
            judge_answers(report, daemon, tally)
            if options.keep_log:
                options.keep_log.write_bytes(daemon.log.read_bytes())
    return report.finish()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long")
    parser.add_argument("--model", help=HELP)
    parser.add_argument("--dtype", default="bfloat16", help="type of the weights")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--visitors", type=int, default=8, help="clients at once")
    parser.add_argument("--fuzzers", type=int, default=2, help="fuzzers beside them")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--keep-log", type=Path, help="where to put the daemon's log")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
