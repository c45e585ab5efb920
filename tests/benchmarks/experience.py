"""What recording and learning from experience cost, as the history grows.

::

    python -m tests.benchmarks.experience                   # 1,000, 100,000 and 1,000,000 interactions: run it alone
    python -m tests.benchmarks.experience --quick           # a smoke test of every path
    python -m tests.benchmarks.experience --sizes 1000,100000 --work /mnt/other-disk

For each size a store of its own is filled (a tenth of the interactions is corrected), opened anew, and measured from
the inside, without HTTP. What the disk takes for one sync is measured beside it, just before and after. A JSON line is
printed for each size, and tables in the end. Exit code 1 if batch sampling takes more than 1.5 times as long on the
largest history as on the smallest.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sqlite3
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from selflearn import overview
from selflearn.cli.load import percentile
from selflearn.config import ExperienceSettings, LearningSettings
from selflearn.experience import add_feedback, begin_interaction, counts, finish_interaction, funnel
from selflearn.experience.curation.near_duplicates import place
from selflearn.experience.transfer.importing import import_rows
from selflearn.experience.transfer.imports import Sender
from selflearn.store import Store, database_path
from selflearn.versions import reconcile
from tests.benchmarks.experience_sampling import sampling_times
from tests.benchmarks.experience_stores import Asked, Talk, build
from tests.benchmarks.report import MEBIBYTE, Report, milliseconds, tell
from tests.stores import LEARNER

T = TypeVar("T")
SAMPLING_RATIO: Final = 1.5
SYNC_BYTES: Final = 8 * 4096  # what one recorded interaction writes to the log, about
SYNCS: Final = 200
PREPARED: Final = 200  # interactions of each writer, asked again and again under new ids


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured on each store."""

    seconds: float  # of each number of writers
    writers: tuple[int, ...]
    single: int  # repetitions of what is done one at a time
    imported: int  # rows


FULL = Effort(8.0, (1, 8, 32), 300, 10_000)
QUICK = Effort(0.3, (1, 4), 20, 100)


def sync_times(directory: Path) -> list[float]:
    """Seconds that the disk takes to make some pages durable that are appended to a file."""
    taken = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(SYNCS):
            file.write(bytes(SYNC_BYTES))
            taken.append(_seconds(lambda: os.fdatasync(file.fileno()))[0])
    return taken


def start_times(state: Path) -> list[float]:
    """Seconds from the closed database until it is put in order and everything on the status page is known."""

    def start() -> None:
        with Store.open(database_path(state)) as store:
            reconcile(store, state, LEARNER)
            _status(store)

    return [_seconds(start)[0] for _ in range(5)]


def record(store: Store, writers: int, seconds: float) -> dict[str, Any]:
    """Clients that record one interaction after the other: seconds of each acknowledged write, and the rate of all."""
    found: list[list[float]] = [[] for _ in range(writers)]
    prepared = [[talk.asked(turn) for turn in range(PREPARED)] for talk in map(Talk, range(100, 100 + writers))]
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        for asked in itertools.cycle(prepared[number]):
            if time.perf_counter() > end:
                return
            new = replace(asked, id=f"chatcmpl-{uuid.uuid4().hex}")
            found[number] += [_seconds(partial(work, store, new))[0] for work in (_begin, _finish)]

    threads = [threading.Thread(target=client, args=(number,)) for number in range(writers)]
    taken, _ = _seconds(lambda: _run(threads))
    times = [each for one in found for each in one]
    return {"p50": percentile(times, 0.5), "p99": percentile(times, 0.99), "per_second": len(times) / 2 / taken}


def teach(store: Store, number: int) -> dict[str, Any]:
    """Corrections of interactions that have none yet, one after the other; and looking for near duplicates alone."""
    talk, settings = Talk(7), ExperienceSettings()
    asked = [talk.asked(turn) for turn in range(number)]
    for one in asked:
        _begin(store, one)
        _finish(store, one)
    # The check is measured first, in the writer's thread: nothing of it is written.
    near = [store.write(partial(_place, asked=one, settings=settings)) for one in asked]
    feedback = [_seconds(partial(_correct, store, one, talk.text(15, 60)))[0] for one in asked]
    return {"feedback": _middle(feedback), "near_duplicates": _middle(near)}


def import_rate(store: Store, number: int) -> float:
    """Rows of chat JSON Lines per second, all of them new."""
    talk = Talk(11)
    lines = [(turn + 1, _line(talk.asked(turn))) for turn in range(number)]
    taken, counted = _seconds(lambda: import_rows(store, Sender(LEARNER, "import:bench"), lines))
    assert counted.received == number
    return number / taken


def ask_stats(store: Store, number: int) -> dict[str, Any]:
    """What ``data stats`` and ``/admin/status`` (the database's part of them) take."""
    stats = [_seconds(lambda: _stats(store))[0] for _ in range(number)]
    return {"data_stats": _middle(stats), "status": _middle([_seconds(lambda: _status(store))[0] for _ in stats])}


def measure(size: int, effort: Effort, root: Path) -> dict[str, Any]:
    """Everything about a store of one size."""
    state = root / f"state-{size}"
    tell(f"building {size} interactions")
    took, built = _seconds(lambda: build(state, size))
    tell(f"measuring {size} interactions")
    found: dict[str, Any] = {"interactions": size, "examples": built.examples, "build_seconds": took}
    found["sync"] = _middle(sync_times(root))
    found["start"] = _middle(start_times(state))
    with Store.open(database_path(state)) as store:
        found |= ask_stats(store, effort.single)
        found |= teach(store, effort.single)
        found["record"] = {writers: record(store, writers, effort.seconds) for writers in effort.writers}
        found["import_rows_per_second"] = import_rate(store, effort.imported)
    found["sync_after"] = _middle(sync_times(root))
    found["bytes_per_interaction"] = built.recorded_bytes / size
    found["bytes_per_example"] = (built.bytes - built.recorded_bytes) / built.examples
    found["mebibytes"] = built.bytes / MEBIBYTE
    return found


