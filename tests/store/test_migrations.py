"""A database of an earlier release is brought up to date with everything that is in it."""

from __future__ import annotations

import contextlib
import json
import operator
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.errors import StateError
from selflearn.experience import choose_roles, counts, funnel, new_examples
from selflearn.store import Store, database_path
from selflearn.store.migrations import migrations

INTERACTION = "INSERT INTO interactions VALUES (?, 'default', ?, ?, 0, '[]', 'so', ?, 'stop', '{}', 1, 1, 0, 1.0, 2.0)"
FEEDBACK = "INSERT INTO feedback VALUES (?, 'default', ?, ?, ?, ?, NULL, ?, ?, ?, 0, 3.0)"
EXAMPLE = "INSERT INTO examples VALUES (?, 'default', ?, ?, 'correction', '[]', 't', ?, 'c', ?, 2, 1, ?, ?, ?)"
UPDATE = "INSERT INTO updates VALUES (?, 'default', ?, 'test', ?, 0, '{}', 'd', NULL, NULL, NULL, ?, NULL)"


def fill(connection: sqlite3.Connection) -> None:
    """Two interactions, their feedback, four examples, and two updates of which one became a version."""
    connection.executemany(
        INTERACTION,
        [("chatcmpl-1", "talk", "alice/bob/x", "completed"), ("chatcmpl-2", "other", "local", "interrupted")],
    )
    connection.executemany(
        FEEDBACK,
        [
            ("fb-1", "chatcmpl-1", "correction", None, "right", "alice/bob/x", "d1", "accepted"),
            ("fb-2", "chatcmpl-2", "rating", 1.0, None, "local", "d2", "accepted"),
            ("fb-3", "chatcmpl-2", "rating", -1.0, None, "local", "d3", "ignored"),
        ],
    )
    refused = "trained 3 updates that were refused"
    connection.executemany(
        EXAMPLE,
        [
            (3, "fb-1", "chatcmpl-1", "e3", "trained", None, "alice/bob/x", 10.0),
            (4, "fb-2", "chatcmpl-2", "e4", "quarantined", refused, "local", 20.0),
            (5, "fb-2", "chatcmpl-2", "e5", "quarantined", "down-rated", "local", 30.0),
            (9, "fb-2", "chatcmpl-2", "e9", "fresh", None, "local", 40.0),
        ],
    )
    connection.executemany(UPDATE, [(1, 0, "promoted", 15.0), (2, 1, "refused", 35.0)])
    connection.executemany(
        "INSERT INTO update_examples VALUES (?, ?, ?, ?)", [(1, 3, "train", "e3"), (2, 4, "holdout", "e4")]
    )
    connection.execute("INSERT INTO versions VALUES (1, 'default', 0, 'm', 'a', 16.0)")


@pytest.fixture
def second_release(tmp_path: Path) -> Path:
    """A database with the schema of step 2 and some rows."""
    path = database_path(tmp_path / "state")
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrations().apply(Database(connection), stop_before="m003_experience")
        connection.execute("PRAGMA foreign_keys = ON")
        fill(connection)
    return path


def read(store: Store, columns: str, table: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in store.read(f"SELECT {columns} FROM {table} ORDER BY 1")]


def test_nothing_is_lost_between_step_2_and_3(second_release: Path) -> None:
    with Store.open(second_release) as store:
        assert read(store, "id, source, user, role", "interactions") == [
            ("chatcmpl-1", "alice", "bob/x", "client"),
            ("chatcmpl-2", "local", None, "client"),
        ]
        assert read(store, "id, interaction_id, value, text, source, user, role, digest, status", "feedback") == [
            ("fb-1", "chatcmpl-1", None, "right", "alice", "bob/x", "teacher", "d1", "accepted"),
            ("fb-2", "chatcmpl-2", 1.0, None, "local", None, "teacher", "d2", "accepted"),
            ("fb-3", "chatcmpl-2", -1.0, None, "local", None, "teacher", "d3", "ignored"),
        ]
        assert read(store, "id, conversation, objective, target, digest, cluster, source, user", "examples") == [
            (3, "talk", "supervised", "t", "e3", "c", "alice", "bob/x"),
            (4, "other", "supervised", "t", "e4", "c", "local", None),
            (5, "other", "supervised", "t", "e5", "c", "local", None),
            (9, "other", "supervised", "t", "e9", "c", "local", None),
        ]
        assert read(store, "id, state, reason, detail, refusals, duplicates, created_at", "examples") == [
            (3, "trained", None, None, 2, 1, 10.0),
            (4, "quarantined", "refused", "trained 3 updates that were refused", 2, 1, 20.0),
            (5, "quarantined", "down_rated", None, 2, 1, 30.0),
            (9, "fresh", None, None, 2, 1, 40.0),
        ]
        assert read(store, "*", "update_examples") == [(1, 3, "train", "e3"), (2, 4, "holdout", "e4")]
        assert read(store, "id, manifest_sha256", "versions") == [(1, "m")]


def test_what_an_update_had_seen_is_not_new_to_the_next(second_release: Path) -> None:
    with Store.open(second_release) as store:
        assert read(store, "id, newest_example", "updates") == [(1, 3), (2, 5)]


def test_what_was_there_is_counted(second_release: Path) -> None:
    with Store.open(second_release) as store:
        assert read(store, "subject, label, number", "tallies") == [
            ("examples", "fresh", 1),
            ("examples", "quarantined", 2),
            ("examples", "trained", 1),
            ("feedback", "correction/accepted", 1),
            ("feedback", "rating/accepted", 1),
            ("feedback", "rating/ignored", 1),
            ("interactions", "completed", 1),
            ("interactions", "interrupted", 1),
            ("quarantine", "down_rated", 1),
            ("quarantine", "refused", 1),
        ]
        store.write(lambda connection: connection.execute("UPDATE examples SET state = 'trained' WHERE id = 9"))
        states = read(store, "label, number", "tallies WHERE subject = 'examples'")
        assert states == [("fresh", 0), ("quarantined", 2), ("trained", 2)]


