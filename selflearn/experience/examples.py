"""Examples: a prompt and the answer that the model shall learn to give, with what makes two of them the same."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from selflearn.config import JudgingSettings
from selflearn.store import rows

ExampleKind = Literal["correction", "rating"]
ExampleState = Literal["fresh", "held", "due", "trained", "reserve", "suspect", "quarantined"]

SUPERSEDED: Final = "superseded"
DOWN_RATED: Final = "down-rated"
#: States of examples that no update has learned from, so that a newer word of the same interaction may replace them.
_UNTRAINED: Final = ("fresh", "held", "due", "reserve")

_COLUMNS: Final = (
    "examples.id, examples.kind, examples.messages, examples.target, examples.digest, examples.cluster,"
    " examples.state, interactions.conversation"
)


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt (chat messages) and its target answer. ``digest`` names its content, ``cluster`` its likes."""

    id: int
    kind: ExampleKind
    messages: tuple[Mapping[str, Any], ...]
    target: str
    digest: str
    cluster: str
    state: ExampleState
    conversation: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a new example comes from."""

    learner: str
    feedback_id: str
    interaction_id: str
    source: str
    created_at: float


@dataclass(frozen=True, slots=True)
class Added:
    """What became of an offered example; ``folded`` if it was known already."""

    example_id: int
    folded: bool


def normalise(text: str) -> str:
    """The text as comparisons see it: NFKC, case folded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def digest_of(messages: Sequence[Mapping[str, Any]], target: str) -> str:
    """SHA-256 (hex) of the normalised prompt and target: equal for exact duplicates."""
    turns = [[str(message.get("role", "")), normalise(content_text(message))] for message in messages]
    return _sha256(json.dumps([turns, normalise(target)], ensure_ascii=False))


def cluster_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 (hex) of the words of the last user turn: equal for examples that must never be told apart.

    The conversation is left out on purpose: two people who ask the same question get one cluster, so that an answer
    to it cannot train while another answer to it judges.
    """
    asked = [message for message in messages if message.get("role") == "user"]
    text = normalise(content_text(asked[-1])) if asked else "\n".join(normalise(content_text(m)) for m in messages)
    words = " ".join(re.findall(r"\w+", text))
    return _sha256(words or text)


def content_text(message: Mapping[str, Any]) -> str:
    """The text of a chat message, whose content is a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


def add_example(
    connection: sqlite3.Connection,
    origin: Origin,
    *,
    kind: ExampleKind,
    messages: Sequence[Mapping[str, Any]],
    target: str,
    judging: JudgingSettings,
) -> Added:
    """Adds an example, or folds it into the one that it duplicates.

    An older, untrained target of the same interaction is quarantined as superseded. A correction is ``fresh``; an
    up-rated answer may go to the permanent reserve instead.
    """
    digest, cluster = digest_of(messages, target), cluster_of(messages)
    known = rows(connection, "SELECT * FROM examples WHERE learner = ? AND digest = ?", (origin.learner, digest))
    retire_examples(connection, origin.interaction_id, SUPERSEDED, except_digest=digest)
    if known:
        _fold(connection, known[0], origin, target)
        return Added(example_id=known[0]["id"], folded=True)
    reserved = kind == "rating" and _goes_to_reserve(connection, origin.learner, cluster, judging)
    cursor = connection.execute(
        "INSERT INTO examples (learner, feedback_id, interaction_id, kind, messages, target, digest, cluster, state,"
        " source, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            origin.learner,
            origin.feedback_id,
            origin.interaction_id,
            kind,
            json.dumps(list(messages)),
            target,
            digest,
            cluster,
            "reserve" if reserved else "fresh",
            origin.source,
            origin.created_at,
        ),
    )
    return Added(example_id=int(cursor.lastrowid or 0), folded=False)


def retire_examples(
    connection: sqlite3.Connection,
    interaction_id: str,
    reason: str,
    *,
    except_digest: str = "",
    kind: ExampleKind | None = None,
) -> int:
    """Quarantines the untrained examples of an interaction (of one kind, if named); returns how many."""
    marks = ", ".join("?" for _ in _UNTRAINED)
    return connection.execute(
        f"UPDATE examples SET state = 'quarantined', reason = ? WHERE interaction_id = ? AND digest != ?"
        f" AND (? IS NULL OR kind = ?) AND state IN ({marks})",
        (reason, interaction_id, except_digest, kind, kind, *_UNTRAINED),
    ).rowcount


def load_examples(connection: sqlite3.Connection, condition: str, parameters: Sequence[Any]) -> list[Example]:
    """Examples that meet a condition on ``examples`` (with its ordering), with the conversation they come from."""
    sql = f"SELECT {_COLUMNS} FROM examples JOIN interactions ON interactions.id = examples.interaction_id"
    return [_example(row) for row in rows(connection, f"{sql} WHERE {condition}", parameters)]


def _example(row: Mapping[str, Any]) -> Example:
    return Example(**{**row, "messages": tuple(json.loads(row["messages"]))})


def _fold(connection: sqlite3.Connection, known: Mapping[str, Any], origin: Origin, target: str) -> None:
    connection.execute("UPDATE examples SET duplicates = duplicates + 1 WHERE id = ?", (known["id"],))
    if known["interaction_id"] == origin.interaction_id and known["state"] in _UNTRAINED:
        # The same person spells it differently (case, spacing): the latest spelling is what shall be learned.
        connection.execute("UPDATE examples SET target = ? WHERE id = ?", (target, known["id"]))
    if known["state"] == "quarantined" and known["reason"] in (SUPERSEDED, DOWN_RATED):
        # It was taken back by its own interaction; another one now vouches for it.
        connection.execute(
            "UPDATE examples SET state = 'fresh', reason = NULL, target = ?, feedback_id = ?, interaction_id = ?,"
            " source = ? WHERE id = ?",
            (target, origin.feedback_id, origin.interaction_id, origin.source, known["id"]),
        )


def _goes_to_reserve(connection: sqlite3.Connection, learner: str, cluster: str, judging: JudgingSettings) -> bool:
    """Whether an up-rated answer never trains: a fixed share by hash, bounded, of clusters that nothing else is in."""
    if int(cluster[:13], 16) / 16**13 >= judging.reserve_share:
        return False
    reserve, others = connection.execute(
        "SELECT coalesce(sum(state = 'reserve'), 0), coalesce(sum(cluster = ? AND state != 'reserve'), 0)"
        " FROM examples WHERE learner = ? AND (state = 'reserve' OR cluster = ?)",
        (cluster, learner, cluster),
    ).fetchone()
    return bool(reserve < judging.max_reserve and not others)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
