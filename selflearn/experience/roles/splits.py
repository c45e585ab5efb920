"""Test, then train: which examples train the next update, and which judge it.

Of the new examples a part first judges one update and trains in a later one, so that every correction sticks in the
end. What must hold: no version is judged on anything that it or an ancestor trained on, where "anything" is a whole
cluster of likes. Where it can be had, those who judge come from other conversations as well.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.errors import NotEnoughExamples
from selflearn.experience.examples import Example, load_examples
from selflearn.experience.roles.candidates import Candidates, choose_candidates
from selflearn.experience.roles.sampling import sample_replay
from selflearn.experience.trust.quarantine import DOWN_RATED, SUPERSEDED

ROLES: Final = ("train", "replay", "holdout", "retained")

#: What keeps examples together: whoever judges shares none of it with what trains.
_Bond = Literal["cluster", "conversation"]
_Key = tuple[_Bond, str]
_BONDS: Final[tuple[_Bond, ...]] = ("cluster", "conversation")

_LEARNED: Final = (
    "SELECT 1 FROM update_examples AS ue WHERE ue.example_id = found.id AND ue.role IN ('train', 'replay')"
    " AND ue.update_id IN (SELECT value FROM json_each(:line))"
)
#: Which of :values trained. A conversation may be as long as it likes: its first thousand examples speak for it.
_TRAINED: Final[dict[_Bond, str]] = {
    "cluster": (
        "SELECT value FROM json_each(:values) WHERE EXISTS ("
        " SELECT 1 FROM examples AS found INDEXED BY examples_by_cluster"
        f" WHERE learner = :learner AND cluster = value AND EXISTS ({_LEARNED}))"
    ),
    "conversation": (
        "SELECT value FROM json_each(:values) WHERE EXISTS ("
        " SELECT 1 FROM (SELECT id FROM examples INDEXED BY examples_by_conversation"
        "  WHERE learner = :learner AND conversation = value ORDER BY id LIMIT 1000) AS found"
        f" WHERE EXISTS ({_LEARNED}))"
    ),
}


def _same(one: str, other: str) -> str:
    return f"lower(trim({one})) = lower(trim({other}))"


#: What contradicts what, by the objectives of the two (see ``trust.contradictions``). Here any other right answer
#: counts, whoever wrote or up-rated it: what is limited is a share of all new examples.
_OPPOSED: Final = (
    "CASE WHEN old.objective = 'supervised' AND new.objective = 'supervised'"
    f" THEN NOT {_same('old.target', 'new.target')}"
    " WHEN old.objective = 'paired_preference' AND new.objective = 'paired_preference'"
    f" THEN {_same('old.target', 'new.rejected')} AND {_same('old.rejected', 'new.target')}"
    " WHEN (old.objective, new.objective) IN"
    "  (VALUES ('supervised', 'unpaired_preference'), ('unpaired_preference', 'supervised'))"
    f" THEN {_same('old.target', 'new.target')} ELSE 0 END"
)
_CONTRADICTING: Final = (
    "SELECT new.id FROM examples AS new WHERE new.id IN (SELECT value FROM json_each(:ids)) AND NOT new.vouched"
    " AND EXISTS (SELECT 1 FROM examples AS old WHERE old.learner = :learner AND old.cluster = new.cluster"
    "  AND old.id < new.id AND old.messages = new.messages"
    f" AND {_OPPOSED}"
    "  AND (old.state NOT IN ('suspect', 'quarantined', 'forgotten') OR old.state = 'quarantined'"
    f"  AND old.reason IN ('{SUPERSEDED}', '{DOWN_RATED}') AND EXISTS ({_LEARNED.replace('found.', 'old.')})))"
    " ORDER BY new.id"
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The examples of one update by role, and the SHA-256 (hex) of their ids, digests and roles.

    ``contradicting`` are the ids of those in ``train`` and ``holdout`` that contradict what was said before.
    """

    train: tuple[Example, ...]
    replay: tuple[Example, ...]
    holdout: tuple[Example, ...]
    retained: tuple[Example, ...]
    digest: str
    contradicting: tuple[int, ...] = ()

    def roles(self) -> dict[str, tuple[Example, ...]]:
        """The examples by the name of their role, in the order of :data:`ROLES`."""
        return {"train": self.train, "replay": self.replay, "holdout": self.holdout, "retained": self.retained}

    def without(self, ids: Collection[int]) -> Snapshot:
        """The same but for these examples, which the update was given and did not use."""
        kept = ([example for example in examples if example.id not in ids] for examples in self.roles().values())
        contradicting = tuple(example_id for example_id in self.contradicting if example_id not in ids)
        return replace(make_snapshot(*kept), contradicting=contradicting)


