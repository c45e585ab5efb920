"""What a version's answers met with in service: counted while it goes on, at a cost that does not grow with history.

A conversation is one observation, whatever is said in it: its answers share a person and a topic. Failed answers are
counted by the minute, because what makes them fail (an engine that is away) strikes many conversations at once.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from selflearn.config import ExperienceSettings
from selflearn.experience.curation.repetition import repetition_of
from selflearn.experience.signals import switched_on
from selflearn.store import rows

ERROR_SECONDS: Final = 60.0
#: Rows become visible in another order than their times say, by as much as a write may take.
_OVERLAP_SECONDS: Final = 30.0
_PAGE: Final = 1000
_HEARD, _NEGATIVE, _COLLAPSED = 1, 2, 4

_OF_TERM: Final = (
    " FROM interactions WHERE learner = :learner AND version = :version"
    " AND created_at >= :since AND created_at < :until ORDER BY created_at"
)
_ANSWERS: Final = f"SELECT conversation, answer, state, finish_reason, created_at{_OF_TERM} LIMIT {_PAGE}"
_NEWEST: Final = f"SELECT conversation, created_at{_OF_TERM} DESC"
#: What was said since a moment about answers of a term, of which ``beaten`` ones were found worse than another. The
#: order of the tables is fixed (CROSS JOIN): what is new is little.
_SAID: Final = (
    "SELECT i.conversation, i.created_at AS answered_at, f.kind, f.value, f.rejected, f.signal, 0 AS beaten"
    " FROM feedback AS f CROSS JOIN interactions AS i ON i.id = f.interaction_id"
    " WHERE f.learner = :learner AND f.created_at >= :said AND f.role != 'client'"
    " AND i.version = :version AND i.created_at >= :since AND i.created_at < :until"
    " UNION ALL SELECT i.conversation, i.created_at, f.kind, f.value, f.rejected, f.signal, 1"
    " FROM feedback AS f CROSS JOIN interactions AS i ON i.id = f.text"
    " WHERE f.learner = :learner AND f.created_at >= :said AND f.role != 'client'"
    " AND f.rejected IS NOT NULL AND f.interaction_id IS NOT NULL"
    " AND i.version = :version AND i.created_at >= :since AND i.created_at < :until"
)
_LAST_SAID: Final = "SELECT max(created_at) FROM feedback WHERE learner = ?"


@dataclass(frozen=True, slots=True)
class Term:
    """When a version answered: from ``since`` to before ``until``, unix seconds. Of more conversations than ``most``
    the first count, with ``newest`` the last."""

    version: int
    since: float
    until: float
    most: int
    newest: bool = False


@dataclass(slots=True)
class Tally:
    """Counts what a term's answers met with. Each :meth:`look` reads what is new; what it reads twice counts once.

    After a restart the first look counts all of it again: nothing is kept anywhere else.
    """

    learner: str
    term: Term
    settings: ExperienceSettings
    _conversations: dict[str, int] = field(default_factory=dict)
    _minutes: dict[int, bool] = field(default_factory=dict)
    _since: float | None = None
    _answers_from: float = 0.0
    _said_from: float = 0.0

    def look(self, connection: sqlite3.Connection) -> None:
        """Reads the answers and the feedback that came since the last look."""
        if self._since is None:
            self._since = self._answers_from = self._said_from = self._first(connection)
        pending = self._read_answers(connection)
        self._read_feedback(connection, pending)

    def count(self, flag: int) -> int:
        return sum(1 for found in self._conversations.values() if found & flag)

    @property
    def conversations(self) -> int:
        """Conversations with an answer that came to its end, or failed."""
        return len(self._conversations)

    @property
    def heard(self) -> int:
        """Those with any feedback."""
        return self.count(_HEARD)

    @property
    def negative(self) -> int:
        """Those with a rating of −1, a correction, or a preference for another answer."""
        return self.count(_NEGATIVE)

    @property
    def collapsed(self) -> int:
        """Those with an answer that is empty, goes round in circles, or was cut off at its limit."""
        return self.count(_COLLAPSED)

    @property
    def minutes(self) -> tuple[int, int]:
        """Minutes with a failed answer, and all minutes with answers."""
        return sum(self._minutes.values()), len(self._minutes)

    def _first(self, connection: sqlite3.Connection) -> float:
        """Where counting begins: with the newest conversations only, at the oldest answer that still counts."""
        term = self.term
        if not term.newest:
            return term.since
        seen: set[str] = set()
        first = term.until
        for conversation, created_at in connection.execute(_NEWEST, self._given(term.since)):
            if conversation not in seen and len(seen) == term.most:
                break
            seen.add(conversation)
            first = float(created_at)
        return first

    def _given(self, since: float | None, **more: Any) -> dict[str, Any]:
        term = self.term
        return {"learner": self.learner, "version": term.version, "since": since, "until": term.until, **more}

    def _read_answers(self, connection: sqlite3.Connection) -> float:
        """Page by page up to the present; returns since when one is being answered: from there it reads on next time.

        Infinite if none is.
        """
        start, latest, pending = self._answers_from, self._answers_from, math.inf
        while True:
            page = rows(connection, _ANSWERS, self._given(start))
            for row in page:
                if row["state"] == "running":
                    pending = min(pending, row["created_at"])
                self._take(row)
                latest = row["created_at"]
            if len(page) < _PAGE or latest == start:
                break
            start = latest
        self._answers_from = max(self._answers_from, min(latest, pending) - _OVERLAP_SECONDS)
        return pending

    def _take(self, row: Mapping[str, Any]) -> None:
        conversation = row["conversation"]
        if row["state"] not in ("completed", "failed"):
            return  # who left, or what was stopped, says nothing about the answer
        if conversation not in self._conversations and len(self._conversations) >= self.term.most:
            return
        known = self._conversations.get(conversation, 0)
        failed = row["state"] == "failed"
        minute = int(row["created_at"] // ERROR_SECONDS)
        self._minutes[minute] = self._minutes.get(minute, False) or failed
        collapsed = not failed and not known & _COLLAPSED and _has_collapsed(row)
        self._conversations[conversation] = known | (_COLLAPSED if collapsed else 0)

    def _read_feedback(self, connection: sqlite3.Connection, pending: float) -> None:
        latest = min(connection.execute(_LAST_SAID, (self.learner,)).fetchone()[0] or 0.0, pending)
        for row in rows(connection, _SAID, self._given(self._since, said=self._said_from)):
            if row["conversation"] in self._conversations:
                self._conversations[row["conversation"]] |= self._meaning(row)
        self._said_from = max(self._said_from, latest - _OVERLAP_SECONDS)

    def _meaning(self, row: Mapping[str, Any]) -> int:
        if row["signal"] is not None and not switched_on(row["signal"], self.settings):
            return 0
        return _HEARD | (_NEGATIVE if is_negative(row) else 0)


def is_negative(row: Mapping[str, Any]) -> bool:
    """Whether feedback says that an answer is bad: of two compared answers, that the other one is better."""
    if row["kind"] == "rating":
        return row["value"] is not None and row["value"] < 0
    if row["kind"] == "preference":
        return bool(row["beaten"]) or row["rejected"] is None
    return bool(row["kind"] == "correction")


def _has_collapsed(row: Mapping[str, Any]) -> bool:
    answer = row["answer"] or ""
    return not answer.strip() or row["finish_reason"] == "length" or repetition_of(answer) is not None
