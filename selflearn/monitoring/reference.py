"""Writes the page of metrics from the metrics: ``python -m selflearn.monitoring.reference docs/metrics.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import Metric

from selflearn.monitoring.metrics import PREFIX, Metrics

HEAD = """# Metrics

Generated from `selflearn/monitoring/metrics.py` by `python -m selflearn.monitoring.reference docs/metrics.md`; edit it
there.

`GET /metrics`, in base units: seconds, bytes, nats per token, shares from 0 to 1. Counters begin at 0 with each start.
Labels are bounded words; where all of them are known from the start they are listed, and their series begin at 0.
Beside these there are `process_*` of the client library (memory, processor time, open files, start time).

| name | type | labels | meaning |
|---|---|---|---|"""


def page() -> str:
    """The whole page, as Markdown."""
    metrics = Metrics()
    labels = {name: found for metric in vars(metrics).values() for name, found in _labels(metric)}
    families = sorted(metrics.registry.collect(), key=lambda family: family.name)
    rows = [_row(family, labels[family.name]) for family in families if family.name.startswith(PREFIX)]
    return "\n".join([HEAD, *rows]) + "\n"


def _labels(metric: object) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The names of a metric's labels, which its samples do not tell as long as there are none."""
    if hasattr(metric, "_labelnames") and hasattr(metric, "describe"):
        for family in metric.describe():
            yield family.name, tuple(metric._labelnames)


def _row(family: Metric, labels: tuple[str, ...]) -> str:
    name = family.name + ("_total" if family.type == "counter" else "")
    told = "; ".join(_label(family, label) for label in labels)
    return f"| `{name}` | {family.type} | {told} | {family.documentation.replace('|', chr(92) + '|')} |"


def _label(family: Metric, label: str) -> str:
    values = dict.fromkeys(sample.labels[label] for sample in family.samples)
    return f"`{label}`: {', '.join(values)}" if values else f"`{label}`"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
