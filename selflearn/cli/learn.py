"""``selflearn learn``: start, watch, pause and stop updates."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli.output import Cell, duration, message, moment, pairs, show, verdict_table
from selflearn.cli.session import ACTOR, Session, session_of

if TYPE_CHECKING:
    from rich.progress import Progress

app = typer.Typer(help="Start, watch, pause and stop updates.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

FAILED, REFUSED = 1, 3
POLL_SECONDS = 0.5
START_SECONDS = 120.0
SWAP_SECONDS = 120.0
EXIT_CODES = {"promoted": 0, "refused": REFUSED, "inconclusive": REFUSED}


@app.command("now")
def now(
    context: typer.Context,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the verdict and show it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge it, and change nothing in service.")] = False,
    trigger: Annotated[str, typer.Option(help="What to note as the reason.")] = ACTOR,
    as_json: Json = False,
) -> None:
    """Start an update now. With --wait: exit code 0 promoted (with --dry-run: would be), 3 not promoted, 1 failed."""
    session = session_of(context)
    body = {"trigger": trigger, "dry_run": dry_run}
    number = int(session.call("POST", "/admin/learn", body, timeout=START_SECONDS)["update"])
    if not wait:
        message(f"Update {number} has started; see 'selflearn learn status'.")
        show({"update": number, "state": "running"}, as_json, lambda found: pairs([("update", found["update"])]))
        return
    update = _wait(session, number)
    show(update, as_json, _print_verdict)
    raise typer.Exit(_exit_code(update))


def _exit_code(update: dict[str, Any]) -> int:
    rehearsed = update["config"]["judging"].get("dry_run", False) and update["state"] == "inconclusive"
    if rehearsed and (update.get("verdict") or {}).get("outcome") == "promote":
        return 0
    return EXIT_CODES.get(update["state"], FAILED)


@app.command("status")
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show how far the running update is, or why none runs."""
    from selflearn import overview

    session = session_of(context)
    found = session.either(
        lambda: session.call("GET", "/admin/learn"),
        lambda store: overview.learning(store, session.learner, session.settings.learning),
    )
    show(found, as_json, lambda data: pairs(learning_lines(data)))


@app.command("pause")
def pause(context: typer.Context) -> None:
    """Start no more updates by themselves, until 'learn resume'. A running one goes on."""
    _set_paused(session_of(context), True)


@app.command("resume")
def resume(context: typer.Context) -> None:
    """Let updates start by themselves again."""
    _set_paused(session_of(context), False)


@app.command("cancel")
def cancel(context: typer.Context) -> None:
    """Stop the running update; what is served does not change."""
    cancelled = session_of(context).call("POST", "/admin/learn/cancel", {})["cancelled"]
    message("The update was cancelled." if cancelled else "No update is running; there is nothing to cancel.")


def learning_lines(found: dict[str, Any]) -> list[tuple[str, Cell]]:
    """What ``LearningControl.status()`` says, as lines for people."""
    switch = "paused (selflearn learn resume)" if found["paused"] else "on" if found["enabled"] else "off (by setting)"
    lines: list[tuple[str, Cell]] = [
        ("learning", switch),
        ("new examples", f"{found['fresh']} (an update starts at {found['needed']})"),
    ]
    if (running := found["running"]) is not None:
        lines.append(("update", f"{running['update']} running ({running['trigger']}): {progress_text(running)}"))
    elif found["why_not"]:
        lines.append(("not learning now", found["why_not"]))
    if (rebuild := found.get("rebuild")) is not None:
        done = [f"{made['update']} {made['outcome']}" for made in rebuild["made"]]
        lines.append(("forgetting", f"made again: {', '.join(done) or 'none'}; left: {rebuild['left']}"))
    if (last := found["last"]) is not None:
        reason = f": {last['reason']}" if last.get("reason") else ""
        when = "" if last.get("finished_at") is None else f" {moment(last['finished_at'])}"
        lines.append(("last update", f"{last['update']} {last['state']}{when}{reason}"))
    if found.get("rate_factor", 1.0) < 1.0:
        lines.append(("learning rate", f"{found['rate_factor']:.2f} of the setting, after updates that went too far"))
    return lines


def progress_text(running: dict[str, Any]) -> str:
    """``training, step 12 of 80, loss 1.234, 3 min 20 s left``."""
    parts = [running["phase"] or "starting"]
    if running.get("steps"):
        parts.append(f"step {running['step']} of {running['steps']}")
    if running.get("loss") is not None:
        parts.append(f"loss {running['loss']:.3f}")
    parts.append(f"{duration(running.get('elapsed_seconds'))} so far")
    if running.get("paused_seconds"):
        parts.append(f"{duration(running['paused_seconds'])} of it paused for serving")
    if running.get("seconds_left") is not None:
        parts.append(f"about {duration(running['seconds_left'])} left")
    return ", ".join(parts)


def _set_paused(session: Session, paused: bool) -> None:
    from selflearn import overview

    path = "/admin/learn/pause" if paused else "/admin/learn/resume"
    session.either(
        lambda: session.call("POST", path, {}) and None,
        lambda store: overview.set_paused(store, paused, actor=ACTOR),
    )
    message("Learning is paused. 'selflearn learn resume' takes it up again." if paused else "Learning is on.")


def _wait(session: Session, number: int) -> dict[str, Any]:
    """Shows progress until update ``number`` has ended and, if it was promoted, serves; returns its row."""
    with progress_bar() as progress:
        task = progress.add_task(f"update {number}", total=None)
        while (update := session.call("GET", f"/admin/updates/{number}"))["state"] == "running":
            running = session.call("GET", "/admin/learn")["running"]
            if running is not None and running["update"] == number:
                text, steps = progress_text(running), running.get("steps") or None
                progress.update(task, description=f"update {number}: {text}", completed=running["step"], total=steps)
            time.sleep(POLL_SECONDS)
        deadline = time.monotonic() + SWAP_SECONDS
        while update["state"] == "promoted" and time.monotonic() < deadline:
            progress.update(task, description=f"update {number}: taking over", total=None)
            found = session.call("GET", "/admin/status")
            if found["answering"] == number or found["served"]["version"] != number:
                break
            time.sleep(POLL_SECONDS)
    return update


def progress_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _print_verdict(update: dict[str, Any]) -> None:
    verdict = update.get("verdict") or {}
    verdict_table(verdict)
    lines: list[tuple[str, Cell]] = [("update", update["id"]), ("outcome", update["state"])]
    if reason := update.get("reason") or verdict.get("reason"):
        lines.append(("reason", reason))
    report = update.get("report") or {}
    if len(tried := report.get("tried", ())) > 1:
        scale = report["measurements"]["scale"]
        lines.append(("scale", f"{scale:.4g} of the step, {len(tried)} sizes of it were judged"))
    pairs(lines)
