"""What a benchmark found: a JSON line for each measurement as it is made, Markdown tables in the end."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

MEBIBYTE = 1 << 20


@dataclass(slots=True)
class Report:
    """Collects tables; ``lines`` is where JSON lines go."""

    lines: TextIO = field(default_factory=lambda: sys.stdout)
    tables: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def write(self, section: str, **found: Any) -> None:
        """Writes one measurement."""
        self.lines.write(json.dumps({"section": section, **found}) + "\n")
        self.lines.flush()

    def table(self, title: str, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Keeps a table for the end."""
        cells = [headings, ["---"] * len(headings), *([text_of(cell) for cell in row] for row in rows)]
        lines = "\n".join(f"| {' | '.join(row)} |" for row in cells)
        self.tables.append(f"### {title}\n{lines}\n")

    def problem(self, text: str) -> None:
        """Notes what must not happen; the exit code tells it."""
        self.problems.append(text)
        tell(f"PROBLEM: {text}")

    def finish(self) -> int:
        """Prints tables and problems; returns the exit code."""
        print("\n".join(["", *self.tables, *(f"PROBLEM: {text}" for text in self.problems)]), flush=True)
        return 1 if self.problems else 0


def tell(text: str) -> None:
    """Says what goes on."""
    print(text, file=sys.stderr, flush=True)


def text_of(cell: object) -> str:
    """Numbers with as many digits as say something; a dash for nothing."""
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.0f}" if abs(cell) >= 100 else f"{cell:.1f}" if abs(cell) >= 10 else f"{cell:.3g}"
    return str(cell)


def milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1000.0 * seconds


def mebibytes(size: int | None) -> float | None:
    return None if size is None else size / MEBIBYTE


def median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
