"""Which rows somebody means who wants to have them forgotten: by user, by source, by interaction, by words."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from selflearn.errors import BadRequest, NotFound
from selflearn.experience.examples import IMPORTED
from selflearn.experience.redaction import pseudonym
from selflearn.experience.texts import content_text, normalise
from selflearn.store import rows

By = Literal["user", "source", "interaction", "match"]
#: Fewer characters than this would be found nearly everywhere.
SHORTEST_MATCH: Final = 3
#: Rows that are read at once while words are looked for.
_PAGE: Final = 500
#: The columns with everything that people, clients or the model wrote, by table.
TEXTS: Final[Mapping[str, tuple[str, ...]]] = {
    "interactions": ("messages", "answer", "parameters", "conversation"),
    "feedback": ("text", "rejected", "reason", "conversation"),
    "examples": ("messages", "target", "rejected", "conversation"),
}
_JSON: Final = ("messages", "parameters")
#: How a tombstone of retention names the examples that stayed when their interaction went.
_STAYING: Final = re.compile(r"; examples? ([0-9, ]+) stays?$")


@dataclass(frozen=True, slots=True)
class Selector:
    """What to look by, and for what."""

    by: By
    value: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """Ids of rows; with an interaction goes what was said about it, with feedback what came of it."""

    interactions: Sequence[str] = ()
    feedback: Sequence[str] = ()
    examples: Sequence[int] = ()
    imports: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.interactions or self.feedback or self.examples or self.imports)


def check(selector: Selector) -> None:
    """Raises :class:`BadRequest` for a selector that names nothing, or nearly everything."""
    if not selector.value.strip():
        raise BadRequest(f"The {selector.by} to forget is blank. Name one.", param=selector.by, code="invalid_value")
    if selector.by == "match" and len(normalise(selector.value)) < SHORTEST_MATCH:
        raise BadRequest(
            f"The words to forget have fewer than {SHORTEST_MATCH} characters: they would be found nearly everywhere. "
            "Give longer ones.",
            param="match",
            code="invalid_value",
        )


def select(connection: sqlite3.Connection, learner: str, selector: Selector) -> Chosen:
    """The rows that a selector means. Raises :class:`NotFound` for an interaction that never was."""
    if selector.by == "match":
        return _matching(connection, learner, normalise(selector.value))
    if selector.by == "interaction":
        return _interaction(connection, learner, selector.value)
    return _theirs(connection, learner, selector)


def staying(ids: Sequence[int]) -> str:
    """The end of the reason on a tombstone of an interaction whose examples stay; read by :func:`select`."""
    listed = ", ".join(str(number) for number in ids)
    return f"; examples {listed} stay" if len(ids) > 1 else f"; example {listed} stays"


def _theirs(connection: sqlite3.Connection, learner: str, selector: Selector) -> Chosen:
    """All that came from a user or a source, as the name may be stored."""
    names = json.dumps([selector.value, pseudonym(selector.value)])
    condition = f"learner = ? AND {selector.by} IN (SELECT value FROM json_each(?))"
    found: dict[str, list[Any]] = {}
    for table in TEXTS:
        left = " AND state != 'forgotten'" if table == "examples" else ""
        sql = f"SELECT id FROM {table} WHERE {condition}{left}"
        found[table] = [row["id"] for row in rows(connection, sql, (learner, names))]
    imports = _imports(connection, learner, selector.value) if selector.by == "source" else []
    return Chosen(**found, imports=imports)


def _imports(connection: sqlite3.Connection, learner: str, source: str) -> list[str]:
    if not source.startswith(IMPORTED):
        return []
    name = source.removeprefix(IMPORTED)
    found = rows(connection, "SELECT digest FROM imports WHERE learner = ? AND name = ?", (learner, name))
    return [row["digest"] for row in found]


def _interaction(connection: sqlite3.Connection, learner: str, interaction_id: str) -> Chosen:
    """An interaction, and those of the same conversation and person whose messages begin with its own.

    A client sends the conversation so far with every turn: what was asked then is in all that followed.
    """
    found = rows(connection, "SELECT * FROM interactions WHERE id = ? AND learner = ?", (interaction_id, learner))
    if not found:
        return _gone(connection, learner, interaction_id)
    named = found[0]
    others = rows(
        connection,
        "SELECT id, messages FROM interactions WHERE learner = ? AND conversation = ? AND source = ? AND user IS ?",
        (learner, named["conversation"], named["source"], named["user"]),
    )
    asked = _dialogue(named["messages"])
    with_it = [row["id"] for row in others if _dialogue(row["messages"])[: len(asked)] == asked]
    return Chosen(with_it, _taken_from(connection, named, asked))


def _taken_from(connection: sqlite3.Connection, named: Mapping[str, Any], asked: Sequence[Any]) -> list[str]:
    """Feedback on the turn before that is nothing but what was asked here (the implicit signal ``next_turn``)."""
    said = normalise(content_text(asked[-1])) if asked else ""
    found = rows(
        connection,
        "SELECT feedback.id, text FROM feedback JOIN interactions ON interactions.id = interaction_id"
        " WHERE interactions.learner = ? AND interactions.conversation = ? AND signal = 'next_turn' AND text NOT NULL",
        (named["learner"], named["conversation"]),
    )
    return [row["id"] for row in found if normalise(row["text"]) == said]


def _dialogue(messages: str) -> list[Any]:
    """The messages without the instructions at their head, which are not handed on from turn to turn."""
    listed: list[dict[str, Any]] = json.loads(messages)
    while listed and listed[0].get("role") in ("system", "developer"):
        listed = listed[1:]
    return listed


def _gone(connection: sqlite3.Connection, learner: str, interaction_id: str) -> Chosen:
    """What is left of an interaction that is no longer there: the examples that outlived it, or nothing."""
    tombstones = rows(
        connection,
        "SELECT reason FROM tombstones WHERE subject = 'interaction' AND subject_id = ? AND learner = ?",
        (interaction_id, learner),
    )
    if not tombstones:
        raise NotFound(
            f"There is no interaction {interaction_id[:80]!r}, and none was forgotten. Expected the id of an answer "
            "(chatcmpl-..., resp_...).",
            param="interaction",
            code="interaction_not_found",
        )
    outlived = [match[1].split(", ") for row in tombstones if (match := _STAYING.search(row["reason"]))]
    ids = json.dumps([int(number) for numbers in outlived for number in numbers])
    left = "SELECT id FROM examples WHERE state != 'forgotten' AND id IN (SELECT value FROM json_each(?))"
    return Chosen(examples=[row["id"] for row in rows(connection, left, (ids,))])


def _matching(connection: sqlite3.Connection, learner: str, words: str) -> Chosen:
    """All rows with these normalised words, read in pages so that no snapshot is held for long."""
    found: dict[str, list[Any]] = {}
    for table, columns in TEXTS.items():
        pages = _pages(connection, learner, table, columns)
        found[table] = [row["id"] for row in pages if any(words in normalise(text) for text in _texts(row, columns))]
    return Chosen(**found)


def _pages(
    connection: sqlite3.Connection, learner: str, table: str, columns: Sequence[str]
) -> Iterator[dict[str, Any]]:
    sql = (
        f"SELECT rowid AS position, id, {', '.join(columns)} FROM {table}"
        f" WHERE rowid > ? AND learner = ? ORDER BY rowid LIMIT {_PAGE}"
    )
    position = 0
    while page := rows(connection, sql, (position, learner)):
        yield from page
        position = page[-1]["position"]


def _texts(row: Mapping[str, Any], columns: Sequence[str]) -> Iterator[str]:
    for column in columns:
        if column in _JSON:
            value = json.loads(row[column])
            yield from _strings(value)
            # words may go on from one part of a message to the next
            yield from (content_text(part) for part in value if isinstance(part, dict) and _in_parts(part))
        elif row[column] is not None:
            yield row[column]


def _in_parts(message: Mapping[str, Any]) -> bool:
    return isinstance(message.get("content"), list)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)
