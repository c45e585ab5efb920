"""The roles of a past update once more, without what was forgotten since: what a rebuild trains and judges with.

They are not chosen anew: whoever trained then trains again and whoever judged then judges again, so that what comes of
it is what would have come of it had the forgotten never been there.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from selflearn.experience.examples import Example, load_examples
from selflearn.experience.roles.splits import (
    ROLES,
    Snapshot,
    clusters_of,
    find_contradicting,
    make_snapshot,
    trained_values,
)
from selflearn.experience.trust.quarantine import LEFT_OUT, OPERATOR
from selflearn.store import rows

_USED: Final = "SELECT example_id, role, digest FROM update_examples WHERE update_id = ?"
_TAUGHT: Final = (
    "SELECT DISTINCT example_id FROM update_examples WHERE role = 'train'"
    " AND update_id IN (SELECT value FROM json_each(?)) AND example_id IN (SELECT value FROM json_each(?))"
)


def recorded_roles(
    connection: sqlite3.Connection,
    learner: str,
    update_id: int,
    *,
    lineage: tuple[int, ...],
    without: Collection[int] = (),
) -> Snapshot:
    """The examples of ``update_id`` in the roles that they were given, for an update whose parent is ``lineage[0]``.

    Without those that were forgotten, that are named in ``without``, or that an operator has put into quarantine since.
    Nothing is replayed that this line has not learned, and nothing judges whose likes it has: an update of the old line
    may be missing in this one.
    """
    roles = _given_roles(connection, update_id)
    listed = json.dumps(sorted(set(roles) - set(without)))
    found = load_examples(connection, "id IN (SELECT value FROM json_each(?)) ORDER BY id", (listed,))
    refused = _by_operators(connection, listed)
    usable = [
        example
        for example in found
        if example.state != "forgotten" and example.id not in refused and example.digest == roles[example.id][1]
    ]
    train, replay, holdout, retained = ([e for e in usable if roles[e.id][0] == role] for role in ROLES)
    replay = _learned(connection, lineage, replay)
    taught = clusters_of([*train, *replay])
    judges = [*holdout, *retained]
    taught |= trained_values(connection, learner, lineage, "cluster", judges)
    holdout = [example for example in holdout if example.cluster not in taught]
    retained = [example for example in retained if example.cluster not in taught]
    snapshot = make_snapshot(train, replay, holdout, retained)
    new = sorted([*train, *holdout], key=lambda example: example.id)
    return replace(snapshot, contradicting=find_contradicting(connection, learner, lineage, new))


def _given_roles(connection: sqlite3.Connection, update_id: int) -> dict[int, tuple[str, str]]:
    """The role and the digest of each example when the update began; the report knows the roles of what it left out."""
    report = rows(connection, "SELECT report FROM updates WHERE id = ?", (update_id,))
    left_out: Sequence[Mapping[str, object]] = json.loads((report and report[0]["report"]) or "{}").get("left_out", ())
    before = {row["id"]: str(row["role"]) for row in left_out}
    return {
        int(row["example_id"]): (
            before.get(row["example_id"], LEFT_OUT) if row["role"] == LEFT_OUT else str(row["role"]),
            str(row["digest"]),
        )
        for row in rows(connection, _USED, (update_id,))
    }


def _by_operators(connection: sqlite3.Connection, listed: str) -> set[int]:
    sql = (
        "SELECT id FROM examples WHERE state = 'quarantined' AND reason = ? AND id IN (SELECT value FROM json_each(?))"
    )
    return {int(row["id"]) for row in rows(connection, sql, (OPERATOR, listed))}


def _learned(connection: sqlite3.Connection, lineage: tuple[int, ...], replay: Sequence[Example]) -> list[Example]:
    given = (json.dumps(lineage), json.dumps([example.id for example in replay]))
    learned = {int(row["example_id"]) for row in rows(connection, _TAUGHT, given)}
    return [example for example in replay if example.id in learned]
