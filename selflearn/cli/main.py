"""``selflearn``: the command line. It talks to the daemon, or to the state directory when no daemon answers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from selflearn.cli.commands import Commands
from selflearn.cli.output import message
from selflearn.cli.session import Session
from selflearn.errors import ConfigurationError, DaemonUnreachable, RefusedByGate, SelflearnError

DONE, FAILED, USAGE, REFUSED, UNREACHABLE = 0, 1, 2, 3, 4
INTERRUPTED = 130
HELP = """Serves a language model over the OpenAI API and lets it learn from corrections, safely.

An update reaches users only if it proved that it learned something and forgot nothing; one command takes it back.

\b
$ selflearn serve            # start the daemon
$ selflearn chat             # ask, and correct answers with /fix
$ selflearn learn now --wait # learn from that, and see the verdict
$ selflearn status           # what is served, and how it goes
$ selflearn rollback         # back to the version before
$ selflearn doctor           # what is wrong here, and what to do

Every command tells examples and its options with --help, and prints JSON with --json.

\b
Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 refused by the gate,
4 no daemon answers. Results go to stdout, messages to stderr."""

app = typer.Typer(
    name="selflearn",
    cls=Commands,
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            sys.stdout.write(f"selflearn {version('selflearn')}\n")
        except PackageNotFoundError:
            sys.stdout.write("selflearn (not installed as a package)\n")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    state: Annotated[
        Path | None, typer.Option(help="State directory (default: ./state).", envvar="SELFLEARN_STATE")
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="Settings file (default: ./selflearn.toml if there is one).")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Where the daemon is (default: from the settings).", envvar="SELFLEARN_URL")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="File with the key to send (default: SELFLEARN_API_KEY, or from the settings).")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Show selflearn's version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Notes the global options; settings are read when a command first needs them."""
    del version
    context.obj = Session(state, config_file, url, key_file)


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    # pydantic looks through all that is installed for plugins otherwise: a twentieth of the time that a command takes
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    try:
        app(prog_name="selflearn")
    except SelflearnError as error:
        message(f"selflearn: {error}")
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def exit_code(error: SelflearnError) -> int:
    """The exit code that tells a script what kind of failure ``error`` is."""
    if isinstance(error, DaemonUnreachable):
        return UNREACHABLE
    if isinstance(error, RefusedByGate):
        return REFUSED
    return USAGE if isinstance(error, ConfigurationError) else FAILED


if __name__ == "__main__":
    main()