# What is measured


def _begin(store: Store, asked: Asked) -> None:
    begin_interaction(
        store,
        interaction_id=asked.id,
        learner=LEARNER,
        conversation=asked.conversation,
        source=asked.source,
        user=None,
        role="teacher",
        version=0,
        messages=asked.messages,
        parameters={"model": "selflearn", "temperature": 0.7},
        prompt_tokens=60,
    ).result()


def _finish(store: Store, asked: Asked) -> None:
    finish_interaction(
        store, asked.id, answer=asked.answer, state="completed", finish_reason="stop", completion_tokens=90
    ).result()


def _correct(store: Store, asked: Asked, text: str) -> None:
    add_feedback(
        store,
        learner=LEARNER,
        interaction_id=asked.id,
        kind="correction",
        text=text,
        source=asked.source,
        role="teacher",
    )


def _place(connection: sqlite3.Connection, asked: Asked, settings: ExperienceSettings) -> float:
    similarity = settings.near_duplicate_similarity
    return _seconds(lambda: place(connection, LEARNER, asked.messages, similarity))[0]


def _line(asked: Asked) -> bytes:
    messages = [*asked.messages, {"role": "assistant", "content": asked.answer}]
    return json.dumps({"messages": messages, "id": str(uuid.uuid5(uuid.NAMESPACE_OID, asked.id))}).encode()


def _stats(store: Store) -> None:
    funnel(store, LEARNER)
    overview.learning(store, LEARNER, LearningSettings())


def _status(store: Store) -> None:
    overview.served(store, LEARNER)
    overview.canary(store, LEARNER)
    counts(store, LEARNER)
    overview.learning(store, LEARNER, LearningSettings())


def _run(threads: Iterable[threading.Thread]) -> None:
    started = list(threads)
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


def _seconds(work: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def _middle(times: Sequence[float]) -> dict[str, float | None]:
    return {"p50": percentile(times, 0.5), "p99": percentile(times, 0.99)}


# What is told


def tables(report: Report, found: Sequence[dict[str, Any]], sampled: Sequence[dict[str, Any]]) -> None:
    """Keeps the tables for the end, with a column for each size."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    title = f"Experience ({datetime.now().astimezone().date()}; {machine}, SQLite {sqlite3.sqlite_version})"
    headings = ["interactions in the store", *(f"{each['interactions']:,}" for each in found)]
    report.table(title, headings, [[name, *cells] for name, cells in _rows(found)])
    first = sampled[0]
    report.table(
        "Choosing an update's examples",
        ["trained examples", *(f"{each['trained']:,}" for each in sampled), "last ÷ first"],
        [
            [label, *(milliseconds(each[key]) for each in sampled), sampled[-1][key] / first[key]]
            for key, label in (("replay", "replay alone, ms"), ("choose_roles", "all roles, ms"))
        ],
    )


def _rows(found: Sequence[dict[str, Any]]) -> Iterable[tuple[str, list[object]]]:
    both = [("sync", "the disk: one sync, p50 / p99 ms (before)"), ("sync_after", "the same, afterwards")]
    both += [("feedback", "a correction, acknowledged, p50 / p99 ms")]
    both += [("near_duplicates", "of that, looking for near duplicates"), ("data_stats", "data stats, p50 / p99 ms")]
    both += [("status", "/admin/status, p50 / p99 ms"), ("start", "start-up, p50 / p99 ms")]
    for writers in found[0]["record"]:
        each = [one["record"][writers] for one in found]
        yield f"record and acknowledge, {writers} at a time, p50 / p99 ms", [_pair(one) for one in each]
        yield f"interactions per second, {writers} at a time", [one["per_second"] for one in each]
    for key, label in both:
        yield label, [_pair(one[key]) for one in found]
    single = {
        "import_rows_per_second": "import, rows per second",
        "bytes_per_interaction": "bytes per interaction",
        "bytes_per_example": "bytes per correction and its example",
        "mebibytes": "database, MiB",
        "build_seconds": "filling it, s",
    }
    for key, label in single.items():
        yield label, [float(one[key]) for one in found]


def _pair(times: dict[str, Any]) -> str:
    return f"{1000 * times['p50']:.2f} / {1000 * times['p99']:.2f}"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", help="numbers of interactions, such as 1000,100000")
    parser.add_argument("--work", type=Path, help="where stores are made (default: the temporary directory)")
    parser.add_argument("--quick", action="store_true", help="little of everything")
    return parser.parse_args(arguments)


def main() -> int:
    """Measures every size; returns the exit code."""
    options = parse()
    sizes = options.sizes or ("500,1000" if options.quick else "1000,100000,1000000")
    numbers = [int(part) for part in sizes.split(",")]
    report, found = Report(), []
    for size in numbers:
        with tempfile.TemporaryDirectory(prefix="selflearn-bench-", dir=options.work) as work:
            found.append(measure(size, QUICK if options.quick else FULL, Path(work)))
            report.write("experience", **found[-1])
    tell("choosing examples for updates")
    sampled = sampling_times(numbers)
    ratio = sampled[-1]["choose_roles"] / sampled[0]["choose_roles"]
    if ratio > SAMPLING_RATIO and not options.quick:
        report.problem(f"choosing examples takes {ratio:.2f} times as long on the largest history as on the smallest")
    tables(report, found, sampled)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
