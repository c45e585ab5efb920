"""``selflearn rollout`` and ``selflearn rollback``: which version is served, was served, and shall be served again."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli import status as status_command
from selflearn.cli.alarms import alarms
from selflearn.cli.completion import versions_here
from selflearn.cli.output import message, moment, pairs, show, table
from selflearn.cli.session import Session, session_of

if TYPE_CHECKING:
    from sqlite3 import Connection

    from selflearn.store import Store

app = typer.Typer(help="See, try, promote and undo what is put into service.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str, typer.Option(help="Why; it stays in the history.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, change nothing.")]
ORDER_SECONDS = 300.0
DEFAULT_REASON = "asked by the operator"
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?)([smhd]?)", text.strip())
    if found is None or float(found[1]) == 0:
        raise typer.BadParameter(f"{text!r} is no time; expected a number and its unit, as 90s, 30m, 2h or 1d")
    return float(found[1]) * UNITS[found[2]]


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise typer.BadParameter(f"{text!r} is no share; expected a number between 0 and 1, as 0.1 for a tenth")
    return share


@app.command("history")
def history(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List every change of what is served, canaries included, newest first."""
    session = session_of(context)

    def local(store: Store) -> dict[str, Any]:
        from selflearn.versions import history as read_history

        return {"rollouts": read_history(store, session.learner, limit)}

    found = session.either(lambda: session.call("GET", f"/admin/rollouts?limit={limit}"), local)
    rows = [
        (row["id"], moment(row["created_at"]), row["action"], row["version"], row["share"], row["actor"], row["reason"])
        for row in found["rollouts"]
    ]
    headings = ("id", "when", "action", "version", "share", "by", "reason")
    show(found, as_json, lambda _: table(headings, rows, empty="The base model was never replaced."))


@app.command("status")
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show which version is served, since when, which canary runs, and which others answer at once."""
    found = status_command.fetch(session_of(context))
    data = {name: found[name] for name in ("served", "canary", "pins", "answering", "resident", "health")}
    served = data["served"]
    lines = [
        ("served", f"{served['version']} ({served['name']})"),
        ("since", moment(served["since"])),
        ("put there by", served["action"]),
        ("canary", status_command.canary_line(data["canary"])),
        ("pinned", status_command.pins_line(data["pins"])),
        ("answering", data["answering"]),
        ("loaded", ", ".join(str(number) for number in data["resident"])),
        ("health", data["health"]),
    ]
    show(data, as_json, lambda _: pairs(lines))


@app.command("canary")
def canary(
    context: typer.Context,
    version: Annotated[
        int, typer.Argument(metavar="N", min=1, help="A version that passed the gate.", autocompletion=versions_here)
    ],
    share: Annotated[
        float, typer.Option(parser=_share, metavar="SHARE", help="Part of the conversations, as 0.1 for a tenth.")
    ],
    for_seconds: Annotated[
        float | None,
        typer.Option("--for", parser=_seconds, metavar="TIME", help="End by itself after 90s, 30m, 2h or 1d."),
    ] = None,
    reason: Reason = DEFAULT_REASON,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Let version N answer a share of the conversations; each conversation stays on its side."""
    session = session_of(context)

    def work(connection: Connection) -> Any:
        from selflearn.versions import start_canary

        return start_canary(
            connection,
            version=version,
            share=share,
            for_seconds=for_seconds,
            reason=reason,
            state=session.settings.state,
            dry_run=dry_run,
            **_by_operator(session),
        )

    body = {"version": version, "share": share, "for_seconds": for_seconds, "reason": reason, "dry_run": dry_run}
    done = _order(session, "/admin/rollouts/canary", body, work)
    answers = "would answer" if dry_run else "answers"
    message(f"Version {version} {answers} {share:.4g} of the conversations, version {done['served']} the others.")
    lines = [("canary", version), ("share", share), ("until", moment(done["until"])), ("served", done["served"])]
    show(done, as_json, lambda _: pairs(lines))


app.command("alarms")(alarms)


