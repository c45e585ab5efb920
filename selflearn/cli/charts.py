"""The curves of an update as a small chart of text, in colour on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Final

from selflearn.cli.output import text_of

WIDTH: Final = 60
HEIGHT: Final = 8
TRAIN, HELD_OUT, BEST = "·", "o", "*"
_STYLES: Final = {TRAIN: "cyan", HELD_OUT: "yellow", BEST: "bold green"}

#: What a version has that was made before, or the base model.
NO_CURVE: Final[Mapping[str, Any]] = {"train": (), "held_out": (), "best_step": None}

Point = Sequence[Any]


def print_curves(curve: Mapping[str, Any]) -> None:
    """Prints what ``versions show`` has as ``curve``; nothing where nothing was recorded."""
    lines = chart(curve)
    if not sys.stdout.isatty():
        sys.stdout.write("".join(line.rstrip() + "\n" for line in lines))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for line in lines:
        text = Text(line)
        for mark, style in _STYLES.items():
            text.highlight_words([mark], style)
        console.print(text, no_wrap=True, crop=True)


def chart(curve: Mapping[str, Any], width: int = WIDTH, height: int = HEIGHT) -> list[str]:
    """The lines of the chart: training losses as means of the steps in a column, each held-out loss, the best one."""
    train, held_out, best = curve["train"], curve["held_out"], curve["best_step"]
    if not train and not held_out:
        return []
    last = max(step for step, _ in [*train, *held_out])
    width = min(width, last)
    drawn = [(at, value, TRAIN) for at, value in _by_column(train, last, width)]
    drawn += [(_column(step, last, width), loss, BEST if step == best else HELD_OUT) for step, loss in held_out]
    low, high = min(value for _, value, _ in drawn), max(value for _, value, _ in drawn)
    cells = [[" "] * width for _ in range(height)]
    for at, value, mark in sorted(drawn, key=lambda one: one[2] == BEST):  # the best is never drawn over
        share = (value - low) / (high - low) if high > low else 0.0
        cells[round((1.0 - share) * (height - 1))][at] = mark
    return _framed(cells, low, high, last, best)


def _by_column(points: Sequence[Point], last: int, width: int) -> list[tuple[int, float]]:
    columns: dict[int, list[float]] = {}
    for step, loss in points:
        columns.setdefault(_column(step, last, width), []).append(loss)
    return [(at, fmean(losses)) for at, losses in columns.items()]


def _column(step: int, last: int, width: int) -> int:
    return min(width - 1, (step - 1) * width // last)


def _framed(cells: Sequence[Sequence[str]], low: float, high: float, last: int, best: int | None) -> list[str]:
    labels = [text_of(high), *[""] * (len(cells) - 2), text_of(low)]
    margin = max(len(label) for label in labels)
    rows = [f"{label:>{margin}} │{''.join(row)}" for label, row in zip(labels, cells, strict=True)]
    found = "" if best is None else f"  {BEST} best held out (step {best})"
    legend = f"step 1 to {last}  {TRAIN} train  {HELD_OUT} held out{found}"
    return ["loss in nats", *rows, " " * margin + " └" + "─" * len(cells[0]), " " * (margin + 2) + legend]
