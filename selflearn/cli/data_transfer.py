"""``selflearn data``: import and export."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

import typer

from selflearn.cli.data import app
from selflearn.cli.output import message, pairs, show
from selflearn.cli.progress import spinner
from selflearn.cli.session import Session, session_of

if TYPE_CHECKING:
    from selflearn.cli.transfer import Opened, Place, Wanted
    from selflearn.experience.transfer.formats import Format
    from selflearn.store import Store

FORMATS = "chat, completion, sharegpt, preference, dpo or kto"
NOTHING_TAKEN = 1


@app.command("import")
def import_(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON Lines, may be packed (.gz); - is standard input.")],
    format_: Annotated[
        str | None, typer.Option("--format", help=f"{FORMATS} (default: each row is looked at).")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The rows' source will be import:NAME (default: FILE).")] = None,
    again: Annotated[bool, typer.Option("--again", help="Look at all rows again, even if they were imported.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Import training data. A second time, it goes on where it stopped; what is known is not taken twice."""
    from selflearn.cli.transfer import Wanted, name_of, opened_file

    session = session_of(context)
    with opened_file(file) as opened:
        wanted = Wanted(name or name_of(file), _format(format_), opened.sha256)
        try:
            done = _import(session, opened, wanted, again)
        except KeyboardInterrupt:
            message("Stopped. What is imported stays; the same command goes on from there.")
            raise
    _tell(done)
    show(done, as_json, _print_counts)
    if done["rejected"] and done["rejected"] == done["received"]:
        raise typer.Exit(NOTHING_TAKEN)


@app.command("export")
def export(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="Where to (default: standard output).")] = None,
    format_: Annotated[str, typer.Option("--format", help=f"{FORMATS}.")] = "chat",
    state: Annotated[
        list[str] | None, typer.Option(help="Only examples in this state; several times for several.")
    ] = None,
    source: Annotated[list[str] | None, typer.Option(help="Only those of this source; several times.")] = None,
    with_metadata: Annotated[
        bool, typer.Option("--with-metadata", help="Say of each row its id, source, kind, state, conversation, time.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
) -> None:
    """Export examples as JSON Lines. Without --state: all but suspect and quarantined ones."""
    from selflearn.cli.transfer import written_file

    session = session_of(context)
    chosen = _format(format_) or "chat"
    query = {"format": chosen, "state": state or [], "source": source or [], "metadata": with_metadata}
    with written_file(file, force=force) as output, spinner("exporting") as tell:

        def local(store: Store) -> int:
            from selflearn.experience.transfer.exporting import Selection, export_lines

            selection = Selection(chosen, state or (), source or (), with_metadata)
            return _write(output, export_lines(store, session.learner, selection), tell)

        def remote() -> int:
            return _write(output, session.stream(f"/admin/data/export?{urlencode(query, doseq=True)}"), tell)

        number = session.either(remote, local)
    message(f"{number} example{'' if number == 1 else 's'} exported.")


def _format(name: str | None) -> Format | None:
    from selflearn.experience.transfer.formats import FORMATS as KNOWN

    for known in KNOWN:
        if known == name:
            return known
    if name is not None:
        raise typer.BadParameter(f"there is no format {name!r}; expected {FORMATS}", param_hint="--format")
    return None


def _import(session: Session, opened: Opened, wanted: Wanted, again: bool) -> dict[str, Any]:
    from selflearn.cli.transfer import Local, Remote, transfer

    max_line = session.settings.api.max_body_bytes - 1  # the end of the line is sent as well
    with _progress(opened.size) as tell:

        def into(place: Place) -> dict[str, Any]:
            return transfer(place, opened, max_line, again=again, tell=tell)

        return session.either(lambda: into(Remote(session, wanted)), lambda store: into(Local(session, store, wanted)))


@contextmanager
def _progress(size: int) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; what it yields is told the line and the byte that are done."""
    if not sys.stderr.isatty():
        yield lambda line, byte: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("line {task.fields[line]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("import", total=size, line=0)
        yield lambda line, byte: progress.update(task, completed=byte, line=line)


def _tell(done: dict[str, Any]) -> None:
    if done["finished_before"]:
        message("This file was imported before; nothing changed. To look at its rows again, say --again.")
    for error in done["errors"]:
        message(f"line {error['line']}: {error['reason']}")
    if (more := done["rejected"] - len(done["errors"])) > 0:
        message(f"... and {more} more lines that were rejected")


def _print_counts(done: dict[str, Any]) -> None:
    from selflearn.cli.transfer import NUMBERS

    pairs([("source", done["source"]), *((name, done[name]) for name in NUMBERS)])


def _write(output: IO[bytes], chunks: Iterator[bytes], tell: Callable[[str], None]) -> int:
    """Writes chunks of lines; returns how many lines there were."""
    number = 0
    for chunk in chunks:
        output.write(chunk)
        number += chunk.count(b"\n")
        tell(f"exporting: {number} examples")
    return number
