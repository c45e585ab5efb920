"""``selflearn demo``: the tour of the whole loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selflearn.cli.output import show
from selflearn.cli.session import session_of

FAILED = 1
DEFAULT_STATE = Path("state")


def demo(
    context: typer.Context,
    tour_state: Annotated[
        Path | None,
        typer.Option("--tour-state", help="Directory for the tour's own state (default: a new temporary one)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was measured as JSON at the end.")] = False,
) -> None:
    """Teach the real model some facts, poison it, roll it back: the whole loop, in minutes, on its own state."""
    from rich.console import Console

    from selflearn.cli.demo import run_tour

    findings = run_tour(session_of(context).settings.state, tour_state, Console(stderr=as_json))
    if as_json:
        show(findings.as_dict(), True, lambda _: None)
    if not findings.all_hold:
        raise typer.Exit(FAILED)
