"""``selflearn``: the command line. It talks to the daemon, or to the state directory when no daemon answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from selflearn.cli import (
    adapters,
    alarms,
    audit,
    backtest,
    bench,
    chat,
    config,
    data,
    data_keeping,
    data_stats,  # noqa: F401 - its commands are part of data.app
    data_transfer,  # noqa: F401
    demo_command,
    diff,  # noqa: F401 - its command is part of versions.app
    evaluate,
    feedback,
    keys,
    learn,
    models,
    rollout,
    serve,
    status,
    versions,
    why,
)
from selflearn.cli.output import message
from selflearn.cli.session import Session
from selflearn.errors import ConfigurationError, DaemonUnreachable, RefusedByGate, SelflearnError

DONE, FAILED, USAGE, REFUSED, UNREACHABLE = 0, 1, 2, 3, 4
INTERRUPTED = 130
HELP = """Serves a language model over the OpenAI API and lets it learn from corrections, safely.

An update reaches users only if it proved that it learned something and forgot nothing; one command takes it back.

First steps:  selflearn serve · selflearn chat · selflearn status · selflearn learn now --wait · selflearn rollback

Exit codes:  0 done, 1 failed, 2 wrong usage or settings, 3 refused by the gate, 4 no daemon answers.
Results go to stdout, messages to stderr."""

app = typer.Typer(
    name="selflearn",
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


app.command("serve")(serve.serve)
app.command("status")(status.status)
app.command("chat")(chat.chat)
app.add_typer(learn.app, name="learn")
app.add_typer(feedback.app, name="feedback")
app.add_typer(data.app, name="data")  # the other modules of data add their commands to it
app.add_typer(versions.app, name="versions")
app.command("why")(why.why)
app.command("evaluate")(evaluate.evaluate)
app.command("distil")(adapters.distil)  # its other commands are part of versions.app
rollout.app.command("alarms")(alarms.alarms)
app.add_typer(rollout.app, name="rollout")
app.command("rollback")(rollout.rollback)
app.add_typer(audit.app, name="audit")
app.command("backtest")(backtest.backtest)
app.command("backup")(data_keeping.backup)
app.command("restore")(data_keeping.restore)
app.add_typer(models.app, name="models")
app.add_typer(config.app, name="config")
app.add_typer(keys.app, name="keys")
app.add_typer(bench.app, name="bench")
app.command("demo")(demo_command.demo)


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
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
