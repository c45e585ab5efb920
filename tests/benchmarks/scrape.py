"""What a scrape of ``/metrics`` costs: fresh, and after 10⁵ requests with 10⁵ interactions in the database.

``python -m tests.benchmarks.scrape`` takes about two minutes. The peer is a bare prometheus_client registry with as
many samples, in plain gauges. Both are read in turn within one process and timed by the processor time of their
thread; over HTTP the product is read alone, by the clock.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from selflearn.models.base import LoadedBase, load_base
from selflearn.monitoring import Metrics
from tests.api.server import Running, make_adapter, running_server
from tests.benchmarks.experience_stores import build
from tests.benchmarks.report import Report
from tests.conftest import make_tiny_model

SCRAPES = 200
SAMPLES_OF_A_GAUGE = 10
SCRAPE_INTERVAL_SECONDS = 15.0
ENDPOINTS = ("/v1/chat/completions", "/v1/feedback", "/v1/models", "/livez", "/admin/status")
CODES = ("200", "400", "429", "503")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one scrape, medians in milliseconds: the text alone, that of the bare registry, and all of it over HTTP."""

    samples: int
    bytes: int
    own: float
    bare: float
    http: float

    @property
    def ratio(self) -> float:
        return self.own / self.bare


def use(metrics: Metrics, requests: int) -> None:
    """What so many requests leave in the metrics: times of all sizes, on all tracks."""
    drawn = random.Random(0)
    for _ in range(requests):
        metrics.requests.labels(drawn.choice(ENDPOINTS), drawn.choices(CODES, (97, 1, 1, 1))[0]).inc()
        total = drawn.expovariate(0.5)
        metrics.observe_answer(
            track=drawn.choices(("stable", "canary", "pinned"), (90, 9, 1))[0],
            state="completed",
            prompt_tokens=60,
            completion_tokens=90,
            first_token_seconds=total / 10,
            total_seconds=total,
        )


def bare_registry(samples: int) -> CollectorRegistry:
    registry = CollectorRegistry()
    for start in range(0, samples, SAMPLES_OF_A_GAUGE):
        gauge = Gauge(f"bare_{start}", "As many samples.", ("label",), registry=registry)
        for number in range(start, min(start + SAMPLES_OF_A_GAUGE, samples)):
            gauge.labels(f"value-{number}").set(number / 7)
    return registry


def measured(running: Running) -> Cost:
    """Reads the metrics of a server that runs, and as many samples of a bare registry, in turn."""
    text = running.services.metrics.exposition()
    samples = sum(1 for line in text.splitlines() if not line.startswith(b"#"))
    bare = bare_registry(samples)
    own_times, bare_times, http_times = list[float](), list[float](), list[float]()
    for _ in range(SCRAPES):
        own_times.append(milliseconds(running.services.metrics.exposition, time.thread_time))
        bare_times.append(milliseconds(lambda: generate_latest(bare), time.thread_time))
        http_times.append(milliseconds(lambda: running.http.get("/metrics").content, time.perf_counter))
    return Cost(samples, len(text), *(statistics.median(times) for times in (own_times, bare_times, http_times)))


def milliseconds(work: Callable[[], bytes], clock: Callable[[], float]) -> float:
    started = clock()
    work()
    return (clock() - started) * 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000, help="how many requests the second server has seen")
    wanted = parser.parse_args()
    report = Report()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="selflearn-scrape-") as folder:
        root = Path(folder)
        make_tiny_model(root / "model")
        base = load_base(root / "model", device="cpu", dtype="float32")
        adapter = make_adapter(base, root / "adapter")
        costs = {number: cost_after(number, base, adapter, root / str(number)) for number in (0, wanted.requests)}
    for number, cost in costs.items():
        report.write("scrape", requests=number, samples=cost.samples, own=cost.own, bare=cost.bare, http=cost.http)
    headings = ("requests", "samples", "bytes", "CPU ms", "bare, CPU ms", "ratio", "over HTTP, ms", "of a core")
    rows = [
        (number, cost.samples, cost.bytes, cost.own, cost.bare, cost.ratio, cost.http, share(cost))
        for number, cost in costs.items()
    ]
    report.table("One scrape", headings, rows)
    return report.finish()


def cost_after(requests: int, base: LoadedBase, adapter: Path, state: Path) -> Cost:
    """The cost of a scrape of a server that has seen so many requests, and recorded so many interactions."""
    if requests:
        build(state, requests)
    with running_server(base, adapter, state) as running:
        running.serve(0)
        use(running.services.metrics, requests)
        return measured(running)


def share(cost: Cost) -> str:
    """Of one core, at one scrape each interval."""
    return f"{cost.own / 1000 / SCRAPE_INTERVAL_SECONDS:.3%}"


if __name__ == "__main__":
    sys.exit(main())
