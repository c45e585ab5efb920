"""Throughput and waiting times of several contenders, in interleaved rounds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from selflearn.cli.load import Level, Sample, Spread, Target, level
from tests.benchmarks.peers import OURS, Contender
from tests.benchmarks.processes import still
from tests.benchmarks.report import Report, median, milliseconds, tell

Levels = Mapping[tuple[str, int], Sequence[Level]]
LATENCY_TOKENS = 1
LATENCY_HEADINGS = ("one client, one token", "requests", "p50, ms", "p95, ms", "p99, ms")
HEADINGS = (
    "clients",
    "server",
    "tokens/s",
    f"{OURS} / it",
    "first token p50, ms",
    "p95",
    "p99",
    "per token p50, ms",
    "p95",
    "p99",
    "tokens/answer",
    "failed",
)


class Arena:
    """Lets one contender at a time run; the others stand still. No question is asked twice, so no cache knows one."""

    def __init__(self, contenders: Sequence[Contender]) -> None:
        self.contenders = contenders
        self._asked = 0

    @contextlib.contextmanager
    def open(self) -> Iterator[Arena]:
        with still([contender.pid for contender in self.contenders]):
            yield self

    def measure(self, contender: Contender, *, clients: int, requests: int, tokens: int) -> list[Sample]:
        """Lets a contender answer, after two tokens that are not counted."""
        first, self._asked = self._asked, self._asked + requests + 1
        os.kill(contender.pid, signal.SIGCONT)
        try:
            contender.measure(1, 1, 2, first)
            return contender.measure(clients, requests, tokens, first + 1)
        finally:
            os.kill(contender.pid, signal.SIGSTOP)

    def warm_up(self, clients: int, tokens: int) -> None:
        """Whatever is done only once is done now."""
        for contender in self.contenders:
            tell(f"warming up: {contender.name}")
            self.measure(contender, clients=clients, requests=clients, tokens=tokens)

    def turns(self, rounds: int) -> Iterator[tuple[int, Contender]]:
        """Every contender in every round, in the opposite order each time."""
        for number in range(rounds):
            for contender in self.contenders if number % 2 == 0 else reversed(self.contenders):
                yield number, contender


def measure_levels(
    report: Report, section: str, arena: Arena, *, rounds: int, clients: Sequence[int], requests: int, tokens: int
) -> Levels:
    """The levels of each contender and number of clients, one for each round."""
    found: dict[tuple[str, int], list[Level]] = defaultdict(list)
    for count in clients:
        for number, contender in arena.turns(rounds):
            tell(f"{section}: {count} clients, round {number + 1}: {contender.name}")
            samples = arena.measure(contender, clients=count, requests=count * requests, tokens=tokens)
            measured = level(count, samples)
            found[contender.name, count].append(measured)
            report.write(section, server=contender.name, round=number + 1, **measured.as_dict())
            if measured.failed:
                report.problem(f"{section}: {contender.name}: {measured.failed} failed: {measured.errors[:3]}")
    return found


def tell_levels(report: Report, title: str, found: Levels) -> None:
    """A row for each number of clients and contender; the ratio is the median over the rounds."""
    rows = [_row(found, name, clients) for name, clients in sorted(found, key=lambda key: key[1])]
    report.table(title, HEADINGS, rows)


def _row(found: Levels, name: str, clients: int) -> list[object]:
    levels = found[name, clients]
    speeds = [each.tokens_per_second for each in levels]
    ratio = ratio_of(found[OURS, clients], levels) if name != OURS and (OURS, clients) in found else None
    first = [_median_of([each.first_token_seconds for each in levels], part) for part in ("p50", "p95", "p99")]
    per_token = [_median_of([each.per_token_seconds for each in levels], part) for part in ("p50", "p95", "p99")]
    lengths = median([each.tokens_per_answer for each in levels])
    failed = sum(each.failed for each in levels)
    return [clients, name, median(speeds), ratio, *first, *per_token, lengths, failed]


def _median_of(spreads: Sequence[Spread], part: str) -> float | None:
    return milliseconds(median([value for each in spreads if (value := getattr(each, part)) is not None]))


def ratio_of(ours: Sequence[Level], others: Sequence[Level]) -> float | None:
    """The median over the rounds of how much faster ours was."""
    pairs = zip(ours, others, strict=True)
    return median([a.tokens_per_second / b.tokens_per_second for a, b in pairs if b.tokens_per_second])


def measure_latency(report: Report, arena: Arena, *, blocks: int, requests: int) -> None:
    """How long a request for one token takes each contender, in blocks of requests that take turns.

    The first two contenders are compared.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    for number, contender in arena.turns(blocks):
        tell(f"overhead: requests for one token, block {number + 1}: {contender.name}")
        samples = arena.measure(contender, clients=1, requests=requests, tokens=LATENCY_TOKENS)
        seconds[contender.name] += [sample.duration for sample in samples if sample.error is None]
        if any(sample.error for sample in samples):
            report.problem(f"overhead: {contender.name}: {[sample.error for sample in samples if sample.error][:3]}")
    spreads = {name: Spread.of(values) for name, values in seconds.items()}
    for name, spread in spreads.items():
        report.write("latency", server=name, requests=len(seconds[name]), **_as_dict(spread))
    rows = [[name, len(seconds[name]), *_milliseconds(spread)] for name, spread in spreads.items()]
    ours, engine = (contender.name for contender in arena.contenders[:2])
    differences = zip(_milliseconds(spreads[ours]), _milliseconds(spreads[engine]), strict=True)
    rows.insert(2, [f"{ours} less {engine}", None, *(a - b if a and b else None for a, b in differences)])
    report.table("Requests for one token", LATENCY_HEADINGS, rows)


def _as_dict(spread: Spread) -> dict[str, float | None]:
    return {"p50_seconds": spread.p50, "p95_seconds": spread.p95, "p99_seconds": spread.p99}


def _milliseconds(spread: Spread) -> list[float | None]:
    return [milliseconds(each) for each in (spread.p50, spread.p95, spread.p99)]


def liveness_of(target: Target, pid: int) -> Contender:
    """The daemon's cheapest answer: what HTTP alone takes, on both sides."""

    async def ask(requests: int) -> list[Sample]:
        samples = []
        async with target.connection() as connection:
            for _ in range(requests):
                sent = time.perf_counter()
                head = await connection.send("GET", "/livez")
                await connection.read()
                error = None if head.status == 200 else f"HTTP {head.status}"
                samples.append(Sample(sent, time.perf_counter(), error=error))
        return samples

    return Contender("GET /livez", lambda clients, requests, tokens, first: asyncio.run(ask(requests)), pid)
