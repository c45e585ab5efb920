"""What the streams showed: a table for each, and plots of how the accuracy on the tasks went."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.report import Report

Row = Mapping[str, Any]
HEADINGS = (
    "method", "runs", "average accuracy", "of joint", "BWT", "learning", "exact on trained", "anchor rise, end (peak)",
    "KL, end", "drift, end", "promoted", "tokens per update", "seconds per update",
)  # fmt: skip


def average_accuracy(matrix: Sequence[Sequence[float]]) -> float:
    return statistics.fmean(matrix[-1])


def backward_transfer(matrix: Sequence[Sequence[float]]) -> float | None:
    """Mean of R[T][j] − R[j][j] over all tasks but the last; None where all were learned at once."""
    if len(matrix) < 2:
        return None
    return statistics.fmean(matrix[-1][task] - matrix[task][task] for task in range(len(matrix) - 1))


def learning(matrix: Sequence[Sequence[float]]) -> float:
    """Mean of R[j][j]: how well each task was known when it had just been learned."""
    if len(matrix) < 2:
        return average_accuracy(matrix)
    return statistics.fmean(matrix[task][task] for task in range(len(matrix)))


def report(rows: Sequence[Row], plots: Path | None) -> int:
    """Prints a table for each stream, and draws it if there is a place for plots."""
    found = Report()
    for stream in dict.fromkeys(row["stream"] for row in rows):
        of_stream = [row for row in rows if row["stream"] == stream]
        by_method: dict[str, list[Row]] = defaultdict(list)
        for row in of_stream:
            by_method[row["method"]].append(row)
        joint = _mean(by_method.get("joint training", []), lambda row: average_accuracy(row["unseen"]))
        lines = [_line(method, runs, joint) for method, runs in by_method.items()]
        found.table(f"{stream}{', full' if of_stream[0]['full'] else ''}", HEADINGS, lines)
        if plots is not None:
            draw(stream, by_method, plots)
    return found.finish()


def _line(method: str, runs: Sequence[Row], joint: float | None) -> list[object]:
    accuracy = _mean(runs, lambda row: average_accuracy(row["unseen"]))
    spread = statistics.stdev([average_accuracy(row["unseen"]) for row in runs]) if len(runs) > 1 else None
    ends = [row["updates"][-1] for row in runs if row["updates"]]
    updates = [update for row in runs for update in row["updates"]]
    peak = [max(update["anchor_rise"] for update in row["updates"]) for row in runs if row["updates"]]
    return [
        method,
        len(runs),
        f"{accuracy:.3f}" + (f" ± {spread:.3f}" if spread is not None else ""),
        f"{accuracy / joint:.2f}" if accuracy is not None and joint else None,
        _signed(_mean(runs, lambda row: backward_transfer(row["unseen"]))),
        _plain(_mean(runs, lambda row: learning(row["unseen"]))),
        _plain(_mean(runs, lambda row: average_accuracy(row["trained"]))),
        f"{_signed(_average(ends, 'anchor_rise'))} ({statistics.fmean(peak):+.3f})" if peak else None,
        _plain(_average(ends, "kl")),
        _plain(_average(ends, "drift")),
        f"{sum(update['outcome'] == 'promote' for update in updates)} of {len(updates)}" if updates else None,
        _average(updates, "tokens"),
        _average(updates, "seconds"),
    ]


def _mean(runs: Sequence[Row], of: Callable[[Row], float | None]) -> float | None:
    values = [value for value in map(of, runs) if value is not None]
    return statistics.fmean(values) if values else None


def _average(rows: Sequence[Row], name: str) -> float | None:
    return statistics.fmean(float(row[name]) for row in rows) if rows else None


def _plain(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str | None:
    return None if value is None else f"{value:+.3f}"


def draw(stream: str, by_method: Mapping[str, Sequence[Row]], directory: Path) -> None:
    """Average accuracy over the tasks that were learned so far, and the anchors' rise, after every update."""
    from matplotlib.figure import Figure

    directory.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    known, anchors = figure.subplots(1, 2)
    for method, runs in by_method.items():
        counts = {len(row["unseen"]) for row in runs}
        if counts == {1}:
            known.axhline(average_accuracy(runs[0]["unseen"]), linestyle=":", label=method)
            continue
        after = range(1, min(counts) + 1)
        known.plot(after, [_known_after(runs, count) for count in after], label=method)
        anchors.plot(after, [_average([row["updates"][count - 1] for row in runs], "anchor_rise") for count in after])
    known.set(title=f"{stream}: accuracy on the tasks so far", xlabel="updates", ylim=(0, 1))
    anchors.set(title="rise on the anchors, nats per token", xlabel="updates")
    figure.legend(fontsize=7, loc="outside right upper")
    figure.savefig(directory / f"forgetting-{stream}.svg")


def _known_after(runs: Sequence[Row], updates: int) -> float:
    """The mean accuracy on the tasks that were learned by then."""
    return statistics.fmean(value for row in runs for value in row["unseen"][updates - 1][:updates])
