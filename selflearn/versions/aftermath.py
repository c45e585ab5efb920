"""What happened after an update: who put it into service, how it did there, what was raised against it, what follows.

Times are unix seconds. Rates are per answer that the version completed; what people say about an answer later, even
after a rollback, still counts for the version that gave it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from selflearn.experience.roles.lines import descendants_of
from selflearn.store import Store, rows
from selflearn.versions.alarms import list_alarms
from selflearn.versions.removal import removal_of
from selflearn.versions.rollouts import CHANGES

#: How the answers of a version ended; the index by version finds them.
_ANSWERS: Final = (
    "SELECT state, count(*) AS n FROM interactions WHERE learner = ? AND version = ? GROUP BY state ORDER BY state"
)
#: What was said about them. Feedback is rarer than answers, and none came before the version served.
_FEEDBACK: Final = """
    SELECT feedback.kind, count(*) AS n, sum(
        feedback.kind = 'correction' OR feedback.kind IN ('rating', 'reward') AND feedback.value < 0
        OR feedback.kind = 'preference' AND feedback.rejected IS NULL) AS negative
    FROM feedback CROSS JOIN interactions ON interactions.id = feedback.interaction_id
    WHERE feedback.learner = :learner AND feedback.created_at >= :since
        AND interactions.version = :version GROUP BY feedback.kind ORDER BY feedback.kind
"""


def aftermath(store: Store, learner: str, number: int, rollouts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What followed an update; ``rollouts`` are those that mention it, oldest first, with ``from``.

    ``promoted_by`` (None if it never served), ``served`` (from when to when, ``until`` None while it does), its
    ``traffic`` and that of the version ``before`` it, ``alarms`` (latest first),
    ``ended_by`` (the rollback or recovery that took it off, the last one), ``removed`` (its files, by retention or
    forgetting), ``children`` (the updates that were made from it) and ``descendants``.
    """
    connection = store.connection()
    first = next((row for row in rollouts if row["version"] == number and row["action"] == "promote"), None)
    version = next(iter(rows(connection, "SELECT * FROM versions WHERE id = ?", (number,))), {})
    served = _periods(number, rollouts)
    return {
        "promoted_by": None if first is None else {**_deed(first), "forced": bool(version.get("forced"))},
        "served": served,
        "traffic": traffic(connection, learner, number, served[0]["from"]) if served else None,
        "before": None if first is None else _before(connection, learner, first["from"]),
        "alarms": list_alarms(store, learner, version=number),
        "ended_by": _ended_by(number, rollouts),
        "removed": None if (removal := removal_of(connection, number)) is None else asdict(removal),
        "children": rows(
            connection,
            'SELECT id AS "update", state AS outcome FROM updates WHERE learner = ? AND parent = ? ORDER BY id',
            (learner, number),
        ),
        "descendants": list(descendants_of(connection, [number])) if version else [],
    }


def traffic(connection: sqlite3.Connection, learner: str, version: int, since: float = 0.0) -> dict[str, Any]:
    """``{"version", "answers": {state: n}, "feedback": {kind: n}, "negative", "negative_share"}`` of a version.

    ``negative`` counts corrections, other answers preferred, and what was rated or rewarded below zero;
    ``negative_share`` is that per completed answer (None without any). ``since`` is when it first answered.
    """
    answers = {row["state"]: row["n"] for row in rows(connection, _ANSWERS, (learner, version))}
    said = rows(connection, _FEEDBACK, {"learner": learner, "version": version, "since": since})
    negative = sum(row["negative"] for row in said)
    completed = answers.get("completed", 0)
    return {
        "version": version,
        "answers": answers,
        "feedback": {row["kind"]: row["n"] for row in said},
        "negative": negative,
        "negative_share": negative / completed if completed else None,
    }


def _before(connection: sqlite3.Connection, learner: str, version: int) -> dict[str, Any]:
    sql = "SELECT min(created_at) AS first FROM rollouts WHERE learner = ? AND version = ?"
    first = rows(connection, sql, (learner, version))[0]["first"]
    return traffic(connection, learner, version, first or 0.0)


def _periods(number: int, rollouts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """When it served all, or as a canary a ``share`` of the conversations."""
    periods: list[dict[str, Any]] = []
    for row in rollouts:
        mine = row["version"] == number
        if periods and periods[-1]["until"] is None and row["action"] in (*CHANGES, "abort"):
            if mine and row["action"] in CHANGES and periods[-1]["share"] is None:
                continue  # it was served before already
            periods[-1]["until"] = row["created_at"]
        if mine and row["action"] in (*CHANGES, "canary"):
            periods.append({"from": row["created_at"], "until": None, "share": row["share"]})
    return periods


def _ended_by(number: int, rollouts: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    ends = [
        row
        for row in rollouts
        if row["from"] == number and row["version"] != number and row["action"] in ("rollback", "recover")
    ]
    return {**_deed(ends[-1]), "action": ends[-1]["action"], "to": ends[-1]["version"]} if ends else None


def _deed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"actor": row["actor"], "reason": row["reason"], "at": row["created_at"]}
