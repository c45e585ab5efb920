"""Examples: a prompt and what the model shall learn from it, with what makes two of them the same."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from selflearn.config import ExperienceSettings
from selflearn.experience.curation import near_duplicates
from selflearn.experience.curation.problems import Problem, problem_of
from selflearn.experience.roles.states import state_of
from selflearn.experience.signals import CURATED, SINGLE, Kind, Objective
from selflearn.experience.texts import digest_of
from selflearn.experience.trust import contradictions
from selflearn.experience.trust.quarantine import DOWN_RATED, SUPERSEDED, UNTRAINED
from selflearn.store import rows

ExampleState = Literal["fresh", "held", "due", "trained", "reserve", "suspect", "quarantined", "forgotten"]

#: How the source of an import is named: what comes in bulk may also fill the reserve.
IMPORTED: Final = "import:"


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt (chat messages) and its target answer. ``digest`` names its content, ``cluster`` its likes.

    ``rejected`` is an answer that is worse than the target, ``reward`` a number for it; None where nobody said so. An
    operator answers for what is ``vouched``.
    """

    id: int
    kind: Kind
    objective: Objective
    messages: tuple[Mapping[str, Any], ...]
    target: str
    rejected: str | None
    reward: float | None
    digest: str
    cluster: str
    state: ExampleState
    conversation: str
    source: str
    vouched: bool


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a new example comes from. What was imported has no interaction."""

    learner: str
    feedback_id: str
    interaction_id: str | None
    conversation: str
    source: str
    user: str | None
    created_at: float


@dataclass(frozen=True, slots=True)
class Offer:
    """What an example would say."""

    kind: Kind
    objective: Objective
    messages: Sequence[Mapping[str, Any]]
    target: str
    rejected: str | None = None
    reward: float | None = None

    def digest(self) -> str:
        """SHA-256 (hex) of the content: equal for exact duplicates."""
        if self.objective == "supervised":
            return digest_of(self.messages, self.target)
        reward = None if self.reward is None else repr(self.reward)
        return digest_of(self.messages, self.target, self.objective, self.rejected, reward)


def offer_of(row: Mapping[str, Any]) -> Offer:
    """What an example says: of a row with ``kind``, ``objective``, ``messages`` (JSON), ``target`` and ``rejected``."""
    return Offer(row["kind"], row["objective"], json.loads(row["messages"]), row["target"], row["rejected"])


@dataclass(frozen=True, slots=True)
class Added:
    """What became of an offer: a new example, one that was known already, or one that is held back."""

    example_id: int
    status: Literal["accepted", "folded", "quarantined"]
    detail: str


@dataclass(frozen=True, slots=True)
class _Placed:
    """A new example's place: what it is, whose like it is, and whether something keeps it from training."""

    digest: str
    placement: near_duplicates.Placement
    problem: Problem | None


def add_example(connection: sqlite3.Connection, origin: Origin, offer: Offer, settings: ExperienceSettings) -> Added:
    """Adds an example, folds it into the one that it duplicates, or puts it into quarantine.

    An older example of the same interaction and objective is quarantined as superseded (but for comments and
    comparisons, of which an interaction may have several): an untrained one, and a trained one of the same source.
    """
    digest = offer.digest()
    if origin.interaction_id is not None and offer.objective in SINGLE:
        retire_examples(
            connection,
            origin.interaction_id,
            SUPERSEDED,
            source=origin.source,
            except_digest=digest,
            objective=offer.objective,
        )
    known = _known(connection, origin.learner, digest)
    if known is not None:
        return _fold(connection, known, origin, offer)
    placement = near_duplicates.place(connection, origin.learner, offer.messages, settings.near_duplicate_similarity)
    problem = problem_of(offer.messages, offer.target, settings) if offer.objective in CURATED else None
    if problem is None:
        twin = near_duplicates.twin(
            connection, origin.learner, origin.source, placement.cluster, offer, settings.near_duplicate_similarity
        )
        if twin is not None:
            connection.execute("UPDATE examples SET duplicates = duplicates + 1 WHERE id = ?", (twin,))
            return Added(twin, "folded", f"nearly the same as example {twin}")
        problem = contradictions.hold(connection, origin.learner, origin.source, placement.cluster, offer)
    return _insert(connection, origin, offer, _Placed(digest, placement, problem), settings)


def retire_examples(
    connection: sqlite3.Connection,
    interaction_id: str,
    reason: str,
    *,
    source: str,
    except_digest: str = "",
    kind: Kind | None = None,
    objective: Objective | None = None,
    implicit: bool = False,
) -> int:
    """Quarantines the examples of an interaction that a newer word of ``source`` replaces; returns how many.

    These are the untrained ones, and of the source's own the trained ones as well: what a version has learned it knows,
    but nobody shall replay what was taken back. Only those of one kind or objective, if named; ``implicit``: only those
    that nobody asked for in so many words.
    """
    marks = ", ".join("?" for _ in UNTRAINED)
    return connection.execute(
        "UPDATE examples SET state = 'quarantined', reason = ?, detail = NULL WHERE interaction_id = ? AND digest != ?"
        " AND (? IS NULL OR kind = ?) AND (? IS NULL OR objective = ?)"
        f" AND (state IN ({marks}) OR state = 'trained' AND source = ?)"
        " AND (NOT ? OR feedback_id IN (SELECT id FROM feedback WHERE signal IS NOT NULL))",
        (reason, interaction_id, except_digest, kind, kind, objective, objective, *UNTRAINED, source, implicit),
    ).rowcount


