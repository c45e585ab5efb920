"""What became of the updates of a learner so far, as the tables say."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from selflearn.store import rows
from selflearn.versions.rebuilds import ACTOR
from selflearn.versions.rollouts import lineage, served


@dataclass(frozen=True, slots=True)
class PastUpdate:
    """An update that was judged, the checks that it failed, and those that could not tell.

    ``serves`` says whether what is served is it or descends from it, ``rolled_back`` whether a rollback took it off.
    ``scale`` is the part of its step that was judged: below 1 if the whole went too far.
    """

    update: int
    state: str
    failed: tuple[str, ...]
    doubted: tuple[str, ...]
    serves: bool
    rolled_back: bool
    scale: float = 1.0


#: The newest first. Updates with another rate or optimizer are left out.
_JUDGED: Final = (
    "SELECT id, state, verdict, json_extract(report, '$.measurements.scale') AS scale FROM updates"
    " WHERE learner = ? AND state IN ('promoted', 'refused', 'inconclusive')"
    " AND json_extract(config, '$.learning.learning_rate') = ?"
    " AND coalesce(json_extract(config, '$.learning.optimizer'), 'adamw') = ?"
    " AND (state = 'promoted' OR NOT coalesce(json_extract(config, '$.judging.dry_run'), 0)) ORDER BY id DESC LIMIT ?"
)
#: What was served when a rollback came that was about the version, and not about what is to be forgotten.
_LEFT: Final = (
    "SELECT DISTINCT before FROM (SELECT action, actor, lag(version) OVER (ORDER BY id) AS before FROM rollouts"
    " WHERE learner = ? AND action IN ('promote', 'rollback', 'recover')) WHERE action = 'rollback'"
    f" AND actor != '{ACTOR}'"
)


def past_updates(
    connection: sqlite3.Connection, learner: str, *, learning_rate: float, optimizer: str, most: int
) -> list[PastUpdate]:
    """The last ``most`` updates of a learner that were judged, oldest first, with this learning rate and optimizer."""
    line = set(lineage(connection, served(connection, learner)))
    left = {int(row["before"]) for row in rows(connection, _LEFT, (learner,)) if row["before"] is not None}
    found = rows(connection, _JUDGED, (learner, learning_rate, optimizer, most))
    return [_past(row, line, left - line) for row in reversed(found)]


@dataclass(frozen=True, slots=True)
class Past:
    """What the gate must know of the past to judge the next update; both are part of its measurements.

    ``looks`` counts the updates that were judged since the last promotion that stands. ``ancestors`` maps versions
    before the parent to the losses that they had on retained examples, by the examples' ids.
    """

    looks: int = 0
    ancestors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


#: So many versions before a candidate are its ancestors that it is compared with; its parent is 1 before.
ANCESTORS: Final = (2, 4, 8, 16, 32, 64)

#: A promotion that was rolled back was a look in vain, and so is what an operator forced. Rebuilt updates claim nothing
#: new and dry runs promote nothing: they are no looks.
_LOOKS: Final = (
    "SELECT count(*) AS number FROM updates WHERE learner = ?1 AND rebuild_of IS NULL"
    " AND state IN ('promoted', 'refused', 'inconclusive')"
    " AND coalesce(json_extract(config, '$.judging.dry_run'), 0) = 0 AND id > coalesce((SELECT max(updates.id)"
    "  FROM versions JOIN updates ON updates.id = versions.id WHERE versions.learner = ?1"
    "  AND NOT forced AND rebuild_of IS NULL AND versions.id NOT IN (SELECT coalesce(before, 0)"
    f"   FROM ({_LEFT.replace('?', '?1')}))), 0)"
)
_LOSSES: Final = (
    "SELECT id, json_extract(report, '$.measurements.retained_ids') AS ids,"
    " json_extract(report, '$.measurements.retained_candidate') AS losses"
    " FROM updates WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id DESC"
)


def past_of(connection: sqlite3.Connection, learner: str, parent: int) -> Past:
    """What the next update of ``parent`` is judged with, from at most :data:`ANCESTORS` reports, however long the line.

    Ancestors whose report does not say of which examples its losses are, of an earlier release, are left out.
    """
    line = lineage(connection, parent)
    chosen = [line[before - 1] for before in ANCESTORS if before <= len(line)]
    return Past(
        looks=int(rows(connection, _LOOKS, (learner,))[0]["number"]),
        ancestors={
            str(row["id"]): losses
            for row in rows(connection, _LOSSES, (json.dumps(chosen),))
            if (losses := _by_example(row["ids"], row["losses"]))
        },
    )


def _by_example(ids: str | None, losses: str | None) -> dict[str, float]:
    if ids is None or losses is None:
        return {}
    return {str(example): float(loss) for example, loss in zip(json.loads(ids), json.loads(losses), strict=False)}


def _past(row: Mapping[str, Any], line: set[int], left: set[int]) -> PastUpdate:
    checks = [] if row["verdict"] is None else json.loads(row["verdict"])["checks"]
    failed = tuple(check["name"] for check in checks if check.get("outcome") == "fail")
    doubted = tuple(check["name"] for check in checks if check.get("outcome") == "inconclusive")
    update, scale = int(row["id"]), 1.0 if row["scale"] is None else float(row["scale"])
    return PastUpdate(update, row["state"], failed, doubted, update in line, update in left, scale)
