"""``selflearn keys``: who may use the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from selflearn.cli.output import confirm, message, show, table
from selflearn.cli.session import Session, session_of
from selflearn.errors import ConfigurationError

if TYPE_CHECKING:
    from selflearn.api.keyring import Key

app = typer.Typer(help="Make, list and remove the keys that the daemon asks for.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Whose key it is.")]
KeysFile = Annotated[Path | None, typer.Option("--keys-file", help="The key file (default: api.keys_file).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SHOWN_DIGITS = 12
RELOAD = "A running daemon notices with SIGHUP (systemctl reload selflearn)."


@app.command("add")
def add(
    context: typer.Context,
    name: Name,
    role: Annotated[
        Literal["client", "teacher", "operator"],
        typer.Option(help="client: ask; teacher: also give feedback; operator: everything."),
    ],
    keys_file: KeysFile = None,
) -> None:
    """Make a key and print it, this once: only its hash is kept."""
    from selflearn.api.keyring import add_key

    file = _file(session_of(context), keys_file)
    secret = add_key(file, name, role)
    message(f"The key of {name} ({role}). Keep it: it is shown only now, {file} has no more than its hash. {RELOAD}")
    typer.echo(secret)


@app.command("list")
def list_(context: typer.Context, keys_file: KeysFile = None, as_json: Json = False) -> None:
    """List the keys: names, roles, and how their hashes begin."""
    from selflearn.api.keyring import parse, read_text

    file = _file(session_of(context), keys_file)
    found = {"keys": [_describe(key) for key in parse(read_text(file), file)]}
    rows = [(key["name"], key["role"], key["sha256"][:SHOWN_DIGITS]) for key in found["keys"]]
    show(found, as_json, lambda _: table(("name", "role", "sha256"), rows, empty=f"There are no keys in {file}."))


@app.command("remove")
def remove(
    context: typer.Context,
    name: Name,
    keys_file: KeysFile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a key: whoever has it is let in no more, for only its hash was kept."""
    from selflearn.api.keyring import remove_key

    file = _file(session_of(context), keys_file)
    if not yes:
        confirm(f"Remove the key of {name} from {file}?")
    remove_key(file, name)
    message(f"The key of {name} is no longer in {file}. {RELOAD}")


def _file(session: Session, named: Path | None) -> Path:
    file = named or session.settings.api.keys_file
    if file is None:
        raise ConfigurationError(
            "There is no key file: api.keys_file is not set. Set it, or name a file with --keys-file."
        )
    return file


def _describe(key: Key) -> dict[str, str]:
    return {"name": key.name, "role": key.role, "sha256": key.digest.removeprefix("sha256:")}
