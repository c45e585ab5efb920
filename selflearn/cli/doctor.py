"""``selflearn status``: everything that matters, at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli.alarms import alarm_line
from selflearn.cli.learn import learning_lines
from selflearn.cli.output import Cell, moment, pairs, show
from selflearn.cli.session import Session, session_of

if TYPE_CHECKING:
    from selflearn.store import Store

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Show what is served, whether it is healthy, what was gathered, and what learning does."""
    session = session_of(context)
    show(fetch(session), as_json, lambda found: pairs(_lines(found)))


def fetch(session: Session) -> dict[str, Any]:
    """The daemon's status, or what the state directory says when no daemon answers."""
    return session.either(lambda: session.call("GET", "/admin/status"), lambda store: stopped(session, store))


def stopped(session: Session, store: Store) -> dict[str, Any]:
    """The status as the state directory alone tells it."""
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
        "answering_sha256": None,
        "resident": [],
        "requests": {"running": 0, "waiting": 0},
        "served": overview.served(store, session.learner),
        "canary": overview.canary(store, session.learner),
        "kept_candidates": overview.kept_candidates(settings.state),
        "pins": overview.pins(store, session.learner),
        "audit_digest": overview.audit_digest(store),
        "counts": counts(store, session.learner),
        "alarm": overview.last_alarm(store, session.learner),
        "learning": overview.learning(store, session.learner, settings.learning),
    }


def _lines(found: dict[str, Any]) -> list[tuple[str, Cell]]:
    from selflearn.versions import compare_served

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
    if (problem := compare_served(found)["problem"]) is not None and found["answering"] == served["version"]:
        lines.insert(2, ("weights", problem))
    if found["canary"] is not None:
        lines.insert(2, ("canary", canary_line(found["canary"])))
    if found["pins"]:
        lines.insert(2, ("pinned", pins_line(found["pins"])))
    if (alarm := found.get("alarm")) is not None:
        lines.append(("last alarm", f"{moment(alarm['created_at'])} {alarm_line(alarm)}"))
    if (kept := found["kept_candidates"])["updates"]:
        numbers = ", ".join(str(number) for number in kept["updates"])
        lines.append(("kept candidates", f"{numbers} ({kept['bytes'] / 1e6:.1f} MB), not promoted"))
    return lines + learning_lines(found["learning"])


def pins_line(pins: list[dict[str, Any]]) -> str:
    """Which versions are kept, and which one is held in service."""
    return ", ".join(f"{pin['version']}{' (held)' if pin['held'] else ''}" for pin in pins) or "none"


def canary_line(canary: dict[str, Any] | None) -> str:
    """Which version tries which share of the conversations, and for how long."""
    if canary is None:
        return "none"
    end = "it is promoted or aborted" if canary["until"] is None else moment(canary["until"])
    return f"version {canary['version']} ({canary['name']}), {canary['share']:.4g} of the conversations, until {end}"


def _served(served: dict[str, Any]) -> str:
    name = "the base model" if served["version"] == 0 else f"version {served['version']}"
    since = "" if served["since"] is None else f", {served['action']} {moment(served['since'])}"
    since += ", forced against the gate" if served["forced"] else ""
    return f"{name} ({(served['sha256'] or '?')[:12]}){since}"


def _sum(counts: dict[str, int]) -> str:
    parts = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    return f"{sum(counts.values())}" + (f" ({parts})" if parts else "")
