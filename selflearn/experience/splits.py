"""Test, then train: which examples train the next update, and which judge it.

Of the new examples a part first judges one update and trains in a later one, so that every correction sticks in the
end. What must hold: no version is judged on anything that it or an ancestor trained on, where "anything" is a whole
cluster of likes. The state of an example is therefore never set by hand: it follows from the roles that it had in the
updates of the line that is served, and is derived again in every transaction that changes what is served.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.errors import NotEnoughExamples
from selflearn.experience.examples import Example, load_examples

ROLES: Final = ("train", "replay", "holdout", "retained")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The examples of one update by role, and the SHA-256 (hex) of their ids, digests and roles.

    ``contradicting`` are the ids of those in ``train`` and ``holdout`` that answer a known question differently.
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
    fresh = load_examples(connection, "examples.learner = ? AND examples.state = 'fresh'", (learner,))
    due = load_examples(connection, "examples.learner = ? AND examples.state = 'due'", (learner,))
    if len(fresh) < judging.min_holdout + 1:
        raise _not_enough(fresh, due, judging, "too few new examples")
    trained = _trained_clusters(connection, lineage)
    bound_to_train = trained | {example.cluster for example in due}
    holdout = _choose_holdout(fresh, bound_to_train, judging, seed)
    chosen = {example.id for example in holdout}
    rest = sorted([e for e in (*fresh, *due) if e.id not in chosen], key=lambda example: example.id)
    train = rest[: learning.max_train_examples]
    if len(holdout) < judging.min_holdout:
        raise _not_enough(fresh, due, judging, f"only {len(holdout)} of them can judge: the likes of the others train")
    if not train:
        raise _not_enough(fresh, due, judging, "none is left to train on")
    # What is taught anew is not replayed: where the answers differ, the later one is the right one.
    anew = _clusters(holdout) | _clusters(train)
    replay = _choose_replay(connection, learner, anew, learning.max_replay_examples, seed)
    used = trained | _clusters(train) | _clusters(replay)
    retained = _choose_retained(connection, learner, used, judging.max_retained)
    snapshot = _snapshot(train, replay, holdout, retained)
    new = [example.id for example in (*train, *holdout)]
    return replace(snapshot, contradicting=_contradicting(connection, learner, new))


def record_roles(connection: sqlite3.Connection, update_id: int, snapshot: Snapshot) -> None:
    """Writes down which examples an update uses, with the digests that they have now."""
    connection.executemany(
        "INSERT INTO update_examples (update_id, example_id, role, digest) VALUES (?, ?, ?, ?)",
        [(update_id, e.id, role, e.digest) for role, examples in snapshot.roles().items() for e in examples],
    )


def derive_states(connection: sqlite3.Connection, learner: str, lineage: tuple[int, ...]) -> None:
    """Derives the state of every example from the line that is served; ``lineage`` is nearest first, without 0.

    Trained in the line: ``trained``. Else judged the served version: ``held``; judged an earlier one of the line:
    ``due``. Else trained a promoted version that is not in the line: ``suspect``. Else ``fresh``. The reserve and the
    quarantine keep their state.
    """
    connection.execute(
        """
        WITH line AS (SELECT value AS id FROM json_each(:lineage)),
        facts AS (
            SELECT ue.example_id,
                max(ue.role = 'train' AND line.id IS NOT NULL) AS trained,
                max(ue.role = 'holdout' AND ue.update_id = :served) AS held,
                max(ue.role = 'holdout' AND line.id IS NOT NULL) AS due,
                max(ue.role = 'train' AND line.id IS NULL AND versions.id IS NOT NULL) AS suspect
            FROM update_examples AS ue
            LEFT JOIN line ON line.id = ue.update_id
            LEFT JOIN versions ON versions.id = ue.update_id
            GROUP BY ue.example_id
        )
        UPDATE examples SET state = coalesce(
            (SELECT CASE WHEN trained THEN 'trained' WHEN held THEN 'held' WHEN due THEN 'due'
                         WHEN suspect THEN 'suspect' ELSE 'fresh' END
             FROM facts WHERE facts.example_id = examples.id), 'fresh')
        WHERE learner = :learner AND state NOT IN ('reserve', 'quarantined')
        """,
        {"lineage": json.dumps(lineage), "served": lineage[0] if lineage else 0, "learner": learner},
    )


def note_refusal(connection: sqlite3.Connection, update_id: int, limit: int = 2) -> int:
    """Counts a refusal against the examples that trained the update; returns how many went to quarantine.

    The count is taken from the roles of all refused updates, so that calling this twice counts once.
    """
    connection.execute(
        "UPDATE examples SET refusals = ("
        " SELECT count(*) FROM update_examples AS ue JOIN updates ON updates.id = ue.update_id"
        " WHERE ue.example_id = examples.id AND ue.role = 'train' AND (updates.state = 'refused' OR updates.id = ?1))"
        " WHERE id IN (SELECT example_id FROM update_examples WHERE update_id = ?1 AND role = 'train')",
        (update_id,),
    )
    return connection.execute(
        "UPDATE examples SET state = 'quarantined', reason = 'trained ' || refusals || ' updates that were refused'"
        " WHERE id IN (SELECT example_id FROM update_examples WHERE update_id = ? AND role = 'train')"
        " AND refusals >= ? AND state != 'quarantined'",
        (update_id, limit),
    ).rowcount


def _choose_holdout(
    fresh: list[Example], bound_to_train: set[str], judging: JudgingSettings, seed: int
) -> list[Example]:
    """Whole clusters in the order of a salted hash, until the wanted number judges; one example stays to train."""
    highest = min(max(judging.max_holdout, judging.min_holdout), len(fresh) - 1)
    wanted = min(max(math.ceil(judging.holdout_share * len(fresh)), judging.min_holdout), highest)
    clusters: dict[str, list[Example]] = {}
    for example in sorted(fresh, key=lambda e: (_salted(e.cluster, seed), e.id)):
        if example.cluster not in bound_to_train:
            clusters.setdefault(example.cluster, []).append(example)
    holdout: list[Example] = []
    for members in clusters.values():
        if len(holdout) >= wanted:
            break
        if len(holdout) + len(members) <= highest:  # a cluster too large to hold out whole trains whole
            holdout += members
    return holdout


def _choose_replay(
    connection: sqlite3.Connection, learner: str, excluded: set[str], limit: int, seed: int
) -> list[Example]:
    """A sample of the trained examples: the same for the same seed. Only their ids are listed, not their texts."""
    sql = "SELECT id FROM examples WHERE learner = ? AND state = 'trained' ORDER BY id"
    ids = [int(row[0]) for row in connection.execute(sql, (learner,))]
    sample = sorted(random.Random(seed).sample(ids, min(limit, len(ids))))
    condition = "examples.id IN (SELECT value FROM json_each(?)) ORDER BY examples.id"
    return [e for e in load_examples(connection, condition, (json.dumps(sample),)) if e.cluster not in excluded]


def _choose_retained(connection: sqlite3.Connection, learner: str, excluded: set[str], limit: int) -> list[Example]:
    """What measures retention: the served version's holdout, then the reserve in a fixed order, up to the limit."""
    condition = "examples.learner = ? AND examples.state = ? ORDER BY examples.cluster, examples.id"
    candidates = [e for state in ("held", "reserve") for e in load_examples(connection, condition, (learner, state))]
    return [example for example in candidates if example.cluster not in excluded][:limit]


