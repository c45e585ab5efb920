"""``selflearn status``: everything that matters, at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli.learn import learning_lines
from selflearn.cli.output import Cell, moment, pairs, show
from selflearn.cli.session import Session, session_of

if TYPE_CHECKING:
    from selflearn.store import Store

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def status(context: typer.Context, as_json: Json = False) -> None:
    """Show what is served, whether it is healthy, what was gathered, and what learning does."""
    session = session_of(context)
    show(fetch(session), as_json, lambda found: pairs(_lines(found)))


def fetch(session: Session) -> dict[str, Any]:
    """The daemon's status, or what the state directory says when no daemon answers."""
    return session.either(lambda: session.call("GET", "/admin/status"), lambda store: _stopped(session, store))


def _stopped(session: Session, store: Store) -> dict[str, Any]:
    from selflearn import overview
    from selflearn.experience import counts

    settings = session.settings
    return {
        "daemon": False,
        "state": str(settings.state.resolve()),
        "health": "stopped",
        "learner": session.learner,
        "model": overview.base_model(store, session.learner) or settings.serving.model,
        "answering": None,
        "resident": [],
        "requests": {"running": 0, "waiting": 0},
        "served": overview.served(store, session.learner),
        "canary": overview.canary(store, session.learner),
        "counts": counts(store, session.learner),
        "learning": overview.learning(store, session.learner, settings.learning),
    }


def _lines(found: dict[str, Any]) -> list[tuple[str, Cell]]:
    served, counts, requests = found["served"], found["counts"], found["requests"]
    feedback = {kind: sum(by_status.values()) for kind, by_status in counts["feedback"].items()}
    health = {"ready": "ready", "starting": "starting: the model is being loaded"}.get(
        found["health"], "stopped: no daemon answers; start it with 'selflearn serve'"
    )
    lines: list[tuple[str, Cell]] = [
        ("health", health),
        ("served", _served(served)),
        ("model", found["model"]),
        ("state", found["state"]),
        ("requests", f"{requests['running']} running, {requests['waiting']} waiting"),
        ("interactions", _sum(counts["interactions"])),
        ("feedback", _sum(feedback)),
        ("examples", _sum(counts["examples"])),
    ]
    if found["daemon"] and found["answering"] is not None and found["answering"] != served["version"]:
        lines.insert(2, ("answering", f"version {found['answering']}, until version {served['version']} is loaded"))
    if found["canary"] is not None:
        lines.insert(2, ("canary", canary_line(found["canary"])))
    return lines + learning_lines(found["learning"])


def canary_line(canary: dict[str, Any] | None) -> str:
    """Which version tries which share of the conversations, and for how long."""
    if canary is None:
        return "none"
    end = "it is promoted or aborted" if canary["until"] is None else moment(canary["until"])
    return f"version {canary['version']} ({canary['name']}), {canary['share']:.4g} of the conversations, until {end}"


def _served(served: dict[str, Any]) -> str:
    name = "the base model" if served["version"] == 0 else f"version {served['version']}"
    since = "" if served["since"] is None else f", {served['action']} {moment(served['since'])}"
    return f"{name} ({(served['sha256'] or '?')[:12]}){since}"


def _sum(counts: dict[str, int]) -> str:
    parts = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    return f"{sum(counts.values())}" + (f" ({parts})" if parts else "")
