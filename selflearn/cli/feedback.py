"""``selflearn feedback``: say what was right or wrong about an answer, and see what was said."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli.output import message, moment, pairs, show, table
from selflearn.cli.session import ACTOR, session_of

if TYPE_CHECKING:
    from selflearn.store import Store

app = typer.Typer(help="Rate and correct answers.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("add")
def add(
    context: typer.Context,
    interaction: Annotated[str, typer.Argument(metavar="ID", help="The answer's id (chatcmpl-…).")],
    good: Annotated[bool, typer.Option("--good", help="The answer was right.")] = False,
    bad: Annotated[bool, typer.Option("--bad", help="The answer was wrong.")] = False,
    correct: Annotated[str | None, typer.Option("--correct", metavar="TEXT", help="The right answer.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why, in your words.")] = None,
    as_json: Json = False,
) -> None:
    """Rate an answer (--good or --bad), or give the right one (--correct TEXT)."""
    if (good, bad, correct is not None).count(True) != 1:
        raise typer.BadParameter("give exactly one of --good, --bad and --correct TEXT")
    session = session_of(context)
    given: dict[str, Any] = {"interaction_id": interaction, "reason": reason}
    given |= {"kind": "correction", "text": correct} if correct is not None else {"kind": "rating"}
    if correct is None:
        given["value"] = 1.0 if good else -1.0

    def local(store: Store) -> dict[str, Any]:
        from selflearn.experience import add_feedback

        judging = session.settings.judging
        receipt = add_feedback(store, learner=session.learner, source=ACTOR, judging=judging, **given)
        return {**asdict(receipt), "interaction_id": interaction, "kind": given["kind"]}

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
            row["kind"],
            row["text"] if row["value"] is None else f"{row['value']:+g}",
            row["status"],
            f"{row['example_id']} {row['example_state']}" if row["example_id"] is not None else None,
            row["interaction_id"],
        )
        for row in found["feedback"]
    ]
    headings = ("when", "kind", "said", "status", "example", "interaction")
    show(found, as_json, lambda _: table(headings, rows, empty="No feedback yet; see 'selflearn feedback add --help'."))
