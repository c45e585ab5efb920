"""``selflearn feedback``: say what was right or wrong about an answer, and see what was said."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli.output import message, moment, pairs, show, table
from selflearn.cli.session import ACTOR, session_of

if TYPE_CHECKING:
    from selflearn.store import Store

app = typer.Typer(help="Say what is right or wrong about answers.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("add")
def add(
    context: typer.Context,
    interaction: Annotated[str | None, typer.Argument(metavar="ID", help="The answer's id (chatcmpl-…).")] = None,
    conversation: Annotated[str | None, typer.Option(metavar="NAME", help="Instead of ID: reward all of it.")] = None,
    good: Annotated[bool, typer.Option("--good", help="The answer was right.")] = False,
    bad: Annotated[bool, typer.Option("--bad", help="The answer was wrong.")] = False,
    correct: Annotated[str | None, typer.Option("--correct", metavar="TEXT", help="The right answer.")] = None,
    better: Annotated[str | None, typer.Option("--better", metavar="TEXT", help="A better answer.")] = None,
    over: Annotated[
        str | None, typer.Option("--over", metavar="ID", help="It is better than that answer to the same.")
    ] = None,
    reward: Annotated[float | None, typer.Option("--reward", help="How good it was, on your own scale.")] = None,
    comment: Annotated[str | None, typer.Option("--comment", metavar="TEXT", help="What you think of it.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why, in your words.")] = None,
    user: Annotated[str | None, typer.Option(help="Whom you speak for.")] = None,
    as_json: Json = False,
) -> None:
    """Say one thing about an answer: --good, --bad, --correct, --better, --over, --reward or --comment."""
    choices: dict[str, dict[str, Any] | None] = {
        "--good": {"kind": "rating", "value": 1.0} if good else None,
        "--bad": {"kind": "rating", "value": -1.0} if bad else None,
        "--correct TEXT": None if correct is None else {"kind": "correction", "text": correct},
        "--better TEXT": None if better is None else {"kind": "preference", "text": better},
        "--over ID": None if over is None else {"kind": "preference", "over": over},
        "--reward NUMBER": None if reward is None else {"kind": "reward", "value": reward},
        "--comment TEXT": None if comment is None else {"kind": "comment", "text": comment},
    }
    said = _only_one(choices)
    if (interaction is None) == (conversation is None):
        raise typer.BadParameter("give either the ID of an answer or --conversation NAME")
    subject = {"interaction_id": interaction, "conversation": conversation}
    _send(context, {**subject, **said, "reason": reason, "user": user}, as_json)


def _only_one(choices: dict[str, dict[str, Any] | None]) -> dict[str, Any]:
    given = [said for said in choices.values() if said is not None]
    if len(given) != 1:
        raise typer.BadParameter(f"give exactly one of {', '.join(choices)}")
    return given[0]


def _send(context: typer.Context, given: dict[str, Any], as_json: bool) -> None:
    session = session_of(context)

    def local(store: Store) -> dict[str, Any]:
        from selflearn.experience import add_feedback

        settings = session.settings.experience
        receipt = add_feedback(store, learner=session.learner, source=ACTOR, settings=settings, **given)
        told = {name: value for name, value in asdict(receipt).items() if name != "negative"}
        named = {name: given[name] for name in ("interaction_id", "conversation")}
        return {"object": "selflearn.feedback", **told, **named}

    done = session.either(lambda: session.call("POST", "/v1/feedback", given), local)
    message(done["detail"])
    show(done, as_json, lambda data: pairs([(name, data[name]) for name in ("id", "status", "example_id")]))


@app.command("list")
def list_(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List the newest feedback and the examples that it became."""
    session = session_of(context)

    def local(store: Store) -> dict[str, Any]:
        from selflearn.experience import list_feedback

        return {"feedback": list_feedback(store, session.learner, limit)}

    found = session.either(lambda: session.call("GET", f"/admin/feedback?limit={limit}"), local)
    rows = [
        (
            moment(row["created_at"]),
            row["kind"] if row["signal"] is None else f"{row['kind']} ({row['signal']})",
            _said(row),
            row["status"],
            f"{row['example_id']} {row['example_state']}" if row["example_id"] is not None else None,
            row["interaction_id"] or row["conversation"],
        )
        for row in found["feedback"]
    ]
    headings = ("when", "kind", "said", "status", "example", "on")
    show(found, as_json, lambda _: table(headings, rows, empty="No feedback yet; see 'selflearn feedback add --help'."))


def _said(row: dict[str, Any]) -> str | None:
    if row["value"] is not None:
        return f"{row['value']:+g}"
    return f"over {row['text']}" if row["rejected"] is not None and row["interaction_id"] else row["text"]
