"""``selflearn data stats``: how much came in, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli.data import app
from selflearn.cli.output import Cell, pairs, show, table
from selflearn.cli.session import session_of

if TYPE_CHECKING:
    from selflearn.store import Store


@app.command("stats")
def stats(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the way from what was received to what was trained, and why the rest was not."""
    session = session_of(context)

    def local(store: Store) -> dict[str, Any]:
        from selflearn import overview
        from selflearn.experience import funnel

        learning = overview.learning(store, session.learner, session.settings.learning)
        return {**funnel(store, session.learner), "why_not": learning["why_not"]}

    show(session.either(lambda: session.call("GET", "/admin/data/stats"), local), as_json, _print)


def _print(found: dict[str, Any]) -> None:
    rows: list[tuple[Cell, ...]] = []
    for stage in found["stages"]:
        rows.append((stage["stage"], stage["number"], "", ""))
        rows += [("", "", loss["reason"], loss["text"]) for loss in stage["losses"]]
    table(("stage", "number", "not further", "why"), rows)
    lines = [(name, _listed(found[name])) for name in ("feedback", "implicit", "redacted", "removed") if found[name]]
    pairs([*lines, ("not learning now", found["why_not"] or "an update is running")])


def _listed(numbers: dict[str, Any]) -> str:
    """``correction 3, rating 5``: what has parts is summed."""
    sums = {name: sum(value.values()) if isinstance(value, dict) else value for name, value in numbers.items()}
    return ", ".join(f"{name} {number}" for name, number in sums.items())
