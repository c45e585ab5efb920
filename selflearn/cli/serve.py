"""``selflearn serve``: runs the daemon in the foreground."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from selflearn.cli.session import session_of

SPIN_COUNT = "10000"


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on (default 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (default 8000; 0 takes a free one).")] = None,
    model: Annotated[
        str | None, typer.Option(help="'embedded' (default), a model directory, or a name on the hub.")
    ] = None,
) -> None:
    """Start the daemon: serve the model, record, learn. Ctrl-C or SIGTERM ends it; a second one at once."""
    from selflearn.config import load

    session = session_of(context)
    named = {"host": host, "port": port, "model": model}
    flags: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    whole: dict[str, Any] = {"serving": flags} if flags else {}
    if session.state_flag is not None:
        whole["state"] = session.state_flag
    settings = load(session.config_file, **whole)

    # Read when torch brings OpenMP in. Threads that wait for each other spin for half a millisecond: through the gaps
    # between two products of a forward pass, not for long on cores that another process could use.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    from selflearn.daemon import run  # brings torch in: after the settings proved right

    raise typer.Exit(run(settings, reread=lambda: load(session.config_file, **whole)))
