"""``selflearn rollout alarms``: what the watchdog found wrong with versions in service, and what it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli.output import moment, show, table
from selflearn.cli.session import session_of

if TYPE_CHECKING:
    from selflearn.store import Store


def alarms(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the watchdog's alarms, newest first: which version, which signal, what was done, and the numbers."""
    session = session_of(context)

    def local(store: Store) -> dict[str, Any]:
        from selflearn.versions.alarms import list_alarms

        return {"alarms": list_alarms(store, session.learner, limit)}

    found = session.either(lambda: session.call("GET", f"/admin/alarms?limit={limit}"), local)
    rows = [
        (row["id"], moment(row["created_at"]), row["version"], row["signal"], done(row), row["detail"]["reason"])
        for row in found["alarms"]
    ]
    headings = ("id", "when", "version", "signal", "done", "reason")
    show(found, as_json, lambda _: table(headings, rows, empty="No alarm was ever raised."))


def done(alarm: Mapping[str, Any]) -> str:
    """What followed from an alarm."""
    detail = alarm["detail"]
    return {
        "rollback": f"rolled back to version {detail.get('to')}",
        "abort": "canary aborted",
        "reopen": "loaded anew from its files",
    }.get(alarm["action"], f"nothing: {detail.get('why')}")


def alarm_line(alarm: Mapping[str, Any]) -> str:
    """``version 3, negative_feedback: rolled back to version 2``."""
    return f"version {alarm['version']}, {alarm['signal']}: {done(alarm)}"
