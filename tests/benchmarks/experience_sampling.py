"""What choosing an update's examples costs, as the number of examples that were trained before grows."""

from __future__ import annotations

import functools
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.experience import choose_roles
from selflearn.experience.roles.lines import line_of, served_version
from selflearn.experience.roles.sampling import sample_replay
from selflearn.store import Store, database_path
from tests.stores import LEARNER

NEW = 1000
UPDATE = 500
SOURCES = 20
SEEDS = 21

_UPDATES = (
    "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :updates)"
    " INSERT INTO updates (id, learner, parent, trigger, state, seed, config, snapshot_digest, started_at)"
    " SELECT n, :learner, n - 1, 'schedule', 'promoted', n, '{}', '', n FROM numbers"
)
_VERSIONS = "INSERT INTO versions SELECT id, learner, parent, '', '', started_at FROM updates"
_ROLLOUT = (
    "INSERT INTO rollouts (learner, version, action, actor, reason, created_at)"
    " VALUES (:learner, :updates, 'promote', 'gate', 'passed', 0)"
)
_EXAMPLES = (
    "WITH RECURSIVE numbers (n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)"
    " INSERT INTO examples (id, learner, conversation, kind, objective, messages, target, digest, cluster, state,"
    "  replays, source, created_at)"
    " SELECT n, :learner, 'conversation ' || (n / 3), 'correction', 'supervised',"
    "  json_array(json_object('role', 'user', 'content', 'Question ' || n || ': where is it kept, and by whom?')),"
    "  'It is kept in drawer ' || n || ', by whoever came last.', printf('%064d', n), printf('%064d', n * 7919),"
    "  :state, n % 4, 'key-' || (n % :sources), n FROM numbers"
)
_ROLES = (
    "INSERT INTO update_examples SELECT 1 + (id - 1) / :update, id, 'train', digest FROM examples"
    " WHERE state = 'trained'"
)


def fill(connection: sqlite3.Connection, trained: int) -> None:
    """Writes so many trained examples, with the updates that trained them, and ``NEW`` fresh ones."""
    given = {"learner": LEARNER, "updates": max(trained // UPDATE, 1), "update": UPDATE, "sources": SOURCES}
    connection.execute(_EXAMPLES, {**given, "first": 1, "last": trained, "state": "trained"})
    connection.execute(_EXAMPLES, {**given, "first": trained + 1, "last": trained + NEW, "state": "fresh"})
    for statement in (_UPDATES, _VERSIONS, _ROLLOUT, _ROLES):
        connection.execute(statement, given)


def measure(connection: sqlite3.Connection) -> dict[str, float]:
    """Median seconds of replay alone and of the whole choice, over some seeds."""
    judging, learning = JudgingSettings(), LearningSettings()

    def replay(seed: int) -> None:
        limit = learning.max_replay_examples
        assert len(sample_replay(connection, LEARNER, excluded=(), limit=limit, seed=seed)) == limit

    def choice(seed: int) -> None:
        line = line_of(connection, served_version(connection, LEARNER))
        chosen = choose_roles(connection, LEARNER, lineage=line, judging=judging, learning=learning, seed=seed)
        assert len(chosen.replay) == learning.max_replay_examples

    return {"replay": _median_seconds(replay), "choose_roles": _median_seconds(choice)}


def sampling_times(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """For each size ``{"trained", "replay", "choose_roles", "fill"}``: median seconds on a store of its own."""
    found = []
    for trained in sizes:
        with tempfile.TemporaryDirectory() as directory:
            store = Store.open(database_path(Path(directory)))
            try:
                began = time.perf_counter()
                store.write(functools.partial(fill, trained=trained))
                filled = time.perf_counter() - began
                found.append({"trained": trained, **measure(store.connection()), "fill": filled})
            finally:
                store.close()
    return found


def _median_seconds(work: Callable[[int], None]) -> float:
    taken = []
    for seed in range(SEEDS):
        began = time.perf_counter()
        work(seed)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
