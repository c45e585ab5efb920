"""Certificates of forgetting: what was forgotten, which versions went for it, and what they were made again as.

A certificate is an append-only row: a JSON document without anybody's words, and its SHA-256. The first is written as
soon as the data is gone; where versions have to be made again, another one follows when that is done. Its digest is in
the audit log, so that nobody can replace it later.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from selflearn.errors import NotFound, VersionError
from selflearn.experience.keeping.erasing import IN_LIST
from selflearn.experience.roles.lines import line_of, served_version
from selflearn.store import Store, rows
from selflearn.store.audit import newest_digest, write_audit
from selflearn.versions.names import refused_directory, version_directory
from selflearn.versions.rollouts import verify_registered

#: Of the shape of documents; a reader that knows it can read every certificate of this number.
FORMAT: Final = 1
#: What :func:`follow` adds: how each update was made again.
_MADE_AGAIN: Final = "made_again"


def tombstones_of(connection: sqlite3.Connection, learner: str, actor: str, at: float) -> dict[str, Any]:
    """``{"number", "first", "last", "sha256"}`` of the tombstones that one forgetting wrote.

    The digest is over the digests of what they stand for, so that it says which contents are meant without having any.
    """
    found = rows(
        connection,
        "SELECT id, subject, digest FROM tombstones WHERE learner = ? AND actor = ? AND created_at = ? ORDER BY id",
        (learner, actor, at),
    )
    return {**_range(found), "sha256": _digest_of(found)}


def described(connection: sqlite3.Connection, versions: Iterator[int] | list[int]) -> list[dict[str, Any]]:
    """``{"version", "manifest_sha256", "adapter_sha256"}`` of versions, in the order of their numbers."""
    return rows(
        connection,
        f"SELECT id AS version, manifest_sha256, adapter_sha256 FROM versions WHERE id {IN_LIST} ORDER BY id",
        (json.dumps(sorted(versions)),),
    )


def write_certificate(
    connection: sqlite3.Connection, learner: str, document: Mapping[str, Any], *, actor: str, at: float
) -> int:
    """Appends a certificate, with its digest in the audit log, and returns its number."""
    whole = {"format": FORMAT, "learner": learner, **document, "audit_digest": newest_digest(connection)}
    text = canonical(whole)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    cursor = connection.execute(
        "INSERT INTO certificates (learner, document, sha256, created_at) VALUES (?, ?, ?, ?)",
        (learner, text, sha256, at),
    )
    number = int(cursor.lastrowid or 0)
    write_audit(connection, actor=actor, action="certificate", detail={"certificate": number, "sha256": sha256}, at=at)
    return number


def follow(
    connection: sqlite3.Connection, number: int, made_again: list[dict[str, Any]], *, actor: str, at: float
) -> int:
    """Appends the certificate that says how what ``number`` began has ended, and returns its number."""
    row = _row(connection, number)
    before: dict[str, Any] = json.loads(row["document"])
    document = {key: value for key, value in before.items() if key not in ("format", "learner", "audit_digest")}
    ended = {
        "state": "finished",
        "follows": number,
        "finished_at": at,
        _MADE_AGAIN: _with_hashes(connection, made_again),
    }
    return write_certificate(connection, row["learner"], {**document, **ended}, actor=actor, at=at)


def canonical(document: Mapping[str, Any]) -> str:
    """The document as its SHA-256 is taken of it: keys sorted, no white space."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def list_certificates(store: Store, learner: str) -> list[dict[str, Any]]:
    """All certificates, latest first, each with ``certificate`` (its number), ``sha256``, ``created_at``, and a summary
    of its document: ``state``, ``follows``, ``by``, ``versions`` (how many went), ``rows`` (that were forgotten)."""
    found = store.read("SELECT * FROM certificates WHERE learner = ? ORDER BY id DESC", (learner,))
    return [_summary(row) for row in found]


def show_certificate(store: Store, number: int) -> dict[str, Any]:
    """``{"certificate", "sha256", "created_at", "document"}``; :class:`NotFound` for a number that names none."""
    row = _row(store.connection(), number)
    named = {"certificate": row["id"], "sha256": row["sha256"], "created_at": row["created_at"]}
    return {**named, "document": json.loads(row["document"])}


def verify_certificate(store: Store, state: Path, number: int) -> dict[str, Any]:
    """Compares a certificate with the state: ``{"certificate", "sha256", "holds", "problems"}``."""
    connection = store.connection()
    row = _row(connection, number)
    document: dict[str, Any] = json.loads(row["document"])
    problems = [*_its_own(connection, row), *_of_rows(connection, document), *_of_versions(connection, state, document)]
    return {"certificate": number, "sha256": row["sha256"], "holds": not problems, "problems": problems}


