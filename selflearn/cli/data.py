"""``selflearn data``: what was recorded, what may be learned from it, and why some of it may not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlencode

import typer

from selflearn.cli.output import confirm, message, moment, pairs, show, table, tree
from selflearn.cli.session import Session, session_of
from selflearn.cli.why import names_interaction

if TYPE_CHECKING:
    from sqlite3 import Connection

    from selflearn.experience import Order
    from selflearn.store import Store

app = typer.Typer(help="Look at, import, export and remove what was recorded.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")]
Source = Annotated[str | None, typer.Option(metavar="NAME", help="Only what came with this key, or from import:NAME.")]
Contains = Annotated[str | None, typer.Option(metavar="TEXT", help="Only what has this text, in any case.")]
Reason = Annotated[str, typer.Option(help="Why; it stays in the audit log.")]
#: A source may have millions of rows.
LONG_SECONDS = 600.0
DEFAULT_REASON = "asked by the operator"
ANSWER = "chatcmpl-"


@app.command("list")
def list_(
    context: typer.Context,
    state: Annotated[str | None, typer.Option(help="Only in this state: fresh, trained, quarantined …")] = None,
    reason: Annotated[str | None, typer.Option(help="Only in quarantine for this reason: contradiction …")] = None,
    source: Source = None,
    kind: Annotated[str | None, typer.Option(help="Only of this kind: correction, rating …")] = None,
    contains: Contains = None,
    before: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only older ones than example N.")] = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List the newest examples: what may train, what has trained, and what is kept from training."""
    wanted = {"state": state, "reason": reason, "source": source, "kind": kind, "contains": contains, "before": before}
    found = _list(session_of(context), "examples", {**wanted, "limit": limit})
    show(found, as_json, lambda data: _print_examples(data["examples"], "There are no such examples."))


