"""Contradictions: words about the same whole prompt that cannot both be right. An operator says whose are.

- *Written* answers (corrections and demonstrations) contradict each other if they say something else. Two good answers
  may well differ, so that two up-rated ones never do, nor an up-rated and a written one.
- An answer that is right (written or up-rated) contradicts the same answer *rated down*.
- *Preferences* contradict each other if one has chosen what the other rejected, and the other way around.

Rewards are on scales of their own and comments are no verdict: they contradict nothing. What people change their own
mind about is no contradiction: the newer word counts. Words about one and the same answer are the matter of
:mod:`selflearn.experience.trust.precedence`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from selflearn.experience.curation.problems import Problem
from selflearn.experience.signals import Objective
from selflearn.experience.texts import digest_of, normalise
from selflearn.experience.trust.quarantine import CONTRADICTION, SUPERSEDED, UNTRAINED, quarantine
from selflearn.store import rows

if TYPE_CHECKING:
    from selflearn.experience.examples import Offer

#: What says that an answer is right, wrong, or better than another one.
_VERDICTS: Final[frozenset[Objective]] = frozenset({"supervised", "unpaired_preference", "paired_preference"})
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
    """An example that says otherwise of the same whole prompt."""

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

    From the same source the newer word wins: what it said before is superseded, and nothing is held. (What a version
    has learned of that it knows, but it is not replayed against the newer word.) Against another source's word both are
    held, unless the older one has trained or is vouched for.
    """
    rivals = rivals_of(connection, learner, cluster, offer)
    own = [rival for rival in rivals if rival.source == source and not rival.vouched]
    others = [rival for rival in rivals if rival not in own]
    supersede(connection, own, f"{source} gave a newer answer")
    if not others:
        return None
    if _open_contradictions(connection, learner, source) < MAX_OPEN:
        told = f"{source} contradicts it; release the right one"
        quarantine(connection, [rival.id for rival in others if rival.is_open], CONTRADICTION, told)
    newest = others[0]
    return Problem(CONTRADICTION, f"example {newest.id} of {newest.source} contradicts it; release the right one")


def rivals_of(connection: sqlite3.Connection, learner: str, cluster: str, offer: Offer) -> list[Rival]:
    """The examples that count and contradict what an offer of this cluster says, newest first."""
    if offer.objective not in _VERDICTS:
        return []
    newest = "SELECT * FROM examples WHERE learner = ? AND cluster = ? ORDER BY id DESC LIMIT ?"
    found = rows(
        connection,
        "SELECT id, source, state, reason, vouched, kind, objective, messages, target, rejected"
        f" FROM ({newest}) WHERE objective IN (SELECT value FROM json_each(?)) AND {_COUNTING}",
        (learner, cluster, _LOOKED_AT, json.dumps(sorted(_VERDICTS)), CONTRADICTION),
    )
    prompt = digest_of(offer.messages, "")
    return [
        Rival(row["id"], row["source"], row["state"], row["reason"], bool(row["vouched"]))
        for row in found
        if _opposes(row, offer) and digest_of(json.loads(row["messages"]), "") == prompt
    ]


def _opposes(row: Mapping[str, Any], offer: Offer) -> bool:
    """Whether an example and an offer with the same prompt cannot both be right."""
    objectives = {str(row["objective"]), offer.objective}
    if objectives == {"supervised"}:
        return row["kind"] in WRITTEN and offer.kind in WRITTEN and contradicts(row["target"], offer.target)
    if objectives == {"supervised", "unpaired_preference"}:
        return normalise(row["target"]) == normalise(offer.target)
    if objectives == {"paired_preference"}:
        said = normalise(row["target"]), normalise(row["rejected"] or "")
        return said == (normalise(offer.rejected or ""), normalise(offer.target))
    return False


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
