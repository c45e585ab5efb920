"""The log of what operators, and the daemon on its own, have done. It is append-only."""

from __future__ import annotations

import json
import sqlite3
from typing import Any


def write_audit(connection: sqlite3.Connection, *, actor: str, action: str, detail: dict[str, Any], at: float) -> None:
    """Appends to the audit log: who did what, when; ``detail`` is JSON, without anybody's words or secrets."""
    connection.execute(
        "INSERT INTO audit (at, actor, action, detail) VALUES (?, ?, ?, ?)", (at, actor, action, json.dumps(detail))
    )
