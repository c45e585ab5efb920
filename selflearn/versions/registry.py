"""The registry: updates from their start to their end, and the versions that come of them."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

from selflearn.errors import (
    Conflict,
    ModelError,
    NotFound,
    RefusedByGate,
    UpdateError,
    UpdateRunning,
    VersionDamaged,
)
from selflearn.experience import Snapshot, leave_out, note_refusal, note_replays, record_roles
from selflearn.store import Store, rows
from selflearn.versions.curves import TRAINING_LOG, learning_curve
from selflearn.versions.manifest import read_manifest, verify
from selflearn.versions.names import version_directory, version_name
from selflearn.versions.pins import AUTOMATIC, hold, refusal
from selflearn.versions.removal import removal_of, unknown_version
from selflearn.versions.rollouts import append, lineage, rollouts_of, served

ClosedState = Literal["refused", "inconclusive", "failed", "cancelled", "interrupted"]
_ALL: Final = 2**62  # more than there can be


def ensure_learner(
    connection: sqlite3.Connection,
    name: str,
    *,
    base_model: str,
    base_sha256: str,
    now: Callable[[], float] = time.time,
) -> None:
    """Registers a learner at its first start; later, checks that it still has the base that its versions adapt.

    Raises :class:`ModelError` if the base is another one and there are versions made for the old one.
    """
    found = rows(connection, "SELECT * FROM learners WHERE name = ?", (name,))
    if not found:
        connection.execute("INSERT INTO learners VALUES (?, ?, ?, ?)", (name, base_model, base_sha256, now()))
        return
    if found[0]["base_sha256"] == base_sha256:
        return
    if rows(connection, "SELECT 1 FROM versions WHERE learner = ? LIMIT 1", (name,)):
        raise ModelError(
            f"The versions of learner {name!r} adapt {found[0]['base_model']} ({found[0]['base_sha256'][:12]}), but "
            f"{base_model} ({base_sha256[:12]}) is to be served. Start with the old model, or use another state "
            "directory or learner for the new one."
        )
    connection.execute(
        "UPDATE learners SET base_model = ?, base_sha256 = ? WHERE name = ?", (base_model, base_sha256, name)
    )


def open_update(
    connection: sqlite3.Connection,
    learner: str,
    *,
    parent: int,
    trigger: str,
    seed: int,
    config: Mapping[str, Any],
    snapshot: Snapshot,
    now: Callable[[], float] = time.time,
) -> int:
    """Records the start of an update with the roles of its examples; returns its number, the version it may become.

    Raises :class:`UpdateRunning` if the learner has one running.
    """
    running = rows(connection, "SELECT id FROM updates WHERE learner = ? AND state = 'running'", (learner,))
    if running:
        raise UpdateRunning(
            f"Update {running[0]['id']} is running; expected none. Wait for it, or: selflearn learn cancel."
        )
    lineage(connection, parent)
    cursor = connection.execute(
        "INSERT INTO updates (learner, parent, trigger, state, seed, config, snapshot_digest, started_at,"
        " newest_example) VALUES (?, ?, ?, 'running', ?, ?, ?, ?, (SELECT coalesce(max(id), 0) FROM examples))",
        (learner, parent, trigger, seed, json.dumps(config), snapshot.digest, now()),
    )
    update_id = int(cursor.lastrowid or 0)
    record_roles(connection, update_id, snapshot)
    return update_id


def close_update(
    connection: sqlite3.Connection,
    update_id: int,
    *,
    state: ClosedState,
    report: Mapping[str, Any] | None,
    verdict: Mapping[str, Any] | None,
    reason: str,
    now: Callable[[], float] = time.time,
) -> None:
    """Records the end of an update that was not promoted. A refusal is counted against the examples that trained it.

    What is served does not change, and neither do the examples' other states: its roles bind nothing any more.
    """
    _finish(connection, update_id, state=state, report=report, verdict=verdict, reason=reason, at=now())
    if state == "refused":
        note_refusal(connection, update_id)


def register(
    connection: sqlite3.Connection,
    *,
    update_id: int,
    manifest_sha256: str,
    adapter_sha256: str,
    report: Mapping[str, Any],
    verdict: Mapping[str, Any],
    actor: str,
    reason: str = "passed the gate",
    now: Callable[[], float] = time.time,
) -> None:
    """Makes an update's sealed directory a version and serves it: version, rollout, outcome, states, audit at once.

    Raises :class:`UpdateError` if the served version is no longer the update's parent, or is held: an operator's word
    stands. Then close the update as ``cancelled``. Raises :class:`RefusedByGate` if the verdict is not to promote it.
    """
    if verdict.get("outcome") != "promote":
        raise RefusedByGate(
            f"The gate's verdict on update {update_id} is {verdict.get('outcome')!r}: only what it promotes becomes a "
            f"version by itself. An operator can serve it all the same: selflearn rollout promote {update_id} --force."
        )
    update = _running(connection, update_id)
    learner, parent = str(update["learner"]), int(update["parent"])
    present = served(connection, learner)
    if present != parent:
        raise UpdateError(
            f"Update {update_id} continues version {parent}, but version {present} is served now: the rollback made "
            "meanwhile stands, and the update is dropped. Start a new one: selflearn learn now."
        )
    if actor in AUTOMATIC and (found := hold(connection, learner)) is not None:
        raise UpdateError(str(refusal(found, f"update {update_id} is dropped")))
    at = now()
    _finish(connection, update_id, state="promoted", report=report, verdict=verdict, reason=reason, at=at)
    connection.execute(
        "INSERT INTO versions (id, learner, parent, manifest_sha256, adapter_sha256, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (update_id, learner, parent, manifest_sha256, adapter_sha256, at),
    )
    note_replays(connection, update_id)
    append(connection, learner=learner, version=update_id, action="promote", actor=actor, reason=reason, now=lambda: at)


def list_versions(
    store: Store, learner: str, *, before: int | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """All promoted versions, latest first, and the base (0) last; ``served`` marks the one that answers.

    With ``limit`` at most so many, those before version ``before``.
    """
    most = _ALL if limit is None else limit
    connection = store.connection()
    present = served(connection, learner)
    found = rows(
        connection,
        "SELECT versions.id AS version, versions.parent, versions.created_at, adapter_sha256, manifest_sha256,"
        " versions.forced, removed_at, removed_because, updates.trigger FROM versions"
        " JOIN updates ON updates.id = versions.id"
        " WHERE versions.learner = ? AND versions.id < ? ORDER BY versions.id DESC LIMIT ?",
        (learner, _ALL if before is None else before, most),
    )
    base = rows(connection, "SELECT created_at FROM learners WHERE name = ?", (learner,))
    created_at = base[0]["created_at"] if base else None
    nothing = {"parent": None, "created_at": created_at, "adapter_sha256": None, "manifest_sha256": None}
    nothing |= {"trigger": None, "forced": 0, "removed_at": None, "removed_because": None}
    if before != 0 and len(found) < most:
        found.append({"version": 0, **nothing})
    return [_listed(row, present) for row in found]


def _listed(row: Mapping[str, Any], present: int) -> dict[str, Any]:
    at, because = row["removed_at"], row["removed_because"]
    removed = None if at is None else {"at": at, "because": because}
    kept = {key: value for key, value in row.items() if not key.startswith("removed_")}
    marks = {"served": row["version"] == present, "forced": bool(row["forced"]), "removed": removed}
    return {"name": version_name(row["version"]), **kept, **marks}


def show_version(store: Store, state_dir: Path, version: int) -> dict[str, Any]:
    """One version with its place, line, rollouts and manifest (None if that is damaged: ``problem`` says how).

    Of one whose files were removed on purpose, ``removed`` says when and why; there is no manifest then, nor a problem.

    For 0 the ``bases``: each learner's base model.
    """
    connection = store.connection()
    if version == 0:
        bases = store.read("SELECT name AS learner, base_model, base_sha256, created_at FROM learners ORDER BY name")
        return {"version": 0, "name": version_name(0), "lineage": [], "bases": bases, "problem": None}
    row = _version_row(store, version)
    result = {
        **row,
        "name": version_name(version),
        "served": served(connection, row["learner"]) == version,
        "lineage": list(lineage(connection, version)),
        "directory": str(version_directory(state_dir, version)),
        "rollouts": rollouts_of(store, row["learner"], version),
        "curve": learning_curve(version_directory(state_dir, version) / TRAINING_LOG),
        "removed": None if (removal := removal_of(connection, version)) is None else asdict(removal),
        "manifest": None,
        "problem": None,
    }
    if removal is not None:
        return result
    try:
        manifest = read_manifest(version_directory(state_dir, version), row["manifest_sha256"])
    except VersionDamaged as error:
        return {**result, "problem": str(error)}
    files = {name: manifest.files[name] for name in sorted(manifest.files)}
    shown = {"base_model": manifest.base_model, "base_sha256": manifest.base_sha256, "seed": manifest.seed}
    counted = {role: len(pairs) for role, pairs in manifest.examples.items()}
    made = {"libraries": dict(manifest.libraries), "made_with": dict(manifest.made_with)}
    return {**result, "manifest": {**shown, "files": files, "examples": counted, **made}}


def verify_version(store: Store, state_dir: Path, version: int) -> dict[str, Any]:
    """Checks every byte of a version: ``{"version", "name", "intact", "files", "problem", "removed"}``.

    ``removed`` is None, or ``{"at", "because"}`` of a version whose files were removed on purpose: then ``intact`` is
    None as well, and there is no ``problem``. Raises ``NotFound`` if it is unknown.
    """
    result: dict[str, Any] = {"version": version, "name": version_name(version), "intact": False, "files": 0}
    result |= {"problem": None, "removed": None}
    if version == 0:
        return {**result, "intact": True}
    expected = _version_row(store, version)["manifest_sha256"]
    if (removal := removal_of(store.connection(), version)) is not None:
        return {**result, "intact": None, "removed": asdict(removal)}
    try:
        manifest = verify(version_directory(state_dir, version), expected)
    except VersionDamaged as error:
        return {**result, "problem": str(error)}
    return {**result, "intact": True, "files": len(manifest.files) + 1}


def _finish(
    connection: sqlite3.Connection,
    update_id: int,
    *,
    state: str,
    report: Mapping[str, Any] | None,
    verdict: Mapping[str, Any] | None,
    reason: str,
    at: float,
) -> None:
    _running(connection, update_id)
    leave_out(connection, update_id, (report or {}).get("left_out", ()))
    connection.execute(
        "UPDATE updates SET state = ?, report = ?, verdict = ?, reason = ?, finished_at = ? WHERE id = ?",
        (state, _json(report), _json(verdict), reason, at, update_id),
    )


def _running(connection: sqlite3.Connection, update_id: int) -> dict[str, Any]:
    found = rows(connection, "SELECT * FROM updates WHERE id = ?", (update_id,))
    if not found:
        raise unknown_update(update_id)
    if found[0]["state"] != "running":
        raise Conflict(
            f"Update {update_id} has ended before ({found[0]['state']}); expected a running one. Nothing changed.",
            code="update_ended",
        )
    return found[0]


def _version_row(store: Store, version: int) -> dict[str, Any]:
    sql = (
        "SELECT id AS version, learner, parent, created_at, adapter_sha256, manifest_sha256, forced FROM versions"
        " WHERE id = ?"
    )
    found = store.read(sql, (version,))
    if not found:
        raise unknown_version(version)
    return {**found[0], "forced": bool(found[0]["forced"])}


def unknown_update(update_id: int) -> NotFound:
    """The error for a number that names no update."""
    return NotFound(
        f"There is no update {update_id}. See: selflearn versions list.", param="update", code="update_not_found"
    )


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(_finite(value))


def _finite(value: Any) -> Any:
    """NaN and infinities by name: JSON has no word for them, and a verdict on a diverged update is full of them."""
    if isinstance(value, float) and value - value != 0:
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
