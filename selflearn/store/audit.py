"""The log of what operators, and the daemon on its own, have done: append-only, each row chained to the one before.

A row's digest covers what it says and the digest before it, so that no row can be changed, taken out or put in between
without every later digest telling. Whoever keeps the newest digest elsewhere can prove all of it; without one, the last
rows could be cut off, or all be written anew.

A row is appended in the transaction of what it tells, which holds SQLite's lock for writing from its beginning on: two
processes cannot follow the same row.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import dataclass
from typing import Any, Final

from selflearn.errors import StateError

#: What the first row follows.
START: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class Chain:
    """What a walk along the log found. ``broken_at`` is the first row that does not fit, None if all do.

    ``contains_expected`` says whether some row has the digest that was to be found; None if none was.
    """

    rows: int
    digest: str
    broken_at: int | None
    contains_expected: bool | None

    @property
    def holds(self) -> bool:
        return self.broken_at is None and self.contains_expected is not False


def write_audit(connection: sqlite3.Connection, *, actor: str, action: str, detail: dict[str, Any], at: float) -> None:
    """Appends to the audit log: who did what, when; ``detail`` is JSON, without anybody's words or secrets.

    Raises :class:`StateError` outside a transaction: another process could append to the same row.
    """
    if not connection.in_transaction:
        raise StateError("An audit row was to be written outside a transaction; use Store.write.")
    text = json.dumps(detail)
    digest = chained(newest_digest(connection), at=at, actor=actor, action=action, detail=text)
    connection.execute(
        "INSERT INTO audit (at, actor, action, detail, digest) VALUES (?, ?, ?, ?, ?)",
        (at, actor, action, text, digest),
    )


def newest_digest(connection: sqlite3.Connection) -> str:
    """The digest that stands for the whole log as it is now; of an empty one, :data:`START`."""
    last = connection.execute("SELECT digest FROM audit ORDER BY id DESC LIMIT 1").fetchone()
    return START if last is None else str(last[0])


def list_audit(connection: sqlite3.Connection, limit: int = 50) -> list[dict[str, Any]]:
    """``{"id", "at", "actor", "action", "detail", "digest"}`` of the last rows, the newest first."""
    sql = "SELECT id, at, actor, action, detail, digest FROM audit ORDER BY id DESC LIMIT ?"
    return [{**dict(row), "detail": json.loads(row["detail"])} for row in connection.execute(sql, (limit,))]


def verify_audit(connection: sqlite3.Connection, expected: str | None = None) -> Chain:
    """Walks the whole log. ``expected`` is a digest that was noted elsewhere: if no row has it, rows were cut off."""
    before, broken_at, number, found = START, None, 0, expected == START
    for row in connection.execute("SELECT id, at, actor, action, detail, digest FROM audit ORDER BY id"):
        fits = chained(before, at=row[1], actor=row[2], action=row[3], detail=row[4]) == row[5]
        broken_at = row[0] if broken_at is None and not fits else broken_at
        before, number, found = row[5], number + 1, found or row[5] == expected
    return Chain(number, before, broken_at, None if expected is None else found)


def chained(before: str, *, at: float, actor: str, action: str, detail: str) -> str:
    """The digest (SHA-256, hex) of a row after the one with the digest ``before``; ``detail`` as it is stored."""
    said = json.dumps([before, repr(at), actor, action, detail])
    return hashlib.sha256(said.encode()).hexdigest()
