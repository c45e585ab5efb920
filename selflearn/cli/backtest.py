"""``selflearn backtest``: the recorded history under other settings, on a copy, side by side."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli.output import Cell, duration, message, show, table
from selflearn.cli.session import Session, session_of
from selflearn.errors import ConfigurationError

if TYPE_CHECKING:
    from selflearn.backtest import Configuration, Progress

#: How far the command and its workers step back for a daemon that serves.
NICENESS = 10
INTERRUPTED = 130
#: With more configurations the table of updates is wider than anybody's screen.
MOST_SIDE_BY_SIDE = 6
HEADINGS = (
    "configuration",
    "promoted",
    "refused",
    "undecided",
    "failed",
    "trained",
    "waiting",
    "improvement",
    "loss before",
    "loss after",
    "backward transfer",
    "anchor rise",
    "kl drift",
    "weight drift",
    "time",
    "tokens",
)


def backtest(
    context: typer.Context,
    sets: Annotated[
        list[str], typer.Option("--set", metavar="SETTING=VALUE", help="Change a setting, as learning.rank=8; repeat.")
    ] = [],  # noqa: B006 - typer reads it, nobody changes it
    grids: Annotated[
        list[str], typer.Option("--grid", metavar="SETTING=A,B", help="Try every combination of values; repeat.")
    ] = [],  # noqa: B006
    name: Annotated[str | None, typer.Option(help="What to call what --set and --grid make.")] = None,
    updates: Annotated[
        str | None, typer.Option(metavar="FROM:TO", help="Only these updates, as 3:7, 3: or :7.")
    ] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Only so many of the latest updates.")] = None,
    recorded: Annotated[bool, typer.Option(help="Replay the recorded settings as well, to compare with.")] = True,
    judge_only: Annotated[
        bool, typer.Option("--judge-only", help="Train nothing: decide anew on what was measured. Takes a second.")
    ] = False,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory of the results; one that exists goes on.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Device to train on (default: the recorded one).")] = None,
    measured: Annotated[
        int, typer.Option(min=0, help="Examples of each update that measure what is still known of it; 0: none.")
    ] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Replay the recorded updates under other settings, on a copy: what would have been learned, forgotten, refused.

    Ctrl-C keeps what is finished; the same command with --to DIR goes on. Nothing that is served changes.
    """
    from selflearn.backtest import make_configurations

    session = session_of(context)
    chosen = make_configurations(sets, grids, name=name, with_recorded=recorded, judge_only=judge_only)
    if judge_only:
        if to is not None or device is not None:
            raise typer.BadParameter("--judge-only trains nothing and writes nothing: leave --to and --device out")
        _rejudge(session, chosen, updates, last, as_json)
        return
    found = _replay(session, chosen, to, updates=updates, last=last, device=device, measured=measured)
    _draw(found)
    message(f"The results are in {found['directory']}.")
    show(found, as_json, _print)
    if found["interrupted"]:
        message("It was interrupted; these configurations were finished. To go on, name the directory with --to.")
        raise typer.Exit(INTERRUPTED)


def _replay(
    session: Session, configurations: Sequence[Configuration], to: Path | None, **chosen: Any
) -> dict[str, Any]:
    from selflearn.backtest import Options, backtests_directory, run
    from selflearn.backup import moment_name

    settings = session.settings
    options = Options(state=settings.state, learner=session.learner, model=settings.serving.model, **chosen)
    directory = to if to is not None else backtests_directory(settings.state) / moment_name(time.time())
    os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # copies of what users said must not stay behind
    with _progress() as progress:
        return run(options, configurations, directory, progress)


@contextmanager
def _progress() -> Iterator[Any]:
    """Shows on stderr how far it is: a line that changes on a terminal, else a line for each update."""
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn())
    console = Console(stderr=True)
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("copying the record", total=1.0)
        told: set[tuple[str, int]] = set()

        def tell(progress: Progress) -> None:
            bar.update(task, description=_described(progress), completed=progress.done)
            if not console.is_terminal and (progress.configuration, progress.update) not in told:
                told.add((progress.configuration, progress.update))
                message(_described(progress))

        yield tell