def _contradicting(connection: sqlite3.Connection, learner: str, ids: list[int]) -> tuple[int, ...]:
    """Those of ``ids`` whose whole prompt got another answer before, from an example that still counts."""
    found = connection.execute(
        "SELECT new.id FROM examples AS new WHERE new.id IN (SELECT value FROM json_each(:ids)) AND EXISTS ("
        " SELECT 1 FROM examples AS old WHERE old.learner = :learner AND old.cluster = new.cluster AND old.id < new.id"
        " AND old.messages = new.messages AND lower(trim(old.target)) != lower(trim(new.target))"
        " AND old.state NOT IN ('suspect', 'quarantined')) ORDER BY new.id",
        {"ids": json.dumps(ids), "learner": learner},
    )
    return tuple(int(row[0]) for row in found)


def _trained_clusters(connection: sqlite3.Connection, lineage: Iterable[int]) -> set[str]:
    found = connection.execute(
        "SELECT DISTINCT examples.cluster FROM update_examples AS ue JOIN examples ON examples.id = ue.example_id"
        " WHERE ue.role IN ('train', 'replay') AND ue.update_id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(lineage)),),
    )
    return {str(row[0]) for row in found}


def _clusters(examples: Iterable[Example]) -> set[str]:
    return {example.cluster for example in examples}


def _salted(cluster: str, seed: int) -> str:
    return hashlib.sha256(f"{cluster}{seed}".encode()).hexdigest()


def _snapshot(train: list[Example], replay: list[Example], holdout: list[Example], retained: list[Example]) -> Snapshot:
    named = zip(ROLES, (train, replay, holdout, retained), strict=True)
    lines = [f"{role} {example.id} {example.digest}\n" for role, examples in named for example in examples]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return Snapshot(tuple(train), tuple(replay), tuple(holdout), tuple(retained), digest)


def _not_enough(fresh: list[Example], due: list[Example], judging: JudgingSettings, problem: str) -> NotEnoughExamples:
    return NotEnoughExamples(
        f"Not enough examples for an update: {problem}. Found {len(fresh)} new and {len(due)} that judged before and "
        f"train now; expected at least {judging.min_holdout + 1} new ones, {judging.min_holdout} of them to judge. "
        "Send more corrections, or lower judging.min_holdout."
    )
