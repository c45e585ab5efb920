"""``selflearn doctor``: whether all is as it should be, and what to do if not."""

from __future__ import annotations

import sys
import textwrap
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli import transport
from selflearn.cli.output import show, table
from selflearn.cli.progress import spinner
from selflearn.cli.session import FORBIDDEN, UNAUTHORIZED, Session, session_of
from selflearn.errors import ConfigurationError, DaemonUnreachable

if TYPE_CHECKING:
    from selflearn.doctor import Finding

FAILED = 1
ASK_SECONDS = 5.0
WIDTH = 80


def doctor(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="Read no large file whole: compare no model's hash.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the machine, the state directory, the model and the settings, and say what to do about what is wrong.

    It changes nothing. Each check is ok, warn (a daemon runs, but not as it should) or fail. Exit code 1 on a fail.
    """
    from selflearn.doctor import worst

    findings = _findings(session_of(context), hashes=not quick)
    found = {"worst": worst(findings), "checks": [asdict(finding) for finding in findings]}
    show(found, as_json, _print)
    if found["worst"] == "fail":
        raise typer.Exit(FAILED)


def _findings(session: Session, *, hashes: bool) -> list[Finding]:
    from selflearn.doctor import Finding, examine

    found: list[Finding] = []
    try:
        with spinner("looking") as tell:
            for finding in examine(session.settings, now=time.time(), ask=lambda: _running(session), hashes=hashes):
                found.append(finding)
                tell(f"looked at: {finding.check}")
    except ConfigurationError as error:  # all other checks build on them
        found.append(Finding("settings", "fail", str(error), "Mend them: docs/configuration.md names all of them."))
    return found


def _running(session: Session) -> str | None:
    """The state directory of the daemon that answers; "" if it tells it to operators alone; None if none answers."""
    try:
        answer = transport.ask(session.url, "GET", "/admin/status", headers=session.headers, timeout=ASK_SECONDS)
    except (transport.BrokenOff, DaemonUnreachable):
        return None
    if answer.status in (UNAUTHORIZED, FORBIDDEN):
        return ""
    found = answer.data.get("state") if isinstance(answer.data, dict) else None
    return None if found is None else str(found)


def _print(found: dict[str, Any]) -> None:
    table(("check", "state", "found"), [(each["check"], each["level"], each["found"]) for each in found["checks"]])
    for each in found["checks"]:
        if each["advice"] and each["level"] != "ok":
            sys.stdout.write(textwrap.fill(f"{each['check']}: {each['advice']}", WIDTH, subsequent_indent="  ") + "\n")