def load_examples(connection: sqlite3.Connection, condition: str, parameters: Sequence[Any]) -> list[Example]:
    """Examples that meet a condition on the table ``examples`` (with its ordering and limit)."""
    columns = ", ".join(f"examples.{field.name}" for field in fields(Example))
    found = rows(connection, f"SELECT {columns} FROM examples WHERE {condition}", parameters)
    return [
        Example(**{**row, "messages": tuple(json.loads(row["messages"])), "vouched": bool(row["vouched"])})
        for row in found
    ]


def _known(connection: sqlite3.Connection, learner: str, digest: str) -> dict[str, Any] | None:
    found = rows(
        connection,
        "SELECT id, state, reason, interaction_id, cluster FROM examples WHERE learner = ? AND digest = ?",
        (learner, digest),
    )
    if found and found[0]["state"] == "forgotten":
        # It was forgotten, and somebody says it again: that is a new example. The old row keeps its place in updates.
        connection.execute("UPDATE examples SET digest = 'forgotten:' || id WHERE id = ?", (found[0]["id"],))
        return None
    return found[0] if found else None


def _fold(connection: sqlite3.Connection, known: Mapping[str, Any], origin: Origin, offer: Offer) -> Added:
    connection.execute("UPDATE examples SET duplicates = duplicates + 1 WHERE id = ?", (known["id"],))
    if known["interaction_id"] == origin.interaction_id and known["state"] in UNTRAINED:
        # The same person spells it differently (case, spacing): the latest spelling is what shall be learned.
        connection.execute("UPDATE examples SET target = ? WHERE id = ?", (offer.target, known["id"]))
    if known["state"] == "quarantined" and known["reason"] in (SUPERSEDED, DOWN_RATED):
        # It was taken back; it is said again, which may contradict somebody now.
        problem = contradictions.hold(connection, origin.learner, origin.source, known["cluster"], offer)
        _revive(connection, known["id"], origin, offer, problem)
        if problem:
            return Added(known["id"], "quarantined", _told(known["id"], problem))
    return Added(known["id"], "folded", f"the same as example {known['id']}")


def _revive(
    connection: sqlite3.Connection, example_id: int, origin: Origin, offer: Offer, problem: Problem | None
) -> None:
    # Before it was taken back it may have had roles in the line that is served: they bind it as they do all others.
    state = "quarantined" if problem else state_of(connection, origin.learner, example_id)
    connection.execute(
        "UPDATE examples SET state = ?, reason = ?, detail = ?, vouched = 0, target = ?, feedback_id = ?,"
        " interaction_id = ?, conversation = ?, source = ?, user = ? WHERE id = ?",
        (
            state,
            problem.reason if problem else None,
            problem.detail if problem else None,
            offer.target,
            origin.feedback_id,
            origin.interaction_id,
            origin.conversation,
            origin.source,
            origin.user,
            example_id,
        ),
    )


def _told(example_id: int, problem: Problem) -> str:
    return f"example {example_id} is in quarantine ({problem.reason}): {problem.detail}"


def _insert(
    connection: sqlite3.Connection, origin: Origin, offer: Offer, placed: _Placed, settings: ExperienceSettings
) -> Added:
    problem, cluster = placed.problem, placed.placement.cluster
    values = {
        "learner": origin.learner,
        "feedback_id": origin.feedback_id,
        "interaction_id": origin.interaction_id,
        "conversation": origin.conversation,
        "kind": offer.kind,
        "objective": offer.objective,
        "messages": json.dumps(list(offer.messages)),
        "target": offer.target,
        "rejected": offer.rejected,
        "reward": offer.reward,
        "digest": placed.digest,
        "cluster": cluster,
        "signature": placed.placement.signature,
        "state": _first_state(connection, origin, offer, placed, settings),
        "reason": problem.reason if problem else None,
        "detail": problem.detail if problem else None,
        "source": origin.source,
        "user": origin.user,
        "created_at": origin.created_at,
    }
    marks = ", ".join(f":{name}" for name in values)
    number = int(
        connection.execute(f"INSERT INTO examples ({', '.join(values)}) VALUES ({marks})", values).lastrowid or 0
    )
    near_duplicates.index(connection, number, placed.placement.signature)
    if problem:
        return Added(number, "quarantined", _told(number, problem))
    return Added(number, "accepted", f"new example {number}")


def _first_state(
    connection: sqlite3.Connection, origin: Origin, offer: Offer, placed: _Placed, settings: ExperienceSettings
) -> ExampleState:
    if placed.problem is not None:
        return "quarantined"
    # A correction is there to be learned; an up-rated or imported answer may measure retention instead. What is no
    # right answer may not: what is kept for good is measured in one unit, nats per token of what should be likely.
    eligible = offer.kind == "rating" or origin.source.startswith(IMPORTED)
    if (
        eligible
        and offer.objective == "supervised"
        and _goes_to_reserve(connection, origin, placed.placement.cluster, settings)
    ):
        return "reserve"
    return "fresh"


def _goes_to_reserve(
    connection: sqlite3.Connection, origin: Origin, cluster: str, settings: ExperienceSettings
) -> bool:
    """Whether an answer never trains: a fixed share by hash, bounded, of clusters that nothing else is in.

    One source fills no more than half of the reserve: what measures all versions to come is nobody's alone.
    """
    if int(cluster[:13], 16) / 16**13 >= settings.reserve_share:
        return False
    reserve = "SELECT source FROM examples INDEXED BY examples_by_source WHERE learner = ? AND state = 'reserve'"
    sources = [row["source"] for row in rows(connection, reserve, (origin.learner,))]
    if len(sources) >= settings.max_reserve or sources.count(origin.source) >= (settings.max_reserve + 1) // 2:
        return False
    others = (
        "SELECT 1 FROM examples WHERE learner = ? AND cluster = ? AND state NOT IN ('reserve', 'forgotten') LIMIT 1"
    )
    return not rows(connection, others, (origin.learner, cluster))