def choose_roles(
    connection: sqlite3.Connection,
    learner: str,
    *,
    lineage: tuple[int, ...],
    judging: JudgingSettings,
    learning: LearningSettings,
    seed: int,
) -> Snapshot:
    """Chooses the examples of an update whose parent is ``lineage[0]`` (the base, if empty); changes nothing.

    Raises :class:`NotEnoughExamples` if there are too few to train and to judge on.
    """
    candidates = choose_candidates(connection, learner, judging, learning, seed)
    if len(candidates.fresh) < judging.min_holdout + _kept_to_train(candidates):
        raise _too_few(candidates, judging)
    holdout = _choose_holdout(connection, learner, lineage, candidates, judging, seed)
    if len(holdout) < judging.min_holdout:
        raise _too_few_judges(candidates, judging, len(holdout))
    judges = {example.id for example in holdout}
    new = sorted((*candidates.fresh, *candidates.due), key=lambda example: example.id)
    train = [example for example in new if example.id not in judges]
    # What is taught anew is not replayed: where the answers differ, the later one is the right one.
    replay = sample_replay(
        connection, learner, excluded=clusters_of(new), limit=learning.max_replay_examples, seed=seed
    )
    learned = clusters_of(train) | clusters_of(replay)
    retained = _choose_retained(connection, learner, lineage, learned, judging)
    snapshot = make_snapshot(train, replay, holdout, retained)
    return replace(snapshot, contradicting=find_contradicting(connection, learner, lineage, new))


def record_roles(connection: sqlite3.Connection, update_id: int, snapshot: Snapshot) -> None:
    """Writes down which examples an update uses, with the digests that they have now."""
    connection.executemany(
        "INSERT INTO update_examples (update_id, example_id, role, digest) VALUES (?, ?, ?, ?)",
        [(update_id, e.id, role, e.digest) for role, examples in snapshot.roles().items() for e in examples],
    )


def note_refusal(connection: sqlite3.Connection, update_id: int, limit: int = 2) -> int:
    """Counts a refusal against the examples that trained the update; returns how many went to quarantine.

    The count is taken from the roles of all refused updates, so that calling this twice counts once. What an operator
    vouched for stays.
    """
    connection.execute(
        "UPDATE examples SET refusals = ("
        " SELECT count(*) FROM update_examples AS ue JOIN updates ON updates.id = ue.update_id"
        " WHERE ue.example_id = examples.id AND ue.role = 'train' AND (updates.state = 'refused' OR updates.id = ?1))"
        " WHERE id IN (SELECT example_id FROM update_examples WHERE update_id = ?1 AND role = 'train')",
        (update_id,),
    )
    return connection.execute(
        "UPDATE examples SET state = 'quarantined', reason = 'refused',"
        " detail = 'trained ' || refusals || ' updates that were refused'"
        " WHERE id IN (SELECT example_id FROM update_examples WHERE update_id = ? AND role = 'train')"
        " AND refusals >= ? AND NOT vouched AND state NOT IN ('quarantined', 'forgotten')",
        (update_id, limit),
    ).rowcount


