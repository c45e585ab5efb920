"""``selflearn versions prune``: removes the files of versions that nothing needs any more."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli.output import message, show, table
from selflearn.cli.session import session_of

if TYPE_CHECKING:
    from selflearn.store import Store

MEGABYTE = 1_000_000
PRUNE_SECONDS = 600.0


def prune(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Remove the files of versions that are neither needed nor young (settings: versions); what they were stays told.

    The daemon does so every day.
    """
    session = session_of(context)

    def local(store: Store) -> dict[str, Any]:
        from selflearn.versions.retention import prune as prune_here

        settings = session.settings
        done = prune_here(
            store, settings.state, session.learner, settings.versions, actor=session.actor, dry_run=dry_run
        )
        return asdict(done)

    body = {"dry_run": dry_run}
    done = session.either(lambda: session.call("POST", "/admin/versions/prune", body, timeout=PRUNE_SECONDS), local)
    size = sum(gone["bytes"] for gone in done["removed"]) / MEGABYTE
    message(f"{len(done['removed'])} versions {'would go' if dry_run else 'went'} ({size:.1f} MB).")
    show(done, as_json, _print)


def _print(done: dict[str, Any]) -> None:
    state = "would go" if done["dry_run"] else "removed"
    rows = [(row["name"], "kept", ", ".join(row["because"])) for row in done["kept"]]
    rows += [(row["name"], state, "") for row in done["removed"]]
    table(("version", "state", "because"), sorted(rows, reverse=True))
