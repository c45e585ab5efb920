"""Quarantine: what must not train, each with a reason. Nothing is lost there: an operator may release it.

What a version has learned from may come here as well. That takes nothing out of the version, but no later update
replays it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

#: Stable words that say why. The curation of texts has more of them.
SUPERSEDED: Final = "superseded"
DOWN_RATED: Final = "down_rated"
CONTRADICTION: Final = "contradiction"
OPERATOR: Final = "operator"

#: The role of what an update was given and did not use.
LEFT_OUT: Final = "left_out"

#: States of examples that no update has learned from, so that a newer word of the same interaction may replace them.
UNTRAINED: Final = ("fresh", "held", "due", "reserve")


def quarantine(connection: sqlite3.Connection, ids: Collection[int], reason: str, detail: str | None) -> int:
    """Puts examples into quarantine and returns how many; those that are there, and vouched ones, stay as they are."""
    return connection.execute(
        "UPDATE examples SET state = 'quarantined', reason = ?, detail = ?"
        " WHERE id IN (SELECT value FROM json_each(?)) AND NOT vouched AND state NOT IN ('quarantined', 'forgotten')",
        (reason, detail, json.dumps(sorted(ids))),
    ).rowcount


def leave_out(connection: sqlite3.Connection, update_id: int, left_out: Sequence[Mapping[str, Any]]) -> int:
    """Notes what an update was given and did not use, as its worker reported it; returns how many went to quarantine.

    Each entry has ``id``, ``role``, ``reason``, and its numbers or a ``detail`` in words. Their role becomes
    ``left_out``, which binds nothing. What was new (to train or to judge) goes to quarantine, so that it does not come
    up in every update again.
    """
    connection.execute(
        "UPDATE update_examples SET role = ? WHERE update_id = ? AND example_id IN (SELECT value FROM json_each(?))",
        (LEFT_OUT, update_id, json.dumps([row["id"] for row in left_out])),
    )
    new = [row for row in left_out if row["role"] in ("train", "holdout")]
    return sum(quarantine(connection, [row["id"]], row["reason"], _told(row, update_id)) for row in new)


def _told(row: Mapping[str, Any], update_id: int) -> str:
    if row["reason"] == "too_long":
        return f"its {row['tokens']} tokens are more than learning.max_length allowed in update {update_id}"
    if "detail" in row:
        return f"{row['detail']} (update {update_id})"
    return (
        f"its loss of {row['loss']:.2f} nats per {row['unit']} before update {update_id} is {row['score']:.1f} robust "
        f"deviations above the usual {row['median']:.2f} (learning.outlier_limit)"
    )
