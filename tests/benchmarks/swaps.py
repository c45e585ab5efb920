"""Versions that give way to each other under streaming clients: what fails, what mixes, how long tokens wait.

Each version writes its own letter, so an answer of two versions cannot hide. A swap's window reaches from the command
to the end of the last answer that an older version had begun; tokens outside all windows are what it is compared with.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from selflearn.cli.load import Ask, Sample, Spread, Target, ask, chat_body, closed_loop, question
from selflearn.cli.wire import Connection
from tests.benchmarks.report import Report, milliseconds, tell
from tests.benchmarks.versions import letter

ROLLBACK = "/admin/rollback"


@dataclass(frozen=True, slots=True)
class Swap:
    """One change of versions. Times are those of ``time.perf_counter``."""

    version: int
    commanded: float
    answered: float
    first_token: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """What the clients saw, and the swaps made meanwhile."""

    samples: tuple[Sample, ...]
    swaps: tuple[Swap, ...]

    @property
    def windows(self) -> tuple[tuple[float, float], ...]:
        """From each command until the last answer was over that another version had still open when it was done."""
        return tuple((swap.commanded, max([swap.answered, *self._draining(swap)])) for swap in self.swaps)

    @property
    def mixed(self) -> int:
        """Answers of which a part was written by another version than the one that they name."""
        return sum(not wholly_one(sample) for sample in self.samples if sample.error is None)

    def gaps(self) -> tuple[list[float], list[float]]:
        """Seconds between tokens, within the windows and outside of them."""
        within: list[float] = []
        outside: list[float] = []
        for start, end in _gaps(self.samples):
            touches = any(start < closes and end > opens for opens, closes in self.windows)
            (within if touches else outside).append(end - start)
        return within, outside

    def _draining(self, swap: Swap) -> Iterator[float]:
        for sample in self.samples:
            if sample.sent < swap.answered < sample.ended and sample.version != str(swap.version):
                yield sample.ended


def wholly_one(sample: Sample) -> bool:
    """Whether text, header and fingerprints of an answer are of one marked version."""
    if sample.version is None or not 0 < int(sample.version) <= 26:
        return False
    name = f"selflearn-v{int(sample.version):06d}-"
    return set(sample.text) == {letter(int(sample.version))} and all(each.startswith(name) for each in sample.origins)


def _gaps(samples: Sequence[Sample]) -> Iterator[tuple[float, float]]:
    for sample in samples:
        yield from zip(sample.arrivals, sample.arrivals[1:], strict=False)


class Clients:
    """Clients that stream until they are told to end."""

    def __init__(self, target: Target, count: int, tokens: int) -> None:
        self._target = target
        self._tokens = tokens
        self._connections = [target.connection() for _ in range(count)]
        self._ending = False
        self._open: dict[int, asyncio.Event] = {}

    async def stream(self) -> list[Sample]:
        try:
            return await closed_loop([self._asking(each) for each in self._connections], lambda _: not self._ending)
        finally:
            for connection in self._connections:
                await connection.close()

    def end(self) -> None:
        self._ending = True

    async def drained(self) -> None:
        """Returns when every answer that is open now has ended."""
        await asyncio.gather(*(ended.wait() for ended in self._open.values()))

    def _asking(self, connection: Connection) -> Ask:
        async def ask_one(number: int) -> Sample:
            ended = self._open[number] = asyncio.Event()
            try:
                return await ask(connection, chat_body(self._target, question(number), self._tokens))
            finally:
                ended.set()
                del self._open[number]

        return ask_one


async def run_swaps(
    target: Target, versions: Sequence[int], *, swaps: int, clients: int, tokens: int, pause_seconds: float
) -> Run:
    """Lets clients stream while versions take turns; when a swap's window is over, a pause follows."""
    async with target.connection() as operator:
        for version in versions[-2:]:  # so that the first turn is like the later ones
            await swap(operator, target, version)
        streaming = Clients(target, clients, tokens)
        load = asyncio.create_task(streaming.stream())
        try:
            made: list[Swap] = []
            await asyncio.sleep(pause_seconds)
            for number in range(swaps):
                made.append(await swap(operator, target, versions[number % len(versions)]))
                await streaming.drained()
                await asyncio.sleep(pause_seconds)
            streaming.end()
            return Run(tuple(await load), tuple(made))
        finally:
            load.cancel()


async def swap(connection: Connection, target: Target, version: int) -> Swap:
    """Commands a version and asks it for one token. A version that is served already is left as it is."""
    commanded = time.perf_counter()
    head = await connection.send("POST", ROLLBACK, {"to": version, "reason": "benchmark"})
    body = await connection.read()
    answered = time.perf_counter()
    if head.status != 200 and b"already_served" not in body:
        raise RuntimeError(f"{ROLLBACK} to {version} answered {head.status}: {body[:300]!r}")
    sample = await ask(connection, chat_body(target, question(0), 1))
    if sample.error is not None or sample.version != str(version):
        raise RuntimeError(f"version {version} was put into service, but {sample.version} answers: {sample.error}")
    return Swap(version, commanded, answered, sample.arrivals[0] if sample.arrivals else None)


def tell_run(report: Report, name: str, run: Run) -> list[object]:
    """Writes what a run found and returns its row of the table."""
    within, outside = (Spread.of(gaps) for gaps in run.gaps())
    ratio = within.p99 / outside.p99 if within.p99 and outside.p99 else None
    waits = Spread.of([swap.first_token - swap.commanded for swap in run.swaps if swap.first_token is not None])
    commands = Spread.of([swap.answered - swap.commanded for swap in run.swaps])
    failed = [sample.error for sample in run.samples if sample.error is not None]
    found = {"swaps": len(run.swaps), "answers": len(run.samples), "failed": len(failed), "mixed": run.mixed}
    spreads = {"gap_during": within, "gap_without": outside, "first_answer": waits, "command": commands}
    seconds = {f"{key}_seconds": [each.p50, each.p95, each.p99] for key, each in spreads.items()}
    report.write("swap", kind=name, **found, gap_p99_ratio=ratio, **seconds, errors=sorted(set(failed)))
    if failed or run.mixed:
        report.problem(f"swaps ({name}): {len(failed)} failed, {run.mixed} mixed: {sorted(set(failed))[:3]}")
    times = [within.p99, outside.p99], [waits.p50, waits.p99]
    gaps, firsts = ([milliseconds(each) for each in pair] for pair in times)
    return [name, *found.values(), *gaps, ratio, *firsts]


HEADINGS = (
    "swap",
    "swaps",
    "answers",
    "failed",
    "mixed",
    "p99 gap during, ms",
    "p99 gap without, ms",
    "ratio",
    "command to first token p50, ms",
    "p99, ms",
)


def measure_swaps(report: Report, target: Target, count: int, clients: int, tokens: int, pause_seconds: float) -> None:
    """Between two versions that are both loaded, and round three, of which the next one always has to be loaded."""
    rows = []
    for name, versions in (("to a loaded version", (1, 2)), ("to one that is loaded first", (3, 1, 2))):
        tell(f"swap: {count} times {name}")
        run = run_swaps(target, versions, swaps=count, clients=clients, tokens=tokens, pause_seconds=pause_seconds)
        rows.append(tell_run(report, name, asyncio.run(run)))
    report.table(f"Swaps under {clients} streaming clients", HEADINGS, rows)
