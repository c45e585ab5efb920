"""``selflearn versions`` and ``selflearn why``: what was made, whether it is intact, and how it came to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli.output import DASH, message, moment, pairs, show, table, tree, verdict_table
from selflearn.cli.reproduce import reproduce
from selflearn.cli.session import Session, session_of

if TYPE_CHECKING:
    from selflearn.store import Store

app = typer.Typer(help="List, show and verify versions.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Version = Annotated[int, typer.Argument(metavar="N", min=0, help="Number of the version; 0 is the base model.")]
FAILED = 1
VERIFY_SECONDS = 600.0


@app.command("list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """List all versions, the served one marked."""
    session = session_of(context)
    show(_list(session), as_json, _print_list)


@app.command("show")
def show_(context: typer.Context, number: Version, as_json: Json = False) -> None:
    """Show one version: its manifest, files and rollouts."""
    session = session_of(context)
    found = session.either(
        lambda: session.call("GET", f"/admin/versions/{number}"), lambda store: _show(session, store, number)
    )
    show(found, as_json, tree)


@app.command("verify")
def verify(
    context: typer.Context,
    number: Annotated[int | None, typer.Argument(metavar="[N]", min=0, help="One version; all if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Check every file of a version against its manifest. Exit code 1 if one is damaged."""
    session = session_of(context)
    numbers = [number] if number is not None else [int(row["version"]) for row in _list(session)["versions"]]
    results = [_verify(session, each) for each in numbers]
    rows = [
        (result["version"], "intact" if result["intact"] else "damaged", result["files"], result["problem"])
        for result in results
    ]
    show({"versions": results}, as_json, lambda _: table(("version", "state", "files", "problem"), rows))
    if not all(result["intact"] for result in results):
        raise typer.Exit(FAILED)


app.command("reproduce")(reproduce)


def why(
    context: typer.Context,
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="Number of the update.")],
    as_json: Json = False,
) -> None:
    """Tell the whole story of update N: what started it, what it learned from, what the gate found, what followed."""
    session = session_of(context)

    def local(store: Store) -> dict[str, Any]:
        from selflearn.versions import why as tell

        return tell(store, session.settings.state, number)

    show(session.either(lambda: session.call("GET", f"/admin/why/{number}"), local), as_json, _print_why)


def _list(session: Session) -> dict[str, Any]:
    def local(store: Store) -> dict[str, Any]:
        from selflearn.versions import list_versions

        return {"versions": list_versions(store, session.learner)}

    return session.either(lambda: session.call("GET", "/admin/versions"), local)


def _show(session: Session, store: Store, number: int) -> dict[str, Any]:
    from selflearn.versions import show_version

    return show_version(store, session.settings.state, number)


def _verify(session: Session, number: int) -> dict[str, Any]:
    def local(store: Store) -> dict[str, Any]:
        from selflearn.versions import verify_version

        return verify_version(store, session.settings.state, number)

    path = f"/admin/versions/{number}/verify"
    return session.either(lambda: session.call("POST", path, {}, timeout=VERIFY_SECONDS), local)


def _print_list(found: dict[str, Any]) -> None:
    rows = [
        (
            row["name"],
            "served" if row["served"] else "",
            DASH if row["parent"] is None else version_or_base(row["parent"]),
            moment(row["created_at"]),
            row["trigger"],
            (row["adapter_sha256"] or "")[:12],
        )
        for row in found["versions"]
    ]
    table(("version", "state", "made from", "when", "started by", "sha256"), rows)


def version_or_base(number: int) -> str:
    """``base`` for 0, ``v000007`` for 7."""
    return f"v{number:06d}" if number else "base"


def _print_why(story: dict[str, Any]) -> None:
    """The head as pairs, the examples as counts, the gate as a table, then the rest."""
    pairs(
        [
            ("update", f"{story['update']} ({story['outcome']})"),
            ("reason", story["reason"]),
            ("started by", story["trigger"]),
            ("made from", version_or_base(story["parent"])),
            ("when", f"{moment(story['started_at'])} to {moment(story['finished_at'])}"),
            ("seed", story["seed"]),
        ]
    )
    roles = [(role, found["count"], _sources(found["sources"])) for role, found in story["examples"].items()]
    table(("examples", "count", "from"), roles)
    verdict_table(story["verdict"])
    rollouts = [
        (moment(row["created_at"]), row["action"], row["from"], row["version"], row["actor"], row["reason"])
        for row in story["rollouts"]
    ]
    table(("rollouts", "action", "from", "to", "by", "reason"), rollouts, empty="It was never put into service.")
    message("Every example, the configuration and the report: add --json.")


def _sources(sources: dict[str, int]) -> str:
    return ", ".join(f"{source} {count}" for source, count in sources.items())
