"""``selflearn audit``: who did what, and whether the log of it is whole."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli.output import moment, pairs, show, table
from selflearn.cli.session import session_of

if TYPE_CHECKING:
    from selflearn.store import Store

app = typer.Typer(help="See what operators and the daemon did, and check that the log of it is whole.")
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
FAILED = 1
VERIFY_SECONDS = 600.0


@app.command("list")
def list_(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List who did what, newest first."""
    session = session_of(context)

    def local(store: Store) -> dict[str, Any]:
        from selflearn.store.audit import list_audit

        return {"audit": list_audit(store.connection(), limit)}

    found = session.either(lambda: session.call("GET", f"/admin/audit?limit={limit}"), local)
    rows = [
        (row["id"], moment(row["at"]), row["actor"], row["action"], row["detail"], row["digest"][:12])
        for row in found["audit"]
    ]
    show(found, as_json, lambda _: table(("id", "when", "by", "did", "detail", "digest"), rows))


@app.command("verify")
def verify(
    context: typer.Context,
    expect: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="A digest noted before (status --json, a backup): it must be there."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that no row was changed, taken out or put in between. Exit code 1 if one was.

    That the last rows were cut off shows only with --expect.
    """
    session = session_of(context)

    def local(store: Store) -> dict[str, Any]:
        from selflearn.store.audit import verify_audit

        chain = verify_audit(store.connection(), expect)
        return {**asdict(chain), "holds": chain.holds}

    def remote() -> dict[str, Any]:
        return session.call("POST", "/admin/audit/verify", {"expect": expect}, timeout=VERIFY_SECONDS)

    found = session.either(remote, local)
    show(found, as_json, lambda _: pairs([("audit log", _judged(found)), ("digest", found["digest"])]))
    if not found["holds"]:
        raise typer.Exit(FAILED)


def _judged(found: dict[str, Any]) -> str:
    if found["broken_at"] is not None:
        return f"broken: row {found['broken_at']} does not follow from the one before it"
    if found["contains_expected"] is False:
        return f"cut off, or of another history: none of its {found['rows']} rows has the expected digest"
    return f"intact: {found['rows']} rows"
