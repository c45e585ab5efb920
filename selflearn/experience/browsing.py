"""Looking at what was recorded and what became of it: examples, interactions, and where they come from.

Lists are newest first and go on where the last one ended (``before``), however long they are. In lists texts are cut;
one thing alone is shown whole.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from selflearn.errors import NotFound
from selflearn.experience.examples import offer_of
from selflearn.experience.recording import load_interaction
from selflearn.experience.redaction import pseudonym
from selflearn.experience.texts import content_text
from selflearn.experience.trust.contradictions import rivals_of
from selflearn.experience.trust.orders import unknown_example, versions_that_learned
from selflearn.experience.trust.quarantine import CONTRADICTION
from selflearn.store import Store, rows

InteractionState = Literal["running", "completed", "failed", "cancelled", "interrupted"]

#: Characters of a text in a list.
_SHOWN: Final = 200
#: So many likes of an example are named.
_LIKES: Final = 20
#: So many sources are told, those with the most examples, and their feedback among so many pieces, the newest.
_SOURCES: Final = 200
_FEEDBACK: Final = 10_000

_LISTED: Final = (
    "id, kind, objective, state, reason, detail, vouched, messages, target, duplicates, source, user, interaction_id,"
    " created_at"
)


def list_examples(
    store: Store,
    learner: str,
    *,
    state: str | None = None,
    reason: str | None = None,
    source: str | None = None,
    kind: str | None = None,
    contains: str | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """Examples, newest first, each with its ``question`` (the last user turn) and ``target``, both cut.

    ``contains`` is looked for in prompt and target, whatever the case of ASCII letters. ``before`` is an example's id.
    """
    wanted = {"state": state, "reason": reason, "source": _name(source), "kind": kind}
    conditions, values = _equal(wanted)
    if before is not None:
        conditions, values = [*conditions, "id < ?"], [*values, before]
    if contains is not None:
        conditions, values = [*conditions, _says("target")], [*values, *[_pattern(contains)] * 2]
    sql = f"SELECT {_LISTED} FROM examples WHERE {' AND '.join(['learner = ?', *conditions])} ORDER BY id DESC LIMIT ?"
    return [_listed(row) for row in store.read(sql, (learner, *values, limit))]


def first_words(store: Store, ids: Sequence[int]) -> list[dict[str, Any]]:
    """``{"id", "question", "target"}`` of these examples in the order of their numbers, both texts cut."""
    sql = "SELECT id, messages, target FROM examples WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"
    found = store.read(sql, (json.dumps(list(ids)),))
    return [{**_without_messages(row), "target": _cut(row["target"])} for row in found]


def show_example(store: Store, learner: str, example_id: int) -> dict[str, Any]:
    """An example with all that is known of it; :class:`NotFound` if there is none.

    Beside its columns: ``feedback`` (the row that it comes from, or None), ``updates`` (its role in each, newest
    first), ``learned_from`` (versions that know it), ``likes`` (some of its cluster) and ``contradicts``.
    """
    connection = store.connection()
    columns = f"{_LISTED}, rejected, reward, digest, cluster, conversation, feedback_id, refusals, replays"
    found = rows(connection, f"SELECT {columns} FROM examples WHERE id = ? AND learner = ?", (example_id, learner))
    if not found:
        raise unknown_example(example_id)
    row = {**found[0], "messages": json.loads(found[0]["messages"]), "vouched": bool(found[0]["vouched"])}
    rivals = rivals_of(connection, learner, row["cluster"], offer_of(found[0]))
    return {
        **row,
        "feedback": next(iter(_feedback(connection, "id = ?", row["feedback_id"])), None),
        "updates": _updates(connection, example_id),
        "learned_from": versions_that_learned(connection, [example_id]),
        "likes": _likes(connection, learner, row["cluster"], example_id),
        "contradicts": [
            {"id": rival.id, "source": rival.source, "state": rival.state, "reason": rival.reason}
            for rival in rivals
            if rival.id != example_id
        ],
    }


def list_interactions(
    store: Store,
    learner: str,
    *,
    state: str | None = None,
    source: str | None = None,
    contains: str | None = None,
    before: str | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """Interactions, newest first, each with its ``question`` and ``answer`` (cut) and how much came of it.

    ``before`` is an interaction's id; :class:`NotFound` if there is none.
    """
    conditions, values = _equal({"state": state, "source": _name(source)})
    if before is not None:
        place = store.read("SELECT created_at, rowid FROM interactions WHERE id = ? AND learner = ?", (before, learner))
        if not place:
            raise NotFound(f"There is no interaction {before[:80]!r} to go on from.", param="before")
        conditions.append("(created_at, rowid) < (?, ?)")
        values += [place[0]["created_at"], place[0]["rowid"]]
    if contains is not None:
        conditions, values = [*conditions, _says("answer")], [*values, *[_pattern(contains)] * 2]
    found = store.read(
        "SELECT id, conversation, source, user, role, version, state, finish_reason, messages, answer, created_at,"
        " (SELECT count(*) FROM feedback WHERE interaction_id = interactions.id) AS feedback,"
        " (SELECT count(*) FROM examples WHERE interaction_id = interactions.id) AS examples"
        f" FROM interactions WHERE {' AND '.join(['learner = ?', *conditions])}"
        " ORDER BY created_at DESC, rowid DESC LIMIT ?",
        (learner, *values, limit),
    )
    return [{**_without_messages(row), "answer": _cut(row["answer"])} for row in found]


def show_interaction(store: Store, learner: str, interaction_id: str) -> dict[str, Any]:
    """An interaction with its ``feedback``, the ``examples`` that came of it, and the versions that learned from them.

    Raises :class:`NotFound`.
    """
    connection = store.connection()
    shown = load_interaction(connection, learner, interaction_id)
    examples = rows(
        connection, f"SELECT {_LISTED} FROM examples WHERE interaction_id = ? ORDER BY id", (interaction_id,)
    )
    return {
        **shown,
        "feedback": _feedback(connection, "interaction_id = ?", interaction_id),
        "examples": [_listed(row) for row in examples],
        "learned_from": versions_that_learned(connection, [row["id"] for row in examples]),
    }


def sources(store: Store, learner: str) -> list[dict[str, Any]]:
    """Where examples come from, those with the most first: ``{"source", "examples": {state: n}, "quarantine": {reason:
    n}, "contradictions", "feedback"}``; ``feedback`` counts among the newest ten thousand pieces."""
    states = _counted(
        store.read(
            "SELECT source, state AS label, count(*) AS n FROM examples WHERE learner = ? GROUP BY state, source",
            (learner,),
        )
    )
    reasons = _counted(
        store.read(
            "SELECT source, coalesce(reason, 'unknown') AS label, count(*) AS n FROM examples"
            " WHERE learner = ? AND state = 'quarantined' GROUP BY source, label",
            (learner,),
        )
    )
    newest = "SELECT source FROM feedback WHERE learner = ? ORDER BY created_at DESC LIMIT ?"
    said = {
        row["source"]: row["n"]
        for row in store.read(
            f"SELECT source, count(*) AS n FROM ({newest}) GROUP BY source ORDER BY n DESC LIMIT ?",
            (learner, _FEEDBACK, _SOURCES),
        )
    }
    named = sorted({*states, *said}, key=lambda source: (-sum(states.get(source, {}).values()), source))
    return [
        {
            "source": source,
            "examples": states.get(source, {}),
            "quarantine": reasons.get(source, {}),
            "contradictions": reasons.get(source, {}).get(CONTRADICTION, 0),
            "feedback": said.get(source, 0),
        }
        for source in named[:_SOURCES]
    ]


def _counted(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    counted: dict[str, dict[str, int]] = {}
    for row in found:
        counted.setdefault(row["source"], {})[row["label"]] = row["n"]
    return counted


def _name(source: str | None) -> str | None:
    """A source's name as it is stored."""
    return None if source is None else pseudonym(source)


