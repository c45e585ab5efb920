"""``selflearn data forget``, ``retain`` and ``vacuum``; ``selflearn backup`` and ``restore``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from selflearn.cli.certificates import wait_for_rebuild
from selflearn.cli.data import app
from selflearn.cli.output import confirm, message, moment, pairs, show
from selflearn.cli.progress import bar
from selflearn.cli.session import Session, session_of

if TYPE_CHECKING:
    from selflearn.store import Store

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing; tell what would happen.")]
#: Forgetting and copying take their time with a large store.
LONG_SECONDS = 3600.0
DEFAULT_REASON = "asked by the operator"
MEGABYTE = 1_000_000


@app.command("forget")
def forget(
    context: typer.Context,
    user: Annotated[str | None, typer.Option(help="All that this user sent.")] = None,
    source: Annotated[str | None, typer.Option(help="All that came with this key, or from import:NAME.")] = None,
    interaction: Annotated[
        str | None, typer.Option(metavar="ID", help="This answer, and later turns that have it.")
    ] = None,
    match: Annotated[str | None, typer.Option(metavar="TEXT", help="All that has these words (in any case).")] = None,
    reason: Annotated[str, typer.Option(help="Why; it is kept, so name nobody.")] = DEFAULT_REASON,
    rebuild: Annotated[
        bool, typer.Option("--rebuild/--no-rebuild", help="Make the versions that go again, without it.")
    ] = True,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until that is done.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete what somebody wrote from everywhere in the store, and from the versions that have learned from it."""
    given = {"user": user, "source": source, "interaction": interaction, "match": match}
    named = {by: value for by, value in given.items() if value is not None}
    if len(named) != 1:
        raise typer.BadParameter("give exactly one of --user, --source, --interaction and --match")
    session = session_of(context)
    body = {**named, "reason": reason, "rebuild": rebuild, "dry_run": True}
    if dry_run or not yes:
        found = _forget(session, body)
        _tell_forgotten(found)
        if dry_run or not _any(found):
            show(found, as_json, _print_forgotten)
            return
        confirm("Delete it for good?")
    done = _forget(session, {**body, "dry_run": False})
    _tell_forgotten(done)
    if wait and done["to_rebuild"]:
        done["certificate"] = wait_for_rebuild(session, done["certificate"])
    show(done, as_json, _print_forgotten)


