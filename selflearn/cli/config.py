"""``selflearn config``: the settings that are in force, and whether they are right."""

from __future__ import annotations

from typing import Annotated

import typer

from selflearn.cli.output import message, show, table
from selflearn.cli.session import session_of

app = typer.Typer(help="Show and check settings.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("show")
def show_(context: typer.Context, as_json: Json = False) -> None:
    """Show every setting as it is in force here (flags, environment, file, default)."""
    found = session_of(context).settings.model_dump(mode="json")
    rows: list[tuple[str, object]] = []
    for name, value in found.items():
        rows += [(f"{name}.{key}", part) for key, part in value.items()] if isinstance(value, dict) else [(name, value)]
    show(found, as_json, lambda _: table(("setting", "value"), rows))


@app.command("check")
def check(context: typer.Context) -> None:
    """Say whether the settings are right; exit code 2 if not."""
    from selflearn.judging.canary_prompts import load_canaries

    settings = session_of(context).settings
    load_canaries(settings.judging.canary_file)
    message("The settings are right.")
