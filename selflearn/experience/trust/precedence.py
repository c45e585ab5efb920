"""Precedence: which words about one answer count, when people say several things about it.

- Somebody's words outrank what was read from behaviour (signals), whichever came first.
- A *correction* says what to answer, so nothing else need say what not to: it stands for the answer's down-rating, its
  up-rating and its rewards, before and after it.
- A *down-rating* says that the answer is wrong: it takes back the up-rating and the rewards of the answer. A reward
  teaches to give what it is for, the more the higher it is, so that even a low one would teach a wrong answer.
- An *up-rating* takes back the down-rating, and stands beside rewards, which say how good.
- Of two corrections, two ratings or two rewards the latest counts.
- *Comments* and *comparisons* stand beside each other and all others: what an answer is in the light of a comment, or
  better than, does not depend on whether it is right.

What is taken back goes to quarantine as superseded (or down-rated). What has trained goes there too where the same
source takes it back, so that it is not replayed; what another source said and a version learned stays. Words about
different answers to the same prompt are the matter of :mod:`selflearn.experience.trust.contradictions`.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from selflearn.experience.examples import retire_examples
from selflearn.experience.given import Given
from selflearn.experience.signals import Kind, Objective, objective_of
from selflearn.experience.trust.quarantine import DOWN_RATED, SUPERSEDED
from selflearn.store import rows

#: The kinds that say whether the answer was good: one of them in a person's words outranks every signal.
_VERDICTS: Final = "('rating', 'correction', 'preference', 'reward')"
_UP: Final[Objective] = objective_of("rating", 1.0)
_DOWN: Final[Objective] = objective_of("rating", -1.0)
_REWARD: Final[Objective] = objective_of("reward")
#: Somebody who may teach said it in so many words.
_SAID: Final = "FROM feedback WHERE interaction_id = :interaction AND signal IS NULL AND role != 'client' AND id != :id"


def why_outranked(connection: sqlite3.Connection, given: Given, interaction_id: str, feedback_id: str) -> str | None:
    """Why feedback (recorded already) changes nothing for this answer: a stronger word stands. None if it counts."""

    def said(condition: str) -> bool:
        asked = {"interaction": interaction_id, "id": feedback_id}
        return bool(rows(connection, f"SELECT 1 {_SAID} AND {condition} LIMIT 1", asked))

    def wrong() -> bool:
        asked = {"interaction": interaction_id, "id": feedback_id}
        latest = f"SELECT value {_SAID} AND kind = 'rating' ORDER BY created_at DESC, rowid DESC LIMIT 1"
        return any(row["value"] < 0 for row in rows(connection, latest, asked))

    # A correction that is itself held back says nothing yet.
    corrected = "kind = 'correction' AND status != 'quarantined'"
    if given.implicit:
        stands = said(f"kind IN {_VERDICTS}")
        return "recorded; somebody said what they think of this answer, which outranks a signal" if stands else None
    if given.kind == "rating" and given.value == 1:
        # Somebody took the trouble to write the right answer: that outweighs a click.
        return "a correction of this interaction stands" if said("kind = 'correction'") else None
    if given.kind == "rating":
        return "a correction of this interaction stands, and says so already" if said(corrected) else None
    if given.kind == "reward" and (said(corrected) or wrong()):
        return "somebody said that this answer is wrong; a reward would teach to give it"
    return None


def overrule(connection: sqlite3.Connection, given: Given, interaction_id: str, source: str) -> list[str]:
    """Takes back the examples of an answer that feedback of ``source`` overrules; returns what people should know."""

    def retire(reason: str, objective: Objective) -> int:
        kind: Kind = "reward" if objective == _REWARD else "rating"
        return retire_examples(connection, interaction_id, reason, source=source, kind=kind, objective=objective)

    if not given.implicit and given.kind != "comment":
        retire_examples(connection, interaction_id, SUPERSEDED, source=source, implicit=True)
    if given.kind == "correction":
        # An up-rating goes as well: it has the objective of the correction, of which an interaction has one example.
        retire(SUPERSEDED, _DOWN)
        retire(SUPERSEDED, _REWARD)
    elif given.kind == "rating" and given.value == 1:
        retire(SUPERSEDED, _DOWN)
    elif given.kind == "rating":
        retire(DOWN_RATED, _REWARD)
        if retire(DOWN_RATED, _UP):
            return ["the up-rated answer no longer trains"]
    return []