@app.command("retain")
def retain(context: typer.Context, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Delete what is older than experience.keep_days or more than experience.max_megabytes, as daemons do daily."""
    session = session_of(context)

    def local(store: Store) -> dict[str, Any]:
        from dataclasses import asdict

        from selflearn.experience.keeping.retention import retain as retain_here

        return asdict(retain_here(store, session.learner, session.settings.experience, store.now, dry_run=dry_run))

    body = {"dry_run": dry_run}
    done = session.either(lambda: session.call("POST", "/admin/data/retain", body, timeout=LONG_SECONDS), local)
    if not done["fits"]:
        message("More than experience.max_megabytes is in use: what is left is needed. See docs/experience.md.")
    show(done, as_json, lambda data: pairs([(name.replace("_", " "), value) for name, value in data.items()]))


@app.command("vacuum")
def vacuum(context: typer.Context, as_json: Json = False) -> None:
    """Write the database file anew without free space. The daemon must be stopped."""
    from selflearn.store.cleaning import rewrite
    from selflearn.store.directory import hold_state

    session = session_of(context)
    with session.store() as store, hold_state(session.settings.state):
        before, after = rewrite(store)
    message(f"The database had {before / MEGABYTE:.1f} MB and has {after / MEGABYTE:.1f} MB now.")
    show({"bytes_before": before, "bytes_after": after}, as_json, lambda data: pairs(list(data.items())))


def backup(
    context: typer.Context,
    destination: Annotated[
        Path | None, typer.Argument(metavar="DEST", help="A new directory; backups/TIME in the state if left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Copy the database and all versions into one directory, while the daemon runs or not."""
    session = session_of(context)
    elsewhere = session.url_flag is not None and session.state_flag is None
    if elsewhere or not session.database.is_file():
        if destination is not None:
            raise typer.BadParameter("only a backup of a state directory here has a place; name that with --state")
        done = session.call("POST", "/admin/backup", {}, timeout=LONG_SECONDS)
    else:
        from selflearn.backup import back_up

        with bar() as tell:
            done = back_up(session.settings.state, destination, tell=tell)
    for name, problem in done["left_out"].items():
        message(f"Left out: {name}. {problem}")
    show(done, as_json, _print_backup)


def restore(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A directory that 'selflearn backup' made.")],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Put a backup into the state directory; what was there is kept aside. The daemon must be stopped."""
    from selflearn.restore import occupied
    from selflearn.restore import restore as restore_here

    session = session_of(context)
    state = session.settings.state
    if occupied(state) and not yes:
        yes = confirm(f"{state} has a state already. Keep it aside and restore?")
    done = restore_here(source, state, actor=session.actor, replace=yes)
    if done["forgotten_again"]:
        message(
            f"{done['forgotten_again']} rows that had been forgotten since the backup was made are forgotten again."
        )
    message("Start the daemon with the same model: it checks that the versions fit.")
    show(done, as_json, _print_restored)


def _forget(session: Session, body: dict[str, Any]) -> dict[str, Any]:
    def local(store: Store) -> dict[str, Any]:
        return _forget_here(session, store, body)

    return session.either(lambda: session.call("POST", "/admin/data/forget", body, timeout=LONG_SECONDS), local)


def _forget_here(session: Session, store: Store, body: dict[str, Any]) -> dict[str, Any]:
    """Without a daemon; none may start meanwhile. What an update left that was killed goes, too."""
    from selflearn.backup import list_copies
    from selflearn.experience.keeping.selection import By, Selector
    from selflearn.store.directory import hold_state
    from selflearn.versions import work_directory
    from selflearn.versions.files import remove_tree
    from selflearn.versions.forgetting import forget as forget_here

    selector = next(Selector(by, body[by]) for by in get_args(By) if by in body)
    with hold_state(session.settings.state) as state:
        return forget_here(
            store,
            state,
            session.learner,
            selector,
            actor=session.actor,
            reason=body["reason"],
            now=store.now,
            end_update=lambda number: remove_tree(work_directory(state, number)),
            copies=lambda: list_copies(state),
            rebuild=body["rebuild"],
            dry_run=body["dry_run"],
        )


def _any(found: dict[str, Any]) -> bool:
    return any(found[name] for name in ("interactions", "feedback", "examples", "imports"))


def _tell_forgotten(done: dict[str, Any]) -> None:
    """What the numbers do not say: where it still is."""
    would = "would be" if done["dry_run"] else "are"
    counted = ", ".join(f"{done[name]} {name}" for name in ("interactions", "feedback", "examples", "imports"))
    message(f"{counted} {would} forgotten.")
    if done["versions_gone"]:
        went = "would go" if done["dry_run"] else "are gone"
        message(f"Versions {_listed(done['versions_gone'])} knew it and {went}; version {done['serves']} serves.")
    if done["to_rebuild"]:
        message(
            f"Updates {_listed(done['to_rebuild'])} are made again without it, by a daemon, and the gate judges them "
            "again. See: selflearn learn status."
        )
    if done["copies"]:
        message(f"Older copies may still have it; delete them by hand: {', '.join(done['copies'])}.")
    if not done.get("log_emptied", True):
        message("The write-ahead log could not be emptied: a reader held it. Run the same command again.")
    if done.get("traces"):
        message(
            "Traces are left in free space of the database (stop the daemon, then: selflearn data vacuum), or in what "
            "versions that are kept have answered (answers.jsonl)."
        )


def _print_forgotten(done: dict[str, Any]) -> None:
    names = ["interactions", "feedback", "examples", "emptied", "imports", "updates_ended", "learned_by"]
    names += ["versions_gone", "to_rebuild", "serves", "certificate"]
    pairs([(name.replace("_", " "), done[name] if done[name] != [] else None) for name in names])


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _print_backup(done: dict[str, Any]) -> None:
    size = sum(file["bytes"] for file in done["files"].values())
    pairs(
        [
            ("directory", done["directory"]),
            ("when", moment(done["created_at"])),
            ("size", f"{size / MEGABYTE:.1f} MB in {len(done['files'])} files"),
            *done["counts"].items(),
            ("sha256", done["sha256"]),
        ]
    )


def _print_restored(done: dict[str, Any]) -> None:
    served = ", ".join(f"{learner}: {version}" for learner, version in done["served"].items())
    pairs(
        [
            ("state", done["state"]),
            ("made at", moment(done["made_at"])),
            ("served", served),
            *done["counts"].items(),
            ("kept aside", done["kept_aside"]),
        ]
    )
