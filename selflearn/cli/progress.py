"""How long work shows that it goes on: on stderr, and only if that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tell = Callable[[str, float], None]


@contextmanager
def bar() -> Iterator[Tell]:
    """A bar; it is told each step and its share of the whole in [0, 1]."""
    if not sys.stderr.isatty():
        yield lambda step, share: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("beginning", total=1.0)
        yield lambda step, share: shown.update(task, description=step, completed=share)


@contextmanager
def spinner(doing: str) -> Iterator[Callable[[str], None]]:
    """For work of which nobody knows how much it is; it is told what is being done."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(doing)) as shown:
        yield lambda text: shown.update(Text(text))
