"""Retention: limits are kept, what is needed stays, and what goes takes its feedback along."""

from __future__ import annotations

import itertools
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from selflearn.config import ExperienceSettings
from selflearn.errors import NotFound
from selflearn.experience import get_interaction
from selflearn.experience.keeping.forgetting import forget
from selflearn.experience.keeping.retention import Retained, retain, used_megabytes
from selflearn.experience.keeping.selection import Selector
from tests.experience.test_funnel import recounted, tallied
from tests.stores import LEARNER, Bench, tables
from tests.versions.candidates import promote_new

DAY = 86_400.0


def keep(bench: Bench, *, dry_run: bool = False, **limits: float) -> Retained:
    """Retention one day after all that the bench has recorded so far."""
    settings = ExperienceSettings(**limits)
    return retain(bench.store, LEARNER, settings, lambda: bench.now() + DAY, dry_run=dry_run)


def numbers(done: Retained) -> tuple[int, int, int, int]:
    return done.interactions, done.feedback, done.examples, done.kept


def ids(bench: Bench, table: str) -> list[Any]:
    return [row["id"] for row in bench.store.read(f"SELECT id FROM {table} ORDER BY rowid")]


def quarantine(bench: Bench, example: int | None) -> None:
    sql = "UPDATE examples SET state = 'quarantined', reason = 'operator' WHERE id = ?"
    bench.store.write(lambda connection: connection.execute(sql, (example,)).rowcount)


def test_without_limits_everything_is_kept(bench: Bench) -> None:
    bench.correct("question", "answer")
    before = tables(bench.store)
    assert numbers(keep(bench)) == (0, 0, 0, 0)
    assert tables(bench.store) == before


def test_old_interactions_go_and_young_ones_stay(bench: Bench) -> None:
    old = [bench.interaction(f"question {number}") for number in range(250)]  # more than one batch
    bench.feedback(old[0], "comment", text="never an example that trains")
    running = bench.interaction("still on its way", None, state="running")
    bench.ticks = itertools.count(DAY + 5000.0)
    young = bench.interaction("new question")
    done = keep(bench, keep_days=1.5)
    assert (done.interactions, done.fits) == (250, True)
    assert ids(bench, "interactions") == [running, young]
    assert tallied(bench.store) == recounted(bench.store)
    assert numbers(keep(bench, keep_days=1.5)) == (0, 0, 0, 0)


def test_examples_that_may_train_outlive_their_interaction(bench: Bench) -> None:
    corrected = bench.correct("What is the port?", "8000")
    asked = ids(bench, "interactions")[0]
    before = tables(bench.store)
    assert numbers(keep(bench, keep_days=0.5)) == (1, 0, 0, 1)
    (example,), (feedback,) = (bench.store.read(f"SELECT * FROM {name}") for name in ("examples", "feedback"))
    assert example == {**before["examples"][0], "interaction_id": None}
    assert feedback == {**before["feedback"][0], "interaction_id": None}
    (tombstone,) = bench.store.read("SELECT subject, subject_id, actor, reason FROM tombstones")
    assert tuple(tombstone.values()) == (
        "interaction",
        asked,
        "retention",
        f"older than 0.5 days; example {corrected.example_id} stays",
    )
    with pytest.raises(NotFound, match="its time was up"):
        get_interaction(bench.store, LEARNER, asked)
    for number in range(12):
        bench.correct(f"question {number}", f"answer {number}")
    assert bench.begin_update()  # it trains or judges as before


def test_an_expired_interaction_can_still_be_forgotten(bench: Bench) -> None:
    bench.correct("What is the port?", "8000")
    asked = ids(bench, "interactions")[0]
    keep(bench, keep_days=0.5)
    done = forget(
        bench.store,
        LEARNER,
        Selector("interaction", asked),
        actor="operator",
        reason="asked",
        now=bench.now,
        end_update=lambda number: None,
    )
    assert (done["interactions"], done["feedback"], done["examples"]) == (0, 1, 1)
    assert ids(bench, "examples") == ids(bench, "feedback") == []