def _equal(wanted: Mapping[str, str | None]) -> tuple[list[str], list[Any]]:
    given = {column: value for column, value in wanted.items() if value is not None}
    return [f"{column} = ?" for column in given], list(given.values())


def _says(column: str) -> str:
    """The condition that a column or the prompt is like a pattern, which is bound twice."""
    like = "LIKE ? ESCAPE '\\'"
    return f"({column} {like} OR EXISTS (SELECT 1 FROM json_tree(messages) WHERE type = 'text' AND value {like}))"


def _pattern(text: str) -> str:
    for sign in "\\%_":
        text = text.replace(sign, "\\" + sign)
    return f"%{text}%"


def _listed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**_without_messages(row), "target": _cut(row["target"]), "vouched": bool(row["vouched"])}


def _without_messages(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its last user turn in the place of all messages."""
    asked = [message for message in json.loads(row["messages"]) if message.get("role") == "user"]
    question = _cut(content_text(asked[-1])) if asked else None
    return {("question" if name == "messages" else name): question if name == "messages" else row[name] for name in row}


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _feedback(connection: sqlite3.Connection, condition: str, value: object) -> list[dict[str, Any]]:
    return rows(
        connection,
        "SELECT id, kind, value, text, rejected, reason, signal, source, user, role, status, created_at FROM feedback"
        f" WHERE {condition} ORDER BY created_at, rowid",
        (value,),
    )


def _updates(connection: sqlite3.Connection, example_id: int) -> list[dict[str, Any]]:
    return rows(
        connection,
        'SELECT updates.id AS "update", ue.role, updates.state AS outcome FROM update_examples AS ue'
        " JOIN updates ON updates.id = ue.update_id WHERE ue.example_id = ? ORDER BY updates.id DESC",
        (example_id,),
    )


def _likes(connection: sqlite3.Connection, learner: str, cluster: str, example_id: int) -> list[dict[str, Any]]:
    return rows(
        connection,
        "SELECT id, source, state, reason FROM examples WHERE learner = ? AND cluster = ? AND id != ?"
        " ORDER BY id DESC LIMIT ?",
        (learner, cluster, example_id, _LIKES),
    )
