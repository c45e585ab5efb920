"""Old versions go, those that somebody or something needs stay, and what was removed is never taken for damage."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from selflearn.backup import back_up
from selflearn.config import VersionsSettings
from selflearn.errors import VersionDamaged, VersionRemoved
from selflearn.restore import restore
from selflearn.store import Store, database_path
from selflearn.store.audit import list_audit, newest_digest, verify_audit
from selflearn.versions import (
    append,
    pin,
    promote,
    reconcile,
    roll_back,
    start_canary,
    undo_target,
    verify_registered,
    verify_version,
    version_directory,
    write_manifest,
)
from selflearn.versions.removal import mark_removed, removal_of
from selflearn.versions.retention import CHECKPOINTS, DAY, Pruned, plan, prune
from tests.stores import LEARNER, Bench, tables
from tests.versions.candidates import make_candidate, manifest_of, promote_new

SETTINGS = VersionsSettings(keep_last=1, keep_days=1.0)
LATER = 10 * DAY


def add(bench: Bench, count: int) -> None:
    """Versions in a line, each the parent of the next, as rows alone: what retention decides by."""

    def work(connection: sqlite3.Connection) -> None:
        for _ in range(count):
            parent = newest(connection)
            number = parent + 1
            connection.execute(
                "INSERT INTO updates (id, learner, parent, trigger, state, seed, config, snapshot_digest, started_at,"
                " newest_example) VALUES (?, ?, ?, 'test', 'promoted', 0, '{}', 'd', 1.0, 0)",
                (number, LEARNER, parent),
            )
            connection.execute(
                "INSERT INTO versions (id, learner, parent, manifest_sha256, adapter_sha256, created_at)"
                " VALUES (?, ?, ?, 'm', 'a', 1.0)",
                (number, LEARNER, parent),
            )
            append(
                connection, learner=LEARNER, version=number, action="promote", actor="gate", reason="", now=bench.now
            )

    bench.store.write(work)


def give_files(bench: Bench, state: Path, number: int) -> None:
    """Files for a version that has rows alone."""
    make_candidate(version_directory(state, number))
    sha256 = write_manifest(version_directory(state, number), manifest_of(bench, number))
    bench.store.write(
        lambda connection: (
            connection.execute("UPDATE versions SET manifest_sha256 = ? WHERE id = ?", (sha256, number)).rowcount
        )
    )


def newest(connection: sqlite3.Connection) -> int:
    found = connection.execute("SELECT coalesce(max(id), 0) FROM versions").fetchone()
    return int(found[0])


def sweep(bench: Bench, state: Path, settings: VersionsSettings = SETTINGS, *, at: float = LATER) -> Pruned:
    return prune(bench.store, state, LEARNER, settings, now=lambda: at)


def reasons(bench: Bench, settings: VersionsSettings = SETTINGS, at: float = LATER) -> dict[int, set[str]]:
    kept, _ = plan(bench.store.connection(), LEARNER, settings, at)
    return {each.version: set(each.because) for each in kept}


def far_back(bench: Bench, count: int) -> None:
    """A line of ``count`` versions in whose middle no checkpoint protects 1."""
    add(bench, count)
    assert 1 not in reasons(bench)


def test_a_sweep_from_the_plan_to_the_empty_place(bench: Bench, state: Path) -> None:
    add(bench, 12)
    for number in range(1, 13):
        make_candidate(version_directory(state, number))
    rehearsed = prune(bench.store, state, LEARNER, SETTINGS, now=lambda: LATER, dry_run=True)
    gone = [each.version for each in rehearsed.removed]
    assert gone == [1, 3]
    assert all(each.bytes > 0 for each in rehearsed.removed)
    assert len(list((state / "versions").iterdir())) == 12
    done = sweep(bench, state)
    assert (done.removed, done.kept) == (rehearsed.removed, rehearsed.kept)
    there = {path.name for path in (state / "versions").iterdir()}
    assert there == {f"v{number:06d}" for number in range(1, 13) if number not in gone}
    assert list((state / "work").iterdir()) == []
    removal = removal_of(bench.store.connection(), 1)
    assert removal is not None
    assert str(removal) == "removed on 1970-01-11 by retention"
    assert [(row["action"], row["actor"]) for row in list_audit(bench.store.connection(), 2)] == [
        ("version.remove", "retention")
    ] * 2
    before = tables(bench.store)
    assert sweep(bench, state).removed == ()
    assert tables(bench.store) == before


def test_young_and_last_ones_stay(bench: Bench) -> None:
    add(bench, 12)
    assert set(reasons(bench, at=bench.now())) == set(range(1, 13))
    assert set(reasons(bench, VersionsSettings(keep_last=1, keep_days=0.0))) == set(range(1, 13))
    assert set(reasons(bench, VersionsSettings(keep_last=12, keep_days=1.0))) == set(range(1, 13))
    bench.roll_back(1)  # it serves for a moment, and gives way again
    bench.roll_back(12)
    assert reasons(bench, at=bench.now() + 0.9 * DAY)[1] == {"rollback", "recent"}
    assert reasons(bench)[1] == {"rollback"}


@pytest.mark.parametrize("need", ["pinned", "canary", "served", "rollback", "ancestor", "update"])
def test_what_somebody_needs_stays(bench: Bench, state: Path, need: str) -> None:
    far_back(bench, 12)
    for number in (1, 12):
        give_files(bench, state, number)
    given: dict[str, Any] = {"learner": LEARNER, "actor": "me", "reason": "test", "now": bench.now}
    if need == "pinned":
        bench.store.write(lambda connection: pin(connection, version=1, held=False, **given))
    elif need == "canary":
        bench.store.write(
            lambda connection: start_canary(connection, version=1, share=0.1, for_seconds=None, state=state, **given)
        )
    elif need in ("served", "update"):
        bench.roll_back(1)
        if need == "update":
            for number in range(12):
                bench.correct(f"question {number}", f"answer {number}")
            bench.begin_update()
            bench.roll_back(12)
    elif need == "rollback":
        bench.roll_back(1)
        bench.store.write(lambda connection: promote(connection, version=12, state=state, **given))
    else:
        bench.roll_back(2)
    assert need in reasons(bench)[1]


@pytest.mark.parametrize("length", [1, 2, 5, 40, 333])
def test_checkpoints_keep_a_rebuild_short_and_are_never_missed_later(bench: Bench, state: Path, length: int) -> None:
    """From wherever a rebuild has to start, a kept version is near; and it does not matter how often was swept."""
    add(bench, length)
    once = set(reasons(bench))
    assert len(once) <= 3 + 2 * CHECKPOINTS * max(1, length.bit_length())
    for needed in range(1, length + 1):
        age = length - needed
        nearest = max((number for number in once if number <= needed), default=0)
        assert needed - nearest <= age / CHECKPOINTS


def test_sweeping_often_keeps_what_sweeping_once_keeps(bench: Bench, state: Path, tmp_path: Path) -> None:
    for _ in range(30):
        add(bench, 1)
        sweep(bench, state)
    often = {each.version for each in plan(bench.store.connection(), LEARNER, SETTINGS, LATER)[0]}
    with Store.open(database_path(tmp_path / "other")) as store:
        other = Bench(store)
        add(other, 30)
        assert set(reasons(other)) == often


@pytest.fixture
def pruned(bench: Bench, state: Path) -> Bench:
    """Versions 1, 2, 3 with their files, of which 2 was removed; 3 is served."""
    assert [promote_new(bench, state, start) for start in (0, 100, 200)] == [1, 2, 3]
    bench.store.write(lambda connection: mark_removed(connection, [2], because="retention", actor="test", at=LATER))
    assert "versions/v000002" in reconcile(bench.store, state, LEARNER, bench.now).removed
    return bench


def test_removed_is_not_damaged(pruned: Bench, state: Path) -> None:
    connection = pruned.store.connection()
    with pytest.raises(VersionRemoved, match=r"Version 2 was removed on 1970-01-11 by retention.*selflearn rollback 1"):
        verify_registered(connection, state, 2)
    found = verify_version(pruned.store, state, 2)
    assert (found["intact"], found["problem"], found["removed"]["because"]) == (None, None, "retention")
    assert reconcile(pruned.store, state, LEARNER, pruned.now).damaged == ()


def test_a_rollback_goes_past_removed_ones_and_never_to_one(pruned: Bench, state: Path) -> None:
    connection = pruned.store.connection()
    before = tables(pruned.store)
    given: dict[str, Any] = {"learner": LEARNER, "actor": "me", "reason": "test", "state": state}
    for work in (
        lambda writing: roll_back(writing, to=2, **given),
        lambda writing: promote(writing, version=2, **given),
        lambda writing: start_canary(writing, version=2, share=0.1, for_seconds=None, **given),
    ):
        with pytest.raises(VersionRemoved, match=r"version 1 \(selflearn rollback 1\)"):
            pruned.store.write(work)
    assert tables(pruned.store) == before
    assert undo_target(connection, LEARNER, None) == 1
    pruned.store.write(lambda writing: mark_removed(writing, [1], because="forgotten", actor="test", at=LATER))
    assert undo_target(connection, LEARNER, None) == 0
    with pytest.raises(VersionRemoved, match=r"the base \(selflearn rollback 0\)"):
        pruned.store.write(lambda writing: roll_back(writing, to=2, **given))


def test_damage_falls_back_past_removed_ones(pruned: Bench, state: Path) -> None:
    adapter = version_directory(state, 3) / "adapter_model.safetensors"
    adapter.chmod(0o644)
    adapter.write_bytes(b"nonsense")
    found = reconcile(pruned.store, state, LEARNER, pruned.now)
    assert (found.damaged, found.served) == ((3,), 1)


def test_the_error_for_a_damaged_target_names_an_intact_one(pruned: Bench, state: Path) -> None:
    promote_new(pruned, state, 300)
    adapter = version_directory(state, 3) / "adapter_model.safetensors"
    adapter.chmod(0o644)
    adapter.unlink()
    before = tables(pruned.store)
    with pytest.raises(VersionDamaged, match=r"is missing.*nearest intact one: version 1 \(selflearn rollback 1\)"):
        pruned.store.write(
            lambda writing: roll_back(writing, learner=LEARNER, to=None, actor="me", reason="test", state=state)
        )
    assert tables(pruned.store) == before


def test_a_backup_of_a_pruned_state_is_complete(pruned: Bench, state: Path, tmp_path: Path) -> None:
    done = back_up(state, tmp_path / "backup")
    assert done["left_out"] == {}
    assert done["audit_digest"] == newest_digest(pruned.store.connection())
    restored = restore(tmp_path / "backup", tmp_path / "again", actor="me")
    assert restored["versions"] == [1, 3]
    with Store.open(database_path(tmp_path / "again")) as store:
        assert removal_of(store.connection(), 2) is not None
        assert verify_audit(store.connection(), done["audit_digest"]).holds


PRUNE = """
import sys
from pathlib import Path
from selflearn.config import VersionsSettings
from selflearn.store import Store, database_path
from selflearn.versions.retention import prune
state = Path(sys.argv[1])
with Store.open(database_path(state)) as store:
    prune(store, state, "default", VersionsSettings(keep_last=1, keep_days=1e-6))
"""


def test_a_kill_between_row_and_files_is_finished_at_the_next_start(bench: Bench, state: Path) -> None:
    add(bench, 12)
    for number in range(1, 13):
        make_candidate(version_directory(state, number))
    environment = {**os.environ, "SELFLEARN_FAILPOINT": "mid-removal"}
    killed = subprocess.run([sys.executable, "-c", PRUNE, str(state)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert version_directory(state, 1).is_dir()
    assert removal_of(bench.store.connection(), 1) is not None
    found = reconcile(bench.store, state, LEARNER, bench.now)
    assert found.removed == ("versions/v000001", "versions/v000003")
    assert not version_directory(state, 1).exists()
    assert version_directory(state, 2).is_dir()
