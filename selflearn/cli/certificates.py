"""``selflearn data certificates`` and ``data certificate N``: what was forgotten, and what can be proved of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli.data import app
from selflearn.cli.output import message, moment, pairs, show, table
from selflearn.cli.progress import spinner
from selflearn.cli.session import Session, session_of

if TYPE_CHECKING:
    from selflearn.store import Store

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
FAILED = 1
POLL_SECONDS = 0.5


@app.command("certificates")
def certificates(context: typer.Context, as_json: Json = False) -> None:
    """List the certificates of what was forgotten, latest first."""
    session = session_of(context)

    def local(store: Store) -> dict[str, Any]:
        from selflearn.versions.certificates import list_certificates

        return {"certificates": list_certificates(store, session.learner)}

    show(session.either(lambda: session.call("GET", "/admin/data/certificates"), local), as_json, _print_list)


@app.command("certificate")
def certificate(
    context: typer.Context,
    number: Annotated[int, typer.Argument(metavar="N", help="Its number.", min=1)],
    verify: Annotated[bool, typer.Option("--verify", help="Compare it with the database and the files.")] = False,
    as_json: Json = False,
) -> None:
    """Show what a forgetting did; with --verify check it: exit code 1 if the state says otherwise."""
    session = session_of(context)
    if not verify:
        show(_shown(session, number), as_json, _print_certificate)
        return

    def local(store: Store) -> dict[str, Any]:
        from selflearn.versions.certificates import verify_certificate

        return verify_certificate(store, session.settings.state, number)

    path = f"/admin/data/certificates/{number}/verify"
    found = session.either(lambda: session.call("POST", path, {}), local)
    for problem in found["problems"]:
        message(f"{problem}.")
    show(found, as_json, lambda data: pairs([(name, data[name]) for name in ("certificate", "sha256", "holds")]))
    if not found["holds"]:
        raise typer.Exit(FAILED)


def wait_for_rebuild(session: Session, begun: int) -> int:
    """Waits until the versions are made again; returns the number of the certificate that says so.

    Raises ``DaemonUnreachable`` if no daemon runs that could make them.
    """
    with spinner("making versions again") as tell:
        while (rebuild := session.call("GET", "/admin/learn")["rebuild"]) is not None:
            tell(f"making versions again: {len(rebuild['made'])} made, {rebuild['left']} left")
            time.sleep(POLL_SECONDS)
    found = session.call("GET", "/admin/data/certificates")["certificates"]
    return next((int(row["certificate"]) for row in found if row["follows"] == begun), begun)


def _shown(session: Session, number: int) -> dict[str, Any]:
    def local(store: Store) -> dict[str, Any]:
        from selflearn.versions.certificates import show_certificate

        return show_certificate(store, number)

    return session.either(lambda: session.call("GET", f"/admin/data/certificates/{number}"), local)


def _print_list(found: dict[str, Any]) -> None:
    rows = [
        (row["certificate"], moment(row["created_at"]), row["by"], row["rows"], row["versions"], row["state"])
        for row in found["certificates"]
    ]
    table(("certificate", "written", "by", "rows", "versions gone", "state"), rows)


def _print_certificate(found: dict[str, Any]) -> None:
    document = found["document"]
    asked, tombstones = document["asked"], document["tombstones"]
    pairs(
        [
            ("certificate", found["certificate"]),
            ("state", document["state"]),
            ("follows", document["follows"]),
            ("asked", f"{moment(asked['at'])} by {asked['actor']}: {asked['by']} with SHA-256 {asked['sha256']}"),
            *((name, number) for name, number in document["counts"].items()),
            ("tombstones", f"{tombstones['number']}, SHA-256 {tombstones['sha256']}"),
            ("versions gone", ", ".join(str(row["version"]) for row in document["versions"])),
            *((f"update {row['update']}", _told(row)) for row in document.get("made_again", ())),
            ("traces found", document["traces"]),
            ("copies that keep it", ", ".join(document["copies"])),
            ("audit digest", document["audit_digest"]),
            ("sha256", found["sha256"]),
        ]
    )


def _told(made: dict[str, Any]) -> str:
    became = "" if made["became"] is None else f" as {made['became']}"
    because = "" if made["outcome"] == "promoted" else f": {made['reason']}"
    return f"{made['outcome']}{became}{because}"