def _its_own(connection: sqlite3.Connection, row: Mapping[str, Any]) -> Iterator[str]:
    found = hashlib.sha256(str(row["document"]).encode()).hexdigest()
    if found != row["sha256"]:
        yield f"the document's SHA-256 is {found}, expected {row['sha256']}: it was changed"
    logged = rows(
        connection,
        "SELECT 1 FROM audit WHERE action = 'certificate' AND json_extract(detail, '$.certificate') = ?"
        " AND json_extract(detail, '$.sha256') = ?",
        (row["id"], row["sha256"]),
    )
    if not logged:
        yield "the audit log has no such certificate"


def _of_rows(connection: sqlite3.Connection, document: Mapping[str, Any]) -> Iterator[str]:
    """Whether every tombstone is there, and no version of the served line names a forgotten example."""
    told, asked = document["tombstones"], document["asked"]
    given = (document["learner"], asked["actor"], asked["at"])
    if (found := tombstones_of(connection, *given)) != told:
        yield f"found {found['number']} tombstones of it, expected {told['number']} with SHA-256 {told['sha256']}"
    line = line_of(connection, served_version(connection, document["learner"]))
    naming = rows(
        connection,
        "SELECT DISTINCT update_id FROM update_examples JOIN tombstones ON subject = 'example'"
        " AND subject_id = CAST(example_id AS TEXT) WHERE tombstones.learner = ? AND tombstones.actor = ?"
        " AND tombstones.created_at = ? AND role IN ('train', 'replay', 'holdout')"
        " AND update_id IN (SELECT value FROM json_each(?)) ORDER BY update_id",
        (*given, json.dumps(line)),
    )
    for row in naming:
        yield f"version {row['update_id']}, which is served or an ancestor of what is, saw a forgotten example"


def _of_versions(connection: sqlite3.Connection, state: Path, document: Mapping[str, Any]) -> Iterator[str]:
    """Whether those that went are gone, and those that came in their places are what the certificate says."""
    gone = {row["version"] for row in document["versions"]}
    for version in sorted(gone):
        for directory in (version_directory(state, version), refused_directory(state, version)):
            if directory.exists():
                yield f"{directory} exists, although version {version} went"
    for made in document.get(_MADE_AGAIN, ()):
        if made["outcome"] != "promoted" or made["became"] in gone:
            continue
        yield from _remade(connection, state, made)


def _remade(connection: sqlite3.Connection, state: Path, made: Mapping[str, Any]) -> Iterator[str]:
    found = rows(
        connection,
        "SELECT manifest_sha256, adapter_sha256, removed_at FROM versions WHERE id = ?",
        (made["became"],),
    )
    if not found or any(found[0][name] != made[name] for name in ("manifest_sha256", "adapter_sha256")):
        yield f"version {made['became']} is registered with other hashes than the certificate names"
    elif found[0]["removed_at"] is None:
        try:
            verify_registered(connection, state, made["became"])
        except VersionError as error:
            yield str(error)


def _with_hashes(connection: sqlite3.Connection, made_again: list[dict[str, Any]]) -> list[dict[str, Any]]:
    promoted = [made["became"] for made in made_again if made["outcome"] == "promoted"]
    hashes = {row["version"]: row for row in described(connection, promoted)}
    nothing = {"manifest_sha256": None, "adapter_sha256": None}
    return [{**made, **{name: hashes.get(made["became"], nothing)[name] for name in nothing}} for made in made_again]


def _summary(row: Mapping[str, Any]) -> dict[str, Any]:
    document = json.loads(row["document"])
    return {
        "certificate": row["id"],
        "state": document["state"],
        "follows": document.get("follows"),
        "by": document["asked"]["by"],
        "rows": sum(document["counts"].values()) - document["counts"].get("emptied", 0),
        "versions": len(document["versions"]),
        "sha256": row["sha256"],
        "created_at": row["created_at"],
    }


def _row(connection: sqlite3.Connection, number: int) -> dict[str, Any]:
    found = rows(
        connection, "SELECT id, learner, document, sha256, created_at FROM certificates WHERE id = ?", (number,)
    )
    if not found:
        raise NotFound(
            f"There is no certificate {number}. See: selflearn data certificates.",
            param="certificate",
            code="certificate_not_found",
        )
    return found[0]


def _range(found: list[dict[str, Any]]) -> dict[str, Any]:
    ids = [row["id"] for row in found]
    return {"number": len(ids), "first": min(ids, default=None), "last": max(ids, default=None)}


def _digest_of(found: list[dict[str, Any]]) -> str:
    lines = "".join(f"{row['subject']} {row['digest']}\n" for row in found)
    return hashlib.sha256(lines.encode()).hexdigest()
