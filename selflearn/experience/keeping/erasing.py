"""Taking rows away so that nothing refers to what is gone, with a tombstone where somebody may ask for it.

What retention and forgetting share. Rows of interactions and feedback are deleted. So are rows of examples, except
those that an update names: they stay, emptied, in state ``forgotten``, with the digest by which manifests know them.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from selflearn.experience.curation import near_duplicates
from selflearn.experience.texts import sha256
from selflearn.store import rows

Subject = Literal["interaction", "feedback", "example"]
#: What an emptied example says instead of where it came from.
FORGOTTEN: Final = "forgotten"

#: Who deletes what is too old or too much, as tombstones name it.
RETENTION: Final = "retention"

#: Conditions on columns of a JSON list of ids that is bound as the only parameter.
IN_LIST: Final = "IN (SELECT value FROM json_each(?))"
#: Preferences over another interaction (``text`` is its id), whose answer they have.
_COMPARISONS: Final = "feedback WHERE rejected IS NOT NULL AND interaction_id IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Note:
    """What a tombstone says: whose learner, who did it, why, and when."""

    learner: str
    actor: str
    reason: str
    at: float


def erase_interactions(connection: sqlite3.Connection, ids: Sequence[str], note: Note | None) -> Counter[str]:
    """Deletes interactions with all feedback on them and all examples that came of them; returns how many of each."""
    listed = json.dumps(list(ids))
    done = erase_feedback(connection, _ids(connection, f"feedback WHERE interaction_id {IN_LIST}", listed), note)
    done += erase_feedback(connection, _ids(connection, f"{_COMPARISONS} AND text {IN_LIST}", listed), note)
    done += erase_examples(connection, _ids(connection, f"examples WHERE interaction_id {IN_LIST}", listed), note)
    found = rows(connection, f"SELECT id, messages, answer FROM interactions WHERE id {IN_LIST}", (listed,))
    bury(connection, "interaction", {row["id"]: digest_of_interaction(row) for row in found}, note)
    connection.execute(f"DELETE FROM interactions WHERE id {IN_LIST}", (listed,))
    return done + Counter(interactions=len(found))


def erase_feedback(connection: sqlite3.Connection, ids: Sequence[str], note: Note | None) -> Counter[str]:
    """Deletes feedback with the examples that came of it."""
    listed = json.dumps(list(ids))
    done = erase_examples(connection, _ids(connection, f"examples WHERE feedback_id {IN_LIST}", listed), note)
    found = rows(
        connection, f"SELECT id, kind, value, text, rejected, reason FROM feedback WHERE id {IN_LIST}", (listed,)
    )
    bury(connection, "feedback", {row["id"]: digest_of_feedback(row) for row in found}, note)
    connection.execute(f"DELETE FROM feedback WHERE id {IN_LIST}", (listed,))
    return done + Counter(feedback=len(found))


def erase_examples(connection: sqlite3.Connection, ids: Sequence[int], note: Note | None) -> Counter[str]:
    """Deletes examples, or empties those that an update names (``emptied``); the feedback stays."""
    found = rows(
        connection,
        "SELECT id, digest, signature, EXISTS (SELECT 1 FROM update_examples WHERE example_id = examples.id) AS named"
        f" FROM examples WHERE id {IN_LIST} AND state != 'forgotten'",
        (json.dumps(list(ids)),),
    )
    for row in found:
        near_duplicates.unindex(connection, row["id"], row["signature"])
    bury(connection, "example", {row["id"]: row["digest"] for row in found}, note)
    named = json.dumps([row["id"] for row in found if row["named"]])
    connection.execute(
        "UPDATE examples SET messages = '[]', target = '', rejected = NULL, reward = NULL, signature = NULL,"
        " state = 'forgotten', reason = NULL, detail = NULL, feedback_id = NULL, interaction_id = NULL,"
        f" conversation = '{FORGOTTEN}', source = '{FORGOTTEN}', user = NULL WHERE id {IN_LIST}",
        (named,),
    )
    unnamed = json.dumps([row["id"] for row in found if not row["named"]])
    connection.execute(f"DELETE FROM examples WHERE id {IN_LIST}", (unnamed,))
    return Counter(examples=len(found), emptied=sum(row["named"] for row in found))


def bury(connection: sqlite3.Connection, subject: Subject, digests: Mapping[Any, str], note: Note | None) -> None:
    """Writes a tombstone for each id, if there is a note: there was a row, and so its content is recognised."""
    if note is None:
        return
    connection.executemany(
        "INSERT INTO tombstones (learner, subject, subject_id, digest, actor, reason, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (note.learner, subject, str(subject_id), digest, note.actor, note.reason, note.at)
            for subject_id, digest in digests.items()
        ],
    )


def digest_of_interaction(row: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of what was asked and answered, as it is stored."""
    return sha256(f"{row['messages']}\n{row['answer'] or ''}")


def digest_of_feedback(row: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of what was said, as it is stored."""
    return sha256(json.dumps([row[name] for name in ("kind", "value", "text", "rejected", "reason")]))


def versions_that(connection: sqlite3.Connection, examples: Collection[int], *roles: str) -> set[int]:
    """The registered versions in whose update one of the examples had one of these roles."""
    marks = ", ".join("?" for _ in roles)
    found = connection.execute(
        "SELECT DISTINCT update_id FROM update_examples JOIN versions ON versions.id = update_id"
        f" WHERE example_id {IN_LIST} AND role IN ({marks})",
        (json.dumps(list(examples)), *roles),
    )
    return {int(row[0]) for row in found}


def _ids(connection: sqlite3.Connection, source: str, listed: str) -> list[Any]:
    return [row[0] for row in connection.execute(f"SELECT id FROM {source}", (listed,))]
