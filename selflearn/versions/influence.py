"""What came of an interaction: the feedback on it, its examples, and the versions that learned from them or not."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final

from selflearn.experience import LEFT_OUT, QUARANTINE, ROLES, show_interaction
from selflearn.experience.roles.lines import line_of, served_version
from selflearn.store import Store, rows

#: Why what is served has not learned an example, by the example's state.
_NOT_YET: Final[Mapping[str, str]] = {
    "fresh": "it waits for an update",
    "held": "it judged the served version, and trains in the next update",
    "due": "it judged an earlier version, and trains in the next update",
    "reserve": "it never trains: it measures what is kept over months",
    "suspect": "it trained a version that was rolled back, and waits until an operator releases it",
    "forgotten": "it was forgotten on demand",
    "trained": "it trained a version of the line that is served",
}
#: Feedback that says this answer is the worse of two, given on the better one, whose examples came of it.
_COMPARED: Final = (
    "SELECT id FROM feedback WHERE text = ? AND rejected IS NOT NULL AND interaction_id IS NOT NULL ORDER BY created_at"
)
_EXAMPLES: Final = (
    "SELECT id, feedback_id, kind, objective, state, reason, detail FROM examples"
    " WHERE interaction_id = :interaction OR feedback_id IN (SELECT value FROM json_each(:compared)) ORDER BY id"
)
_ROLES: Final = (
    'SELECT ue.example_id, ue.role, updates.id AS "update", updates.state AS outcome, updates.finished_at'
    " FROM update_examples AS ue JOIN updates ON updates.id = ue.update_id"
    " WHERE ue.example_id IN (SELECT value FROM json_each(?)) ORDER BY updates.id"
)


def why_interaction(store: Store, learner: str, interaction_id: str) -> dict[str, Any]:
    """What came of an interaction, and whether what is served has learned from it.

    ``feedback`` and ``examples`` (each with its ``updates`` and ``because``: why it is in its state), ``updates``
    ({role: numbers}), and ``served``: ``version``, whether it ``learned``, ``through`` (versions of its line that
    trained on it), ``judged_by_it`` (those that it judged), ``because`` in words. Raises
    :class:`~selflearn.errors.NotFound`, which says so if it was forgotten.
    """
    shown = show_interaction(store, learner, interaction_id)
    connection = store.connection()
    compared = [row["id"] for row in rows(connection, _COMPARED, (interaction_id,))]
    given = {"interaction": interaction_id, "compared": json.dumps(compared)}
    found = rows(connection, _EXAMPLES, given)
    used = rows(connection, _ROLES, (json.dumps([row["id"] for row in found]),))
    examples = [_example(row, [use for use in used if use["example_id"] == row["id"]]) for row in found]
    told = ("id", "conversation", "source", "user", "role", "version", "state", "created_at", "messages", "answer")
    return {
        "interaction": {name: shown[name] for name in told},
        "feedback": shown["feedback"],
        "compared_in": compared,
        "examples": examples,
        "updates": {role: sorted({u["update"] for u in used if u["role"] == role}) for role in (*ROLES, LEFT_OUT)},
        "served": _served(connection, learner, examples, bool(shown["feedback"] or compared)),
    }


def _example(row: Mapping[str, Any], used: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    updates = [{name: use[name] for name in ("update", "role", "outcome", "finished_at")} for use in used]
    return {**row, "because": _because(row), "updates": updates}


def _because(row: Mapping[str, Any]) -> str:
    if row["state"] != "quarantined":
        return _NOT_YET[row["state"]]
    why = QUARANTINE.get(row["reason"], row["reason"] or "nobody knows why")
    return f"it is in quarantine: {why}" + (f" ({row['detail']})" if row["detail"] else "")


def _served(
    connection: sqlite3.Connection, learner: str, examples: Sequence[Mapping[str, Any]], said: bool
) -> dict[str, Any]:
    present = served_version(connection, learner)
    line = set(line_of(connection, present))
    uses = [use for example in examples for use in example["updates"] if use["update"] in line]
    through = sorted({use["update"] for use in uses if use["role"] in ("train", "replay")})
    judged = sorted({use["update"] for use in uses if use["role"] in ("holdout", "retained")})
    return {
        "version": present,
        "learned": bool(through),
        "through": through,
        "judged_by_it": judged,
        "because": _learned_through(present, through) if through else _not_learned(examples, said),
    }


def _learned_through(present: int, through: Sequence[int]) -> str:
    first = f"version {through[0]} trained on it"
    return first if present == through[0] else f"{first}, and version {present} descends from it"


def _not_learned(examples: Sequence[Mapping[str, Any]], said: bool) -> str:
    if not said:
        return "nobody said anything about it, and what nobody said anything about never trains"
    if not examples:
        return "what was said about it became no example (see the status of the feedback)"
    return "; ".join(dict.fromkeys(f"example {example['id']}: {example['because']}" for example in examples))