def test_quarantined_examples_go_unless_a_version_used_them(bench: Bench, tmp_path: Path) -> None:
    version = promote_new(bench, tmp_path / "state", 0)
    used = bench.store.read("SELECT DISTINCT example_id AS id FROM update_examples ORDER BY id")
    for row in used:
        quarantine(bench, row["id"])
    unused = bench.correct("never used", "never")
    quarantine(bench, unused.example_id)
    content = bench.store.read("SELECT id, messages, target, digest FROM examples WHERE id != ?", (unused.example_id,))
    assert numbers(keep(bench, keep_days=0.5)) == (13, 1, 1, 12)
    assert bench.store.read("SELECT id, messages, target, digest FROM examples") == content
    assert bench.store.read("SELECT count(*) AS n FROM update_examples WHERE update_id = ?", (version,))[0]["n"] > 0
    assert bench.store.read("PRAGMA foreign_key_check") == []
    assert tallied(bench.store) == recounted(bench.store)


def test_what_only_a_refused_update_used_is_emptied(bench: Bench) -> None:
    for number in range(12):
        bench.correct(f"question {number}", f"answer {number}")
    update = bench.begin_update()
    bench.refuse(update)
    (first, *_) = bench.store.read("SELECT example_id AS id FROM update_examples WHERE update_id = ?", (update,))
    quarantine(bench, first["id"])
    assert numbers(keep(bench, keep_days=0.5)) == (12, 1, 1, 11)
    assert bench.states()[first["id"]] == "forgotten"
    assert bench.store.read("PRAGMA foreign_key_check") == []


def test_what_came_without_an_interaction_goes_too(bench: Bench) -> None:
    gone, kept = bench.correct("imported badly", "bad"), bench.correct("imported well", "good")
    quarantine(bench, gone.example_id)

    def loosen(connection: sqlite3.Connection) -> None:
        for table in ("examples", "feedback"):
            connection.execute(f"UPDATE {table} SET interaction_id = NULL")

    bench.store.write(loosen)
    assert numbers(keep(bench, keep_days=0.5, dry_run=True)) == (2, 1, 1, 0)
    assert numbers(keep(bench, keep_days=0.5)) == (2, 1, 1, 0)
    assert ids(bench, "examples") == [kept.example_id]
    assert ids(bench, "feedback") == [kept.id]


def test_a_dry_run_tells_what_would_go_and_changes_nothing(bench: Bench) -> None:
    for number in range(5):
        bench.correct(f"question {number}", f"answer {number}")
    quarantine(bench, 1)
    bench.feedback(bench.interaction("rated"), "comment", text="a comment")
    before = tables(bench.store)
    told = keep(bench, keep_days=0.5, dry_run=True)
    assert tables(bench.store) == before
    done = keep(bench, keep_days=0.5)
    assert numbers(done) == numbers(told)
    assert done.interactions == 6
    assert done.examples >= 1


def ask(bench: Bench, first: int, last: int) -> list[str]:
    """Many interactions of some pages each, quickly."""
    asked = [f"chatcmpl-{number:06d}" for number in range(first, last)]
    sql = (
        "INSERT INTO interactions (id, learner, conversation, source, version, messages, state, parameters, created_at)"
        " VALUES (?, ?, 'c', 'key', 0, ?, 'completed', '{}', ?)"
    )
    values = [(name, LEARNER, json.dumps([{"content": name * 600}]), bench.now()) for name in asked]
    bench.store.write(lambda connection: connection.executemany(sql, values).rowcount)
    return asked


def test_the_oldest_go_until_the_size_fits(bench: Bench) -> None:
    asked = ask(bench, 0, 600)
    before = used_megabytes(bench.store)
    limit = before * 0.6
    done = keep(bench, max_megabytes=limit)
    left = ids(bench, "interactions")
    assert left == asked[-len(left) :]
    assert 0 < done.interactions < 600
    assert done.fits
    assert done.megabytes_before == before
    assert before * 0.3 < done.megabytes_after == used_megabytes(bench.store) <= limit
    pages = bench.store.read("PRAGMA page_count")
    ask(bench, 600, 750)
    assert bench.store.read("PRAGMA page_count") == pages  # those of deleted rows are used again


def test_a_limit_that_what_is_needed_exceeds_is_told(bench: Bench) -> None:
    for number in range(20):
        bench.correct(f"question {number}", " ".join(f"word{number * 7 + place}" for place in range(300)))
    done = keep(bench, max_megabytes=0.01)
    assert numbers(done) == (20, 0, 0, 20)
    assert not done.fits
