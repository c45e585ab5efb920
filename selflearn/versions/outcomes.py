"""What became of the updates of a learner so far, as the tables say."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Final

from selflearn.store import rows
from selflearn.versions.rollouts import lineage, served


@dataclass(frozen=True, slots=True)
class PastUpdate:
    """An update that was judged, the checks that it failed, and those that could not tell.

    ``serves`` says whether what is served is it or descends from it, ``rolled_back`` whether a rollback took it off.
    """

    update: int
    state: str
    failed: tuple[str, ...]
    doubted: tuple[str, ...]
    serves: bool
    rolled_back: bool


#: The newest first. Updates with another rate or optimizer are left out.
_JUDGED: Final = (
    "SELECT id, state, verdict FROM updates WHERE learner = ? AND state IN ('promoted', 'refused', 'inconclusive')"
    " AND json_extract(config, '$.learning.learning_rate') = ?"
    " AND coalesce(json_extract(config, '$.learning.optimizer'), 'adamw') = ? ORDER BY id DESC LIMIT ?"
)
#: What was served when a rollback came.
_LEFT: Final = (
    "SELECT DISTINCT before FROM (SELECT action, lag(version) OVER (ORDER BY id) AS before FROM rollouts"
    " WHERE learner = ? AND action IN ('promote', 'rollback', 'recover')) WHERE action = 'rollback'"
)


def past_updates(
    connection: sqlite3.Connection, learner: str, *, learning_rate: float, optimizer: str, most: int
) -> list[PastUpdate]:
    """The last ``most`` updates of a learner that were judged, oldest first, with this learning rate and optimizer."""
    line = set(lineage(connection, served(connection, learner)))
    left = {int(row["before"]) for row in rows(connection, _LEFT, (learner,)) if row["before"] is not None}
    found = rows(connection, _JUDGED, (learner, learning_rate, optimizer, most))
    return [_past(int(row["id"]), row["state"], row["verdict"], line, left - line) for row in reversed(found)]


def _past(update: int, state: str, verdict: str | None, line: set[int], left: set[int]) -> PastUpdate:
    checks = [] if verdict is None else json.loads(verdict)["checks"]
    failed = tuple(check["name"] for check in checks if check.get("outcome") == "fail")
    doubted = tuple(check["name"] for check in checks if check.get("outcome") == "inconclusive")
    return PastUpdate(update, state, failed, doubted, serves=update in line, rolled_back=update in left)
