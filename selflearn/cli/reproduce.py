"""``selflearn versions reproduce``: whether a version can be made again from its record, byte by byte."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli.learn import progress_bar, progress_text
from selflearn.cli.output import Cell, duration, pairs, show, table
from selflearn.cli.session import Session, session_of

if TYPE_CHECKING:
    from selflearn.daemon.reproduction import Reproduction

FAILED = 1


def reproduce(
    context: typer.Context,
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="Number of the version.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make version N again from its record and compare every byte of its adapter; takes as long as the update did.

    Works on the state directory here, whether a daemon runs or not, with a lowered priority. Exit code 1 if the bytes
    differ; then it says by how much, and what is not as it was: libraries, processor, threads, texts.
    """
    session = session_of(context)
    if session.url_flag is not None and session.state_flag is None:
        raise typer.BadParameter("a version is made again where its state directory is; name that with --state")
    found = dataclasses.asdict(_reproduced(session, number))
    show(found, as_json, _print)
    if not found["identical"]:
        raise typer.Exit(FAILED)


def _reproduced(session: Session, number: int) -> Reproduction:
    from selflearn.daemon.reproduction import reproduce as make_again
    from selflearn.models.library import locate

    state = session.settings.state
    model = locate(session.settings.serving.model, state)
    with session.store() as store, progress_bar() as progress:
        task = progress.add_task(f"version {number}: starting", total=None)

        def saw(running: dict[str, Any]) -> None:
            done, total = running.get("step", 0), running.get("steps")
            progress.update(
                task, description=f"version {number}: {progress_text(running)}", completed=done, total=total
            )

        return make_again(store, state, number, model, saw)


def _print(found: dict[str, Any]) -> None:
    lines: list[tuple[str, Cell]] = [
        ("version", found["update"]),
        ("the same", "yes, byte by byte" if found["identical"] else "no"),
        ("adapter, recorded", found["recorded_sha256"]),
        ("adapter, made again", found["found_sha256"]),
        ("took", duration(found["seconds"])),
    ]
    if not found["identical"]:
        largest = found["max_difference"]
        lines.append(("largest difference", "other layers or ranks" if largest is None else f"{largest:.3g}"))
    pairs(lines)
    if not found["identical"]:
        rows = [(row["what"], row["recorded"], row["found"]) for row in found["differences"]]
        table(("not as it was", "recorded", "now"), rows, empty="All that was recorded with it is as it was.")
