"""What a daemon's memory does when versions come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from selflearn.cli.load import stream_load
from tests.benchmarks.peers import target_of
from tests.benchmarks.processes import device_memory, usage
from tests.benchmarks.report import Report, mebibytes, tell
from tests.benchmarks.swaps import swap
from tests.daemons import Daemon, until

HEADINGS = ("after", "versions loaded", "resident, MiB", "more than at the start", "private, MiB", "GPU in use, MiB")
CLIENTS = 4
TOKENS = 16


def measure_memory(report: Report, daemon: Daemon, key: str, versions: Sequence[int], swaps: int) -> None:
    """With one version, with two, and after many that came and went; at each point some answers have been given."""
    rows: list[list[object]] = []
    start = 0

    def note(after: str) -> None:
        nonlocal start
        asyncio.run(_answers(daemon, key))
        until(lambda: _status(daemon)["requests"] == {"running": 0, "waiting": 0})
        loaded = list(_status(daemon)["resident"])
        held, device = usage(daemon.process.pid), device_memory()
        start = start or held.resident
        report.write("memory", after=after, loaded=loaded, resident=held.resident, private=held.private, device=device)
        sizes = (held.resident, held.resident - start, held.private, device)
        rows.append([after, ", ".join(map(str, loaded)), *(mebibytes(size) for size in sizes)])

    tell("memory")
    note("start")
    note("more answers")
    asyncio.run(_swaps(daemon, key, versions[:1]))
    note("a second version")
    asyncio.run(_swaps(daemon, key, [versions[number % len(versions)] for number in range(1, swaps)]))
    note(f"{swaps} swaps, round {len(versions)} versions")
    report.table("Memory of the daemon", HEADINGS, rows)


def _status(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.get("/admin/status")
    return found


async def _answers(daemon: Daemon, key: str) -> None:
    await stream_load(target_of(daemon, key), clients=CLIENTS, requests=CLIENTS, tokens=TOKENS)


async def _swaps(daemon: Daemon, key: str, versions: Sequence[int]) -> None:
    target = target_of(daemon, key)
    async with target.connection() as connection:
        for version in versions:
            await swap(connection, target, version)
