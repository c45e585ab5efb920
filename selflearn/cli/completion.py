"""What the shell completes behind a command: the versions that are in the state directory."""

from __future__ import annotations

import typer

SHOWN = 50


def versions_here(ctx: typer.Context) -> list[tuple[str, str]]:
    """The numbers of versions in the state directory, newest first; nothing where it cannot be read."""
    from selflearn.cli.session import Session
    from selflearn.errors import SelflearnError
    from selflearn.versions.names import version_number, versions_directory

    given = ctx.find_root().params
    try:
        state = Session(given.get("state"), given.get("config_file"), None).settings.state
        names = [path.name for path in versions_directory(state).iterdir()]
    except (SelflearnError, OSError):
        return []
    numbers = sorted((number for name in names if (number := version_number(name)) is not None), reverse=True)
    return [*((str(number), "version") for number in numbers[:SHOWN]), ("0", "the base model")]