def note_override(connection: sqlite3.Connection, update_id: int) -> None:
    """Takes back what the refusal of an update did to the examples that trained it: an operator serves it all the same.

    Call it when the update counts as promoted, and before the states are derived: those that were in quarantine for
    their refusals leave it. What is there for another reason stays.
    """
    trained = "SELECT example_id FROM update_examples WHERE update_id = ?1 AND role = 'train'"
    connection.execute(
        "UPDATE examples SET refusals = ("
        " SELECT count(*) FROM update_examples AS ue JOIN updates ON updates.id = ue.update_id"
        " WHERE ue.example_id = examples.id AND ue.role = 'train' AND updates.state = 'refused')"
        f" WHERE id IN ({trained})",
        (update_id,),
    )
    connection.execute(
        "UPDATE examples SET state = 'fresh', reason = NULL, detail = NULL"
        f" WHERE id IN ({trained}) AND state = 'quarantined' AND reason = 'refused'",
        (update_id,),
    )


def _choose_holdout(
    connection: sqlite3.Connection,
    learner: str,
    lineage: tuple[int, ...],
    candidates: Candidates,
    judging: JudgingSettings,
    seed: int,
) -> list[Example]:
    """Who judges: groups that share neither a cluster nor a conversation with what trains.

    Where conversations are so long that too few could judge, groups that share no cluster: who corrects everything in
    one long chat must be able to teach as well.
    """
    holdout: list[Example] = []
    for bonds in (_BONDS, _BONDS[:1]):
        bound: set[_Key] = {
            (bond, value)
            for bond in bonds
            for value in trained_values(connection, learner, lineage, bond, (*candidates.fresh, *candidates.due))
        }
        for example in candidates.due:  # it judged before and trains now, and its likes with it
            bound |= _keys(example, bonds)
        groups = [members for members, keys in _groups(candidates.fresh, bonds) if not keys & bound]
        holdout = _whole_groups(groups, candidates, judging, seed)
        if len(holdout) >= judging.min_holdout:
            break
    return holdout


def _groups(examples: Iterable[Example], bonds: tuple[_Bond, ...]) -> list[tuple[list[Example], set[_Key]]]:
    """The examples that hang together by any chain of the bonds, with all their keys."""
    groups: list[tuple[list[Example], set[_Key]]] = []
    for example in examples:
        members, keys = [example], _keys(example, bonds)
        apart = []
        for group in groups:
            if group[1].isdisjoint(keys):
                apart.append(group)
            else:
                members, keys = [*group[0], *members], group[1] | keys
        groups = [*apart, (members, keys)]
    return groups


def _keys(example: Example, bonds: tuple[_Bond, ...]) -> set[_Key]:
    return {(bond, value) for bond in bonds if (value := getattr(example, bond))}


def _whole_groups(
    groups: list[list[Example]], candidates: Candidates, judging: JudgingSettings, seed: int
) -> list[Example]:
    """Whole groups in the order of a salted hash, until the wanted number judges; one example stays to train."""
    fresh = len(candidates.fresh)
    highest = min(max(judging.max_holdout, judging.min_holdout), fresh - _kept_to_train(candidates))
    wanted = min(max(math.ceil(judging.holdout_share * fresh), judging.min_holdout), highest)
    holdout: list[Example] = []
    for members in sorted(groups, key=lambda group: _salted(min(e.cluster for e in group), seed)):
        if len(holdout) >= wanted:
            break
        if len(holdout) + len(members) <= highest:  # a group too large to hold out whole trains whole
            holdout += members
    return holdout


def _kept_to_train(candidates: Candidates) -> int:
    """How many fresh examples must train: an update without anything to train on is none."""
    return 0 if candidates.due else 1


