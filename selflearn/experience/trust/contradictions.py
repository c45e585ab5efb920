"""Contradictions: two people who give different answers to the same question. An operator says who is right.

Only answers that somebody wrote can contradict each other (corrections and demonstrations, to the same whole prompt):
two good answers may well differ, so ratings never do. What people change their own mind about is no contradiction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from selflearn.experience.curation.problems import Problem
from selflearn.experience.texts import digest_of, normalise
from selflearn.experience.trust.quarantine import CONTRADICTION, SUPERSEDED, UNTRAINED, quarantine
from selflearn.store import rows

if TYPE_CHECKING:
    from selflearn.experience.examples import Offer

#: Kinds of examples whose target somebody wrote as the right answer.
WRITTEN: Final = ("correction", "demonstration")
#: With so many contradictions open, a source takes nobody else's examples into quarantine by another one: a hostile
#: key could deny everybody their learning. Its own go there all the same.
MAX_OPEN: Final = 16
#: The newest of a cluster that are looked at, so that a flood of one question costs nothing.
_LOOKED_AT: Final = 256
#: The newest in quarantine among which a source's open contradictions are counted.
_COUNTED: Final = 4096

#: Examples whose word counts: they may train or have trained, or they wait for the operator's decision.
_COUNTING: Final = "(state IN ('fresh', 'held', 'due', 'reserve', 'trained') OR state = 'quarantined' AND reason = ?)"
_MARKS: Final = " \t\n.,;:!?…\"'`“”„‘’«»()[]{}*_"
_NEGATIONS: Final = frozenset(
    {
        *("no", "not", "never", "none", "nothing", "nobody", "neither", "nor", "cannot", "without"),
        *("nein", "nicht", "nichts", "kein", "keine", "keinen", "niemals", "nie", "ohne"),
        *("non", "ne", "pas", "jamais", "sans", "sin", "nunca", "ningún", "ninguna"),
    }
)


@dataclass(frozen=True, slots=True)
class Rival:
    """An example that answers the same whole prompt differently."""

    id: int
    source: str
    state: str
    reason: str | None
    vouched: bool

    @property
    def is_open(self) -> bool:
        """Whether it can still be kept from training, and nobody has decided for it."""
        return not self.vouched and (self.state in UNTRAINED or self.reason == CONTRADICTION)


def hold(connection: sqlite3.Connection, learner: str, source: str, cluster: str, offer: Offer) -> Problem | None:
    """Why an offer must wait for the operator; None if nothing contradicts it.

    From the same source the newer word wins: what it said before and nothing has learned from is superseded, and
    nothing is held. Against another source's word both are held, unless the older one has trained or is vouched for.
    """
    rivals = rivals_of(connection, learner, cluster, offer.kind, offer.messages, offer.target)
    own = [rival for rival in rivals if rival.source == source and not rival.vouched]
    others = [rival for rival in rivals if rival not in own]
    supersede(connection, (rival for rival in own if rival.is_open), f"{source} gave a newer answer")
    if not others:
        return None
    if _open_contradictions(connection, learner, source) < MAX_OPEN:
        told = f"{source} answers the same question differently; release the right one"
        quarantine(connection, [rival.id for rival in others if rival.is_open], CONTRADICTION, told)
    newest = others[0]
    return Problem(
        CONTRADICTION,
        f"example {newest.id} of {newest.source} answers the same question differently; release the right one",
    )


def rivals_of(
    connection: sqlite3.Connection,
    learner: str,
    cluster: str,
    kind: str,
    messages: Sequence[Mapping[str, Any]],
    target: str,
) -> list[Rival]:
    """The examples that count and contradict an answer to these messages, newest first."""
    if kind not in WRITTEN:
        return []
    newest = "SELECT * FROM examples WHERE learner = ? AND cluster = ? ORDER BY id DESC LIMIT ?"
    found = rows(
        connection,
        f"SELECT id, source, state, reason, vouched, messages, target FROM ({newest})"
        f" WHERE objective = 'supervised' AND kind IN (?, ?) AND {_COUNTING}",
        (learner, cluster, _LOOKED_AT, *WRITTEN, CONTRADICTION),
    )
    prompt = digest_of(messages, "")
    return [
        Rival(row["id"], row["source"], row["state"], row["reason"], bool(row["vouched"]))
        for row in found
        if digest_of(json.loads(row["messages"]), "") == prompt and contradicts(row["target"], target)
    ]


def supersede(connection: sqlite3.Connection, rivals: Iterable[Rival], detail: str) -> None:
    """Puts what has been overruled into quarantine for good, wherever it is now."""
    ids = [rival.id for rival in rivals]
    if not ids:
        return
    connection.execute(
        "UPDATE examples SET state = 'quarantined', reason = ?, detail = ?, vouched = 0"
        " WHERE id IN (SELECT value FROM json_each(?))",
        (SUPERSEDED, detail, json.dumps(ids)),
    )


def contradicts(a: str, b: str) -> bool:
    """Whether two answers to one question say something else.

    They do not if one says the other and more ("8000" and "The port is 8000."), unless only one of them has a negation.
    Alike is not enough to agree: a single other word may be all that matters.
    """
    if normalise(a) == normalise(b):
        return False
    first, second = sorted((_words(a), _words(b)), key=len)
    if not first or not _contains(second, first):
        return True
    return _is_negated(first) != _is_negated(second)


def _words(text: str) -> list[str]:
    """The words of a text without the marks around them; a minus or a currency stays, for it changes a number."""
    return [word for part in normalise(text).split() if (word := part.strip(_MARKS))]


def _contains(words: Sequence[str], phrase: Sequence[str]) -> bool:
    size = len(phrase)
    return any(words[start : start + size] == phrase for start in range(len(words) - size + 1))


def _is_negated(words: Iterable[str]) -> bool:
    return any(word in _NEGATIONS or word.endswith(("n't", "n’t")) for word in words)


def _open_contradictions(connection: sqlite3.Connection, learner: str, source: str) -> int:
    """How many examples of a source wait for the operator because of a contradiction."""
    held = "SELECT reason FROM examples WHERE learner = ? AND state = 'quarantined' AND source = ?"
    sql = f"SELECT count(*) FROM ({held} ORDER BY id DESC LIMIT ?) WHERE reason = ?"
    return int(connection.execute(sql, (learner, source, _COUNTED, CONTRADICTION)).fetchone()[0])
