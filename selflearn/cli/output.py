"""How commands show results: rich tables on a terminal, plain aligned text in a pipe, JSON when asked.

Results go to stdout, messages to stderr.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from selflearn.errors import ConfigurationError

Cell = object
DASH = "–"
SHORT_CELL = 20  # what is no longer is never broken into lines: numbers, times, words
STYLES = {
    "pass": "green",
    "promoted": "green",
    "ready": "green",
    "intact": "green",
    "ok": "green",
    "warn": "yellow",
    "fail": "bold red",
    "failed": "red",
    "damaged": "bold red",
    "refused": "yellow",
    "inconclusive": "yellow",
    "stopped": "yellow",
    "starting": "yellow",
    "paused": "yellow",
}


def message(text: str) -> None:
    """Tells the person something that isn't the result."""
    sys.stderr.write(text + "\n")


def confirm(question: str) -> bool:
    """Asks on the terminal; ends the command unless the answer is yes. Where nobody can be asked, only --yes says it.

    Raises ``ConfigurationError`` without a terminal.
    """
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question} There is no terminal to ask at, and nothing was done. Say it with --yes.")
    import typer

    return typer.confirm(question, abort=True, err=True)


def show(data: Any, as_json: bool, render: Callable[[Any], None]) -> None:
    """Prints ``data`` as JSON, or lets ``render`` print it for people."""
    if as_json:
        sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=2) + "\n")
    else:
        render(data)


def table(headings: Sequence[str], rows: Sequence[Sequence[Cell]], empty: str = "nothing yet") -> None:
    """Prints a table, or ``empty`` (as a message) when there are no rows."""
    texts = [[text_of(cell) for cell in row] for row in rows]
    if not texts:
        message(empty)
    elif sys.stdout.isatty():
        _rich_table(headings, texts)
    else:
        _plain([list(headings), *texts])


def pairs(items: Sequence[tuple[str, Cell]]) -> None:
    """Prints names and values, one pair a line, values aligned."""
    width = max((len(name) for name, _ in items), default=0)
    if not sys.stdout.isatty():
        for name, value in items:
            sys.stdout.write(f"{name:<{width}}  {text_of(value)}\n")
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for name, value in items:
        text = text_of(value)
        style = STYLES.get(text.partition(" ")[0].rstrip(":"), "")
        console.print(Text.assemble((f"{name:<{width}}  ", "dim"), (text, style)))


def tree(data: Mapping[str, Any], depth: int = 0) -> None:
    """Prints nested mappings and lists, indented; lists of plain values on one line."""
    for name, value in data.items():
        heading = "  " * depth + name.replace("_", " ")
        if isinstance(value, Mapping) and value:
            sys.stdout.write(heading + "\n")
            tree(value, depth + 1)
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            sys.stdout.write(heading + "\n")
            for item in value:
                line = ", ".join(f"{key} {_scalar(key, part)}" for key, part in item.items() if part is not None)
                sys.stdout.write("  " * (depth + 1) + f"- {line}\n")
        else:
            sys.stdout.write(f"{heading}: {_scalar(name, value)}\n")


def _scalar(name: str, value: object) -> str:
    if (name.endswith("_at") or name in ("at", "since")) and isinstance(value, int | float):
        return moment(value)
    if isinstance(value, list):
        return ", ".join(text_of(item) for item in value) or DASH
    return text_of(value)


def text_of(value: object) -> str:
    """One line for one value: None and empty as a dash, floats short."""
    if value is None or value == "" or value == {}:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping | list):
        return json.dumps(value, ensure_ascii=False)
    return " ".join(str(value).split())


def moment(seconds: float | None) -> str:
    """A unix time in local time, to the second."""
    return DASH if seconds is None else datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float | None) -> str:
    """``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds is None:
        return DASH
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def verdict_table(verdict: Mapping[str, Any] | None) -> None:
    """Prints the gate's checks in 80 columns: what each found and wanted, and below in words what did not pass."""
    checks = (verdict or {}).get("checks", [])
    rows = [
        [
            str(check["name"]).removesuffix("_preference"),
            check.get("outcome"),
            _short(check.get("value")),
            _short(check.get("limit")),
            _interval(check),
            check.get("samples"),
        ]
        for check in checks
    ]
    table(("check", "outcome", "value", "limit", "interval", "n"), rows, empty="no checks were made")
    for check in checks:
        if check.get("outcome") != "pass" and check.get("detail"):
            sys.stdout.write(textwrap.fill(f"{check['name']}: {check['detail']}", 80, subsequent_indent="  ") + "\n")


def _interval(check: Mapping[str, Any]) -> str | None:
    low, high = check.get("low"), check.get("high")
    return None if low is None or high is None else f"{_short(low)} … {_short(high)}"


def _short(number: Cell) -> Cell:
    """Three digits are enough to compare: the exact number is in the JSON."""
    return f"{number:.3g}" if isinstance(number, float) else number


def _plain(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")


def _rich_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, heading in enumerate(headings):
        short = max(len(row[column]) for row in rows) <= SHORT_CELL
        shown.add_column(heading, overflow="fold", no_wrap=short)
    for row in rows:
        shown.add_row(*(Text(cell, STYLES.get(cell, "")) for cell in row))
    Console(highlight=False).print(shown)