def _choose_retained(
    connection: sqlite3.Connection,
    learner: str,
    lineage: tuple[int, ...],
    learned: set[str],
    judging: JudgingSettings,
) -> list[Example]:
    """What measures retention: the served version's holdout, then the reserve in a fixed order, up to the limit.

    Right answers alone (supervised), where there are enough of them: their losses are nats per token, which the limit
    is in, and the others' are bounded, so that among many of them a rise would not show. Who teaches by ratings or
    preferences alone is judged by what there is.
    """
    found: list[Example] = []
    for state in ("held", "reserve"):
        # Sorted here: for an order by cluster, SQLite would walk all examples in it.
        likely = load_examples(connection, "examples.learner = ? AND examples.state = ?", (learner, state))
        found += sorted(likely, key=lambda example: (example.cluster, example.id))
    used = learned | trained_values(connection, learner, lineage, "cluster", found)
    unused = [example for example in found if example.cluster not in used]
    right = [example for example in unused if example.objective == "supervised"]
    return (right if len(right) >= judging.min_holdout else unused)[: judging.max_retained]


def find_contradicting(
    connection: sqlite3.Connection, learner: str, lineage: tuple[int, ...], new: Iterable[Example]
) -> tuple[int, ...]:
    """Those of ``new`` that say otherwise of a whole prompt than an earlier example that counts, or that was learned.

    What somebody takes back is superseded at once; where the line has learned it, it still counts here. What operators
    vouch for contradicts nothing: they decided.
    """
    given = {"ids": json.dumps([example.id for example in new]), "learner": learner, "line": json.dumps(lineage)}
    return tuple(int(row[0]) for row in connection.execute(_CONTRADICTING, given))


def trained_values(
    connection: sqlite3.Connection, learner: str, lineage: tuple[int, ...], bond: _Bond, examples: Iterable[Example]
) -> set[str]:
    """Of the clusters (or conversations) of ``examples``, those of which something trained in the line."""
    values = {value for example in examples for _, value in _keys(example, (bond,))}
    given = {"learner": learner, "values": json.dumps(sorted(values)), "line": json.dumps(lineage)}
    return {str(row[0]) for row in connection.execute(_TRAINED[bond], given)}


def clusters_of(examples: Iterable[Example]) -> set[str]:
    """The clusters that the examples are in."""
    return {example.cluster for example in examples}


def _salted(cluster: str, seed: int) -> str:
    return hashlib.sha256(f"{cluster}{seed}".encode()).hexdigest()


def make_snapshot(
    train: list[Example], replay: list[Example], holdout: list[Example], retained: list[Example]
) -> Snapshot:
    """The snapshot of these examples, with its digest."""
    named = zip(ROLES, (train, replay, holdout, retained), strict=True)
    lines = [f"{role} {example.id} {example.digest}\n" for role, examples in named for example in examples]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return Snapshot(tuple(train), tuple(replay), tuple(holdout), tuple(retained), digest)


def _too_few(candidates: Candidates, judging: JudgingSettings) -> NotEnoughExamples:
    if not candidates.capped:
        return _not_enough(candidates, judging, "too_few_examples", "too few new examples", _MORE)
    problem = f"no source may bring more than {candidates.cap}, and {candidates.capped} of them have more"
    remedy = "Let others teach as well, or raise learning.min_source_examples or learning.max_source_share."
    return _not_enough(candidates, judging, "source_share", problem, remedy)


def _too_few_judges(candidates: Candidates, judging: JudgingSettings, found: int) -> NotEnoughExamples:
    problem = f"only {found} of them can judge: the likes of the others train"
    return _not_enough(candidates, judging, "too_few_judges", problem, _MORE)


_MORE: Final = "Send more feedback, or lower judging.min_holdout."


def _not_enough(
    candidates: Candidates, judging: JudgingSettings, reason: str, problem: str, remedy: str
) -> NotEnoughExamples:
    return NotEnoughExamples(
        f"Not enough examples for an update: {problem}. Found {len(candidates.fresh)} new and {len(candidates.due)} "
        "that judged before and train now; expected at least "
        f"{judging.min_holdout + 1} new ones, {judging.min_holdout} of them to judge. {remedy}",
        reason=reason,
    )