def _described(progress: Progress) -> str:
    left = "" if progress.seconds_left is None else f", about {duration(progress.seconds_left)} left"
    return f"{progress.configuration}, update {progress.update}: {progress.phase}{left}"


def _draw(found: dict[str, Any]) -> None:
    from selflearn.backtest.plot import draw

    try:
        draw(found, Path(found["directory"]))
    except ConfigurationError as error:  # the numbers are there all the same
        message(str(error))


def _rejudge(
    session: Session, configurations: Sequence[Configuration], updates: str | None, last: int | None, as_json: bool
) -> None:
    from selflearn.backtest import rejudge

    found = rejudge(session.settings.state, session.learner, configurations, updates=updates, last=last)
    show(found, as_json, _print_rejudged)


def _print_rejudged(found: dict[str, Any]) -> None:
    headings = ("configuration", "promoted", "refused", "undecided", "other than recorded")
    rows: list[tuple[Cell, ...]] = [
        (
            each["name"],
            each["promoted"],
            each["refused"],
            each["inconclusive"],
            ", ".join(str(number) for number in each["changed"]),
        )
        for each in found["configurations"]
    ]
    table(headings, rows)
    sys.stdout.write("\n")
    _print_updates(found, {str(step["update"]): step["recorded"] for step in found["configurations"][0]["steps"]})


def _print(found: dict[str, Any]) -> None:
    table(HEADINGS, [_row(each) for each in found["configurations"]], empty="no configuration was finished")
    if found["configurations"]:
        sys.stdout.write("\n")
        _print_updates(found, found["recorded"])
    if found["identical"] is not None:
        message(_told_identity(found))
    for reason, number in found["missing"].items():
        message(f"{number} examples were not replayed: {_MISSING[reason]}.")
    for number, outcome in found["skipped"].items():
        message(f"Update {number} was not replayed: it was {outcome}, without a verdict.")
    for each in found["configurations"]:
        for difference in each["differences"]:
            message(f"{each['name']}: {difference}.")


_MISSING = {
    "forgotten": "updates used them, and they were forgotten since",
    "quarantined": "they are in quarantine, and no recorded update used them",
    "released": "they were released from quarantine, and no recorded update has used them yet",
}


def _told_identity(found: dict[str, Any]) -> str:
    if found["identical"]:
        return "The replay of the recorded settings is identical to the record: same verdicts, same adapters."
    baseline = next(each for each in found["configurations"] if not each["changes"])
    other = [step["update"] for step in baseline["steps"] if not step["identical"]]
    cause = "other examples" if not all(step["same_examples"] for step in baseline["steps"]) else "other numbers"
    return (
        f"The replay of the recorded settings differs from the record in update {', '.join(map(str, other))} "
        f"({cause}): compare with the replay, not with the record. See docs/learning.md."
    )


def _row(configuration: dict[str, Any]) -> tuple[Cell, ...]:
    found = configuration["summary"]
    names = ("improvement", "loss_before", "loss_after", "backward_transfer", "anchor_rise", "kl_drift", "weight_drift")
    return (
        configuration["name"],
        found["promoted"],
        found["refused"],
        found["inconclusive"] + found["not_enough"],
        found["failed"],
        found["trained"],
        found["waiting"],
        *(None if found[name] is None else f"{found[name]:+.4f}" for name in names),
        duration(found["seconds"]),
        found["tokens"],
    )


def _print_updates(found: dict[str, Any], recorded: dict[str, str]) -> None:
    """The outcome of every update under every configuration."""
    shown = found["configurations"][:MOST_SIDE_BY_SIDE]
    headings = ("update", "as it was", *(each["name"] for each in shown))
    steps = zip(*(each["steps"] for each in shown), strict=True)
    rows = [(row[0]["update"], recorded[str(row[0]["update"])], *(_outcome(step) for step in row)) for row in steps]
    table(headings, rows)


def _outcome(step: dict[str, Any]) -> str:
    """``refused (retained)``: the checks that said no."""
    if step["outcome"] == "promoted":
        return "promoted"
    checks = [part.partition(":")[0] for part in step["reason"].split("; ")]
    named = [check for check in checks if check.replace("_", "").isalpha() and len(check) < 24]
    outcome = str(step["outcome"]).replace("_", " ")
    return f"{outcome} ({', '.join(named)})" if named else outcome