def test_references_hold_after_the_step(second_release: Path) -> None:
    with Store.open(second_release) as store:
        assert store.read("PRAGMA foreign_key_check") == []
        for statement in (
            "DELETE FROM interactions WHERE id = 'chatcmpl-1'",
            "DELETE FROM feedback WHERE id = 'fb-1'",
            "DELETE FROM examples WHERE id = 3",
            "INSERT INTO update_examples VALUES (1, 77, 'train', 'e')",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
                store.write(operator.methodcaller("execute", statement))
        # Ids are never used again, also not by the tables that were made anew.
        assert store.read("SELECT seq FROM sqlite_sequence WHERE name = 'examples'") == [{"seq": 9}]


def test_opening_again_changes_nothing(second_release: Path) -> None:
    Store.open(second_release).close()
    with contextlib.closing(sqlite3.connect(second_release)) as connection:
        before = list(connection.iterdump())
    Store.open(second_release).close()
    with contextlib.closing(sqlite3.connect(second_release)) as connection:
        assert list(connection.iterdump()) == before


def test_a_database_with_broken_references_is_left_as_it_was(second_release: Path) -> None:
    with contextlib.closing(sqlite3.connect(second_release, isolation_level=None)) as connection:
        connection.execute("DELETE FROM feedback WHERE id = 'fb-1'")  # references are not enforced here
        before = list(connection.iterdump())
    with pytest.raises(StateError, match="refers to rows that it does not have"):
        Store.open(second_release)
    with contextlib.closing(sqlite3.connect(second_release)) as connection:
        assert list(connection.iterdump()) == before


#: Columns of step 3's examples that these tests set; the others have the same value everywhere.
THIRD_EXAMPLE = (
    "INSERT INTO examples"
    " (id, learner, conversation, kind, objective, messages, target, digest, cluster, state, source, created_at)"
    " VALUES (?, ?, 'talk', 'rating', ?, '[]', 't', ?, ?, ?, 'local', 1.0)"
)
WAITING = (
    (1, "default", "supervised", "d1", "c1", "trained"),
    (2, "default", "supervised", "d2", "c2", "fresh"),
    (3, "default", "unpaired_preference", "d3", "c3", "waiting"),
    (4, "default", "paired_preference", "d4", "c4", "waiting"),
    (5, "default", "hindsight", "d5", "c5", "quarantined"),
    (6, "default", "supervised", "d6", "c6", "fresh"),
    (7, "other", "supervised", "d7", "c7", "fresh"),
)


@pytest.fixture
def third_release(tmp_path: Path) -> Path:
    """A database with the schema of step 3: examples that wait, a promoted update and a refused one after it."""
    path = database_path(tmp_path / "state")
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrations().apply(Database(connection), stop_before="m004_every_objective")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.executemany(THIRD_EXAMPLE, WAITING)
        update = (
            "INSERT INTO updates (id, learner, parent, trigger, state, seed, config, snapshot_digest, started_at,"
            " newest_example) VALUES (?, ?, ?, 'test', ?, 0, '{}', 'd', 5.0, ?)"
        )
        connection.executemany(
            update,
            [(1, "default", 0, "promoted", 2), (2, "default", 1, "refused", 6), (3, "other", 0, "refused", 7)],
        )
        connection.execute("INSERT INTO versions VALUES (1, 'default', 0, 'm', 'a', 16.0)")
        connection.execute("INSERT INTO update_examples VALUES (1, 1, 'train', 'd1')")
        rollout = "INSERT INTO rollouts (learner, version, action, actor, reason, created_at) VALUES (?, ?, ?, ?, ?, ?)"
        connection.execute(rollout, ("default", 1, "promote", "gate", "passed", 6.0))
    return path


def test_what_waited_for_its_objective_is_fresh(third_release: Path) -> None:
    with Store.open(third_release) as store:
        assert read(store, "id, state", "examples") == [
            (number, "fresh" if state == "waiting" else state) for number, *_, state in WAITING
        ]
        assert read(store, "subject, label, number", "tallies WHERE learner = 'default' AND number != 0") == [
            ("examples", "fresh", 4),
            ("examples", "quarantined", 1),
            ("examples", "trained", 1),
            ("quarantine", "unknown", 1),
        ]
        store.write(lambda connection: connection.execute("UPDATE examples SET state = 'suspect' WHERE id = 3"))
        assert counts(store, "default")["examples"] == {"fresh": 3, "quarantined": 1, "suspect": 1, "trained": 1}


def test_what_waited_asks_for_an_update_and_may_train_and_judge(third_release: Path) -> None:
    with Store.open(third_release) as store:
        assert new_examples(store, "default")[0] == 3  # those that waited, and what came after the first of them
        assert new_examples(store, "other")[0] == 0  # nothing of it waited: its refused update has seen all
        chosen = choose_roles(
            store.connection(),
            "default",
            lineage=(1,),
            judging=JudgingSettings(min_holdout=2),
            learning=LearningSettings(),
            seed=0,
        )
        assert {example.id for example in (*chosen.train, *chosen.holdout)} == {2, 3, 4, 6}
        assert [example.id for example in chosen.replay] == [1]


def test_the_state_waiting_is_in_no_answer(third_release: Path) -> None:
    with Store.open(third_release) as store:
        assert "waiting" not in json.dumps([counts(store, "default"), funnel(store, "default")])
