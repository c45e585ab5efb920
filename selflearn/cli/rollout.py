"""``selflearn rollout`` and ``selflearn rollback``: which version is served, was served, and shall be served again."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli import status as status_command
from selflearn.cli.output import message, moment, pairs, show, table
from selflearn.cli.session import session_of

if TYPE_CHECKING:
    from selflearn.store import Store

app = typer.Typer(help="See and undo what was put into service.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str, typer.Option(help="Why; it stays in the history.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, change nothing.")]
ROLLBACK_SECONDS = 300.0
DEFAULT_REASON = "asked by the operator"


@app.command("history")
def history(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List every change of the served version, newest first."""
    session = session_of(context)

    def local(store: Store) -> dict[str, Any]:
        from selflearn.versions import history as read_history

        return {"rollouts": read_history(store, session.learner, limit)}

    found = session.either(lambda: session.call("GET", f"/admin/rollouts?limit={limit}"), local)
    rows = [
        (row["id"], moment(row["created_at"]), row["action"], row["version"], row["actor"], row["reason"])
        for row in found["rollouts"]
    ]
    headings = ("id", "when", "action", "version", "by", "reason")
    show(found, as_json, lambda _: table(headings, rows, empty="The base model was never replaced."))


@app.command("status")
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show which version is served, since when, and which others answer at once."""
    found = status_command.fetch(session_of(context))
    data = {name: found[name] for name in ("served", "answering", "resident", "health")}
    served = data["served"]
    lines = [
        ("served", f"{served['version']} ({served['name']})"),
        ("since", moment(served["since"])),
        ("put there by", served["action"]),
        ("answering", data["answering"]),
        ("loaded", ", ".join(str(number) for number in data["resident"])),
        ("health", data["health"]),
    ]
    show(data, as_json, lambda _: pairs(lines))


@app.command("undo")
def undo(
    context: typer.Context,
    to: Annotated[int | None, typer.Option(min=0, help="Version to go back to; the one before if left out.")] = None,
    reason: Reason = DEFAULT_REASON,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Serve the version again that was served before (or version --to; 0 is the base model)."""
    go_back(context, to, reason, dry_run, as_json)


def rollback(
    context: typer.Context,
    to: Annotated[
        int | None, typer.Argument(metavar="[N]", min=0, help="Version to go back to; the one before if left out.")
    ] = None,
    reason: Reason = DEFAULT_REASON,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Serve version N again (0 is the base model), or the one served before. Works with the daemon stopped, too."""
    go_back(context, to, reason, dry_run, as_json)


def go_back(context: typer.Context, to: int | None, reason: str, dry_run: bool, as_json: bool) -> None:
    """What ``rollback`` and ``rollout undo`` share."""
    session = session_of(context)
    body = {"to": to, "reason": reason, "dry_run": dry_run}

    def local(store: Store) -> dict[str, Any]:
        return _go_back_here(store, session.settings.state, session.learner, to, reason, dry_run)

    done = session.either(lambda: session.call("POST", "/admin/rollback", body, timeout=ROLLBACK_SECONDS), local)
    would = "Would go" if dry_run else "Went"
    message(f"{would} from version {done['from_version']} back to version {done['to_version']}.")
    show(done, as_json, lambda data: pairs([("served", data["from_version" if dry_run else "to_version"])]))


def _go_back_here(
    store: Store, state: Path, learner: str, to: int | None, reason: str, dry_run: bool
) -> dict[str, Any]:
    """Writes the rollout into the state directory; a daemon follows it when it next looks or starts."""
    from selflearn.versions import roll_back, served, undo_target, verify_registered

    if dry_run:
        connection = store.connection()
        target = undo_target(connection, learner, to)
        verify_registered(connection, state, target)
        return {"from_version": served(connection, learner), "to_version": target, "dry_run": True}
    actor = f"operator:{pwd.getpwuid(os.getuid()).pw_name}"
    done = store.write(
        lambda connection: roll_back(connection, learner=learner, to=to, actor=actor, reason=reason, state=state)
    )
    return {"from_version": done.from_version, "to_version": done.to_version, "dry_run": False}