@app.command("interactions")
def interactions(
    context: typer.Context,
    state: Annotated[str | None, typer.Option(help="Only in this state: completed, failed …")] = None,
    source: Source = None,
    contains: Contains = None,
    before: Annotated[str | None, typer.Option(metavar="ID", help="Only older ones than this.")] = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List the newest questions and answers, and how much came of each."""
    wanted = {"state": state, "source": source, "contains": contains, "before": before, "limit": limit}
    found = _list(session_of(context), "interactions", wanted)
    headings = ("when", "id", "source", "version", "state", "question", "answer", "feedback", "examples")
    rows = [(moment(row["created_at"]), *(row[name] for name in headings[1:])) for row in found["interactions"]]
    show(found, as_json, lambda _: table(headings, rows, empty="There are no such interactions."))


@app.command("show")
def show_(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="N|ID", help="An example's number, or an answer's id (chatcmpl-…).")],
    as_json: Json = False,
) -> None:
    """Show an example or an interaction with all that is known of it."""
    session = session_of(context)
    if not name.isdecimal() and not names_interaction(name):
        raise typer.BadParameter(f"{name!r} is neither a number nor an id; expected 12 or {ANSWER}…")

    def local(store: Store) -> dict[str, Any]:
        from selflearn.experience import show_example, show_interaction

        if name.isdecimal():
            return show_example(store, session.learner, int(name))
        return show_interaction(store, session.learner, name)

    kind = "examples" if name.isdecimal() else "interactions"
    found = session.either(lambda: session.call("GET", f"/admin/data/{kind}/{quote(name, safe='')}"), local)
    show(found, as_json, tree)


@app.command("sources")
def sources(context: typer.Context, as_json: Json = False) -> None:
    """Show where examples come from, what became of them, and who contradicts whom."""
    session = session_of(context)

    def local(store: Store) -> dict[str, Any]:
        from selflearn.experience import sources as sources_here

        return {"sources": sources_here(store, session.learner)}

    found = session.either(lambda: session.call("GET", "/admin/data/sources"), local)
    headings = ("source", "examples", "quarantine", "contradictions", "feedback")
    rows = [
        (row["source"], _counts(row["examples"]), _counts(row["quarantine"]), row["contradictions"], row["feedback"])
        for row in found["sources"]
    ]
    show(found, as_json, lambda _: table(headings, rows, empty="There are no examples yet."))


@app.command("quarantine")
def quarantine(
    context: typer.Context,
    examples: Annotated[list[int] | None, typer.Argument(metavar="N...", min=1, help="Numbers of examples.")] = None,
    source: Annotated[str | None, typer.Option(metavar="NAME", help="All that came from this source.")] = None,
    reason: Reason = DEFAULT_REASON,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Keep examples, or all of a source, from training. Without arguments: list what is in quarantine, and why."""
    session = session_of(context)
    if examples and source is not None:
        raise typer.BadParameter("give numbers or --source, not both")
    if not examples and source is None:
        found = _list(session, "examples", {"state": "quarantined", "limit": 1000})
        show(found, as_json, lambda data: _print_examples(data["examples"], "Nothing is in quarantine."))
        return
    body = {"reason": reason, **({"examples": examples} if examples else {"source": source})}
    if source is not None and not (yes or dry_run):
        number = _quarantine(session, {**body, "dry_run": True})["quarantined"]
        confirm(f"Put {number} examples of {source} into quarantine?")
    done = _quarantine(session, {**body, "dry_run": dry_run})
    _tell(done)
    show(done, as_json, lambda data: pairs([(name, data[name]) for name in ("quarantined", "unchanged")]))


@app.command("release")
def release(
    context: typer.Context,
    examples: Annotated[list[int], typer.Argument(metavar="N...", min=1, help="Numbers of examples.")],
    reason: Reason = DEFAULT_REASON,
    as_json: Json = False,
) -> None:
    """Let examples train again, and vouch for them: what contradicts them is overruled."""
    session = session_of(context)
    body = {"examples": examples, "reason": reason}

    def local(connection: Connection, order: Order) -> dict[str, Any]:
        from selflearn.experience import release as release_here

        return release_here(connection, order, examples)

    done = _ordered(session, "release", body, local)
    rows = [(row["id"], row["state"]) for row in done["released"]]
    if done["superseded"]:
        message(f"Overruled by them: {_numbers(done['superseded'])}.")
    if done["unchanged"]:
        message(f"Neither in quarantine nor suspect: {_numbers(done['unchanged'])}.")
    show(done, as_json, lambda _: table(("example", "state"), rows, empty="Nothing changed."))


def _list(session: Session, what: str, wanted: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in wanted.items() if value is not None}

    def local(store: Store) -> dict[str, Any]:
        from selflearn import experience

        listed: Callable[..., list[dict[str, Any]]] = experience.list_examples
        if what == "interactions":
            listed = experience.list_interactions
        return {what: listed(store, session.learner, **given)}

    return session.either(lambda: session.call("GET", f"/admin/data/{what}?{urlencode(given)}"), local)


def _quarantine(session: Session, body: dict[str, Any]) -> dict[str, Any]:
    def local(connection: Connection, order: Order) -> dict[str, Any]:
        from selflearn.experience import quarantine_examples, quarantine_source

        if "source" in body:
            return quarantine_source(connection, order, body["source"], dry_run=body["dry_run"])
        return quarantine_examples(connection, order, body["examples"], dry_run=body["dry_run"])

    return _ordered(session, "quarantine", body, local)


def _ordered(
    session: Session, deed: str, body: dict[str, Any], local: Callable[[Connection, Order], dict[str, Any]]
) -> dict[str, Any]:
    def here(store: Store) -> dict[str, Any]:
        from selflearn.experience import Order

        order = Order(session.learner, session.actor, body["reason"], store.now())
        return store.write(lambda connection: local(connection, order))

    return session.either(lambda: session.call("POST", f"/admin/data/{deed}", body, timeout=LONG_SECONDS), here)


def _tell(done: dict[str, Any]) -> None:
    """What follows from a quarantine, for people."""
    learned = done["learned_from"]
    if done["freed"]:
        message(f"Nothing contradicts these any more, so they may train: {_numbers(done['freed'])}.")
    if learned:
        names = ", ".join(f"{row['version']} (from {row['examples']})" for row in learned)
        message(
            f"Versions learned from them and still know it: {names}. No later update replays them. To go back before "
            f"all of these versions: selflearn rollback {learned[0]['parent']}"
        )


def _print_examples(examples: Sequence[dict[str, Any]], empty: str) -> None:
    headings = ("example", "state", "reason", "kind", "source", "question", "answer", "detail")
    rows = [
        (
            row["id"],
            row["state"],
            row["reason"],
            row["kind"],
            row["source"],
            row["question"],
            row["target"],
            row["detail"],
        )
        for row in examples
    ]
    table(headings, rows, empty=empty)


def _counts(counted: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counted.items()))


def _numbers(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids))