@app.command("promote")
def promote(
    context: typer.Context,
    version: Annotated[
        int | None,
        typer.Argument(
            metavar="N",
            min=1,
            help="A version that passed the gate; the canary if left out.",
            autocompletion=versions_here,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Serve it although the gate did not promote it.")] = False,
    reason: Reason = DEFAULT_REASON,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Serve version N, or the canary, to everyone. Exit code 3 if the gate did not promote it; then see --force."""
    if force and reason == DEFAULT_REASON:
        raise typer.BadParameter("an override is recorded with its reason; add --reason TEXT", param_hint="--force")
    session = session_of(context)

    def work(connection: Connection) -> Any:
        from selflearn.versions import promote as promote_here

        state = session.settings.state
        return promote_here(
            connection,
            version=version,
            force=force,
            reason=reason,
            state=state,
            dry_run=dry_run,
            **_by_operator(session),
        )

    body = {"version": version, "force": force, "reason": reason, "dry_run": dry_run}
    _show_change(_order(session, "/admin/rollouts/promote", body, work), as_json, "promote")


@app.command("pin")
def pin(
    context: typer.Context,
    version: Annotated[
        int, typer.Argument(metavar="N", min=0, help="Number of the version.", autocompletion=versions_here)
    ],
    hold: Annotated[bool, typer.Option("--hold", help="Let nothing replace it in service by itself.")] = False,
    reason: Reason = DEFAULT_REASON,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Keep version N whatever its age; with --hold, no update starts and nothing replaces it by itself either."""
    session = session_of(context)

    def work(connection: Connection) -> Any:
        from selflearn.versions import pin as pin_here

        return pin_here(connection, version=version, held=hold, reason=reason, dry_run=dry_run, **_by_operator(session))

    body = {"version": version, "hold": hold, "reason": reason, "dry_run": dry_run}
    done = _order(session, "/admin/rollouts/pin", body, work)
    held = ", and nothing replaces it in service by itself" if done["held"] else ""
    message(f"Version {version} {'would be' if dry_run else 'is'} kept{held}.")
    show(done, as_json, lambda data: pairs([("pinned", data["version"]), ("held", data["held"])]))


@app.command("unpin")
def unpin(
    context: typer.Context,
    version: Annotated[
        int | None,
        typer.Argument(
            metavar="N",
            min=0,
            help="Its number; the held one, or the only one, if left out.",
            autocompletion=versions_here,
        ),
    ] = None,
    reason: Reason = DEFAULT_REASON,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Take the pin of version N away, and with it the hold."""
    session = session_of(context)

    def work(connection: Connection) -> Any:
        from selflearn.versions import unpin as unpin_here

        return unpin_here(connection, version=version, reason=reason, dry_run=dry_run, **_by_operator(session))

    body = {"version": version, "reason": reason, "dry_run": dry_run}
    done = _order(session, "/admin/rollouts/unpin", body, work)
    was = "pinned and held" if done["held"] else "pinned"
    message(f"Version {done['version']} {'is' if dry_run else 'was'} {was}.")
    show(done, as_json, lambda data: pairs([("unpinned", data["version"])]))


@app.command("abort")
def abort(
    context: typer.Context, reason: Reason = DEFAULT_REASON, dry_run: DryRun = False, as_json: Json = False
) -> None:
    """End the canary: what is served answers everyone."""
    session = session_of(context)

    def work(connection: Connection) -> Any:
        from selflearn.versions import abort_canary

        return abort_canary(connection, reason=reason, dry_run=dry_run, **_by_operator(session))

    done = _order(session, "/admin/rollouts/abort", {"reason": reason, "dry_run": dry_run}, work)
    ends = "would end" if dry_run else "has ended"
    message(f"The canary, version {done['version']}, {ends}; version {done['served']} answers everyone.")
    show(done, as_json, lambda data: pairs([("served", data["served"])]))


@app.command("undo")
def undo(
    context: typer.Context,
    to: Annotated[
        int | None,
        typer.Option(min=0, help="Version to go back to; the one before if left out.", autocompletion=versions_here),
    ] = None,
    reason: Reason = DEFAULT_REASON,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Serve the version again that was served before (or version --to; 0 is the base model)."""
    go_back(context, to, reason, dry_run, as_json)


def rollback(
    context: typer.Context,
    to: Annotated[
        int | None,
        typer.Argument(
            metavar="N", min=0, help="Version to go back to; the one before if left out.", autocompletion=versions_here
        ),
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

    def work(connection: Connection) -> Any:
        from selflearn.versions import roll_back

        given: dict[str, Any] = {"to": to, "reason": reason, "expected": expected, "dry_run": dry_run}
        return roll_back(connection, state=session.settings.state, **given, **_by_operator(session))

    # "The one before" is meant as seen from here: two terminals that say it at once must not go back twice.
    expected = _served(session) if to is None else None
    body = {"to": to, "reason": reason, "expected": expected, "dry_run": dry_run}
    _show_change(_order(session, "/admin/rollback", body, work), as_json, "go back")


def _order(session: Session, path: str, body: dict[str, Any], work: Callable[[Connection], Any]) -> dict[str, Any]:
    """Has the daemon do it, or does ``work`` on the database; a daemon follows that when it next looks or starts."""

    def local(store: Store) -> dict[str, Any]:
        done = work(store.connection()) if body["dry_run"] else store.write(work)
        return {**asdict(done), "dry_run": body["dry_run"]}

    return session.either(lambda: session.call("POST", path, body, timeout=ORDER_SECONDS), local)


def _served(session: Session) -> int:
    def local(store: Store) -> int:
        from selflearn.versions import served

        return served(store.connection(), session.learner)

    return session.either(lambda: int(session.call("GET", "/admin/status")["served"]["version"]), local)


def _by_operator(session: Session) -> dict[str, Any]:
    return {"learner": session.learner, "actor": session.actor}


def _show_change(done: dict[str, Any], as_json: bool, what: str) -> None:
    before, after = done["from_version"], done["to_version"]
    if done["dry_run"]:
        message(f"Would {what}: from version {before} to version {after}.")
    else:
        message(f"Version {after} is served now, before it was version {before}.")
    show(done, as_json, lambda _: pairs([("served", before if done["dry_run"] else after)]))
