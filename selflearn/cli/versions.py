"""``selflearn versions``: what was made, and whether it is intact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli.charts import NO_CURVE, print_curves
from selflearn.cli.completion import versions_here
from selflearn.cli.output import DASH, message, moment, show, table, tree
from selflearn.cli.prune import prune
from selflearn.cli.reproduce import reproduce
from selflearn.cli.session import Session, session_of
from selflearn.cli.why import version_or_base

if TYPE_CHECKING:
    from selflearn.store import Store

app = typer.Typer(help="List, show and verify versions.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Version = Annotated[
    int,
    typer.Argument(
        metavar="N", min=0, help="Number of the version; 0 is the base model.", autocompletion=versions_here
    ),
]
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
    show(found, as_json, _print_shown)


@app.command("verify")
def verify(
    context: typer.Context,
    number: Annotated[
        int | None,
        typer.Argument(metavar="N", min=0, help="One version; all if left out.", autocompletion=versions_here),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check every file of a version against its manifest, and that what answers is what the rollout log names.

    Without N: all versions, and the kept candidates that were not promoted. Exit code 1 if one is damaged, or if
    another version answers than should. Those whose files were removed on purpose are told, and are no failure.
    """
    session = session_of(context)
    found: dict[str, Any] = _verify_all(session) if number is None else {"versions": [_verify(session, number)]}
    show(found, as_json, _print_verified)
    checked = [*found["versions"], *found.get("refused", ())]
    if any(result["intact"] is False for result in checked) or found.get("served", {}).get("problem"):
        raise typer.Exit(FAILED)


app.command("reproduce")(reproduce)
app.command("prune")(prune)


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


def _verify_all(session: Session) -> dict[str, Any]:
    def local(store: Store) -> dict[str, Any]:
        from selflearn.cli.status import stopped
        from selflearn.versions import compare_served, verify_all

        found = verify_all(store, session.settings.state, session.learner)
        return {**found, "served": compare_served(stopped(session, store))}

    return session.either(lambda: session.call("POST", "/admin/verify", {}, timeout=VERIFY_SECONDS), local)


def _print_verified(found: dict[str, Any]) -> None:
    rows = [(row["version"], _state(row), row["files"], row["problem"]) for row in found["versions"]]
    rows += [
        (f"{row['version']} (refused)", _state(row), row["files"], row["problem"]) for row in found.get("refused", ())
    ]
    table(("version", "state", "files", "problem"), rows)
    if served := found.get("served"):
        message(served["problem"] or f"Version {served['version']} is served, as the rollout log says.")


def _state(row: dict[str, Any]) -> str:
    if (removed := row["removed"]) is not None:
        return f"removed {moment(removed['at'])} ({removed['because']})"
    return "intact" if row["intact"] else "damaged"


def _print_shown(found: dict[str, Any]) -> None:
    tree({name: value for name, value in found.items() if name != "curve"})
    print_curves(found.get("curve") or NO_CURVE)


def _state_of(row: dict[str, Any]) -> str:
    words = [name for name in ("served", "forced") if row[name]]
    return ", ".join(words)


def _print_list(found: dict[str, Any]) -> None:
    rows = [
        (
            row["name"],
            _state_of(row),
            DASH if row["parent"] is None else version_or_base(row["parent"]),
            moment(row["created_at"]),
            row["trigger"],
            (row["adapter_sha256"] or "")[:12],
        )
        for row in found["versions"]
    ]
    table(("version", "state", "made from", "when", "started by", "sha256"), rows)
