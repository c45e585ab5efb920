"""The log of what operators, and the daemon on its own, have done: append-only, each row chained to the one before.

A row's digest covers what it says and the digest before it, so that no row can be changed, taken out or put in between
without every later digest telling. Whoever keeps the newest digest elsewhere can prove all of it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from typing import Any, Final

#: What the first row follows.
START: Final = "0" * 64


def write_audit(connection: sqlite3.Connection, *, actor: str, action: str, detail: dict[str, Any], at: float) -> None:
    """Appends to the audit log: who did what, when; ``detail`` is JSON, without anybody's words or secrets."""
    last = connection.execute("SELECT digest FROM audit ORDER BY id DESC LIMIT 1").fetchone()
    text = json.dumps(detail)
    digest = chained(START if last is None else last[0], at=at, actor=actor, action=action, detail=text)
    connection.execute(
        "INSERT INTO audit (at, actor, action, detail, digest) VALUES (?, ?, ?, ?, ?)",
        (at, actor, action, text, digest),
    )


def chained(before: str, *, at: float, actor: str, action: str, detail: str) -> str:
    """The digest (SHA-256, hex) of a row after the one with the digest ``before``; ``detail`` as it is stored."""
    said = json.dumps([before, repr(at), actor, action, detail])
    return hashlib.sha256(said.encode()).hexdigest()
