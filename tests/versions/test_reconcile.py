"""After a kill at any moment: running things end, leftovers go, and the last good version serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from selflearn.versions import (
    Reconciliation,
    reconcile,
    seal,
    served_directory,
    version_directory,
    work_directory,
    write_manifest,
)
from tests.stores import LEARNER, Bench, tables
from tests.versions.candidates import make_candidate, manifest_of, promote_new


def at_start(bench: Bench, state: Path) -> Reconciliation:
    return reconcile(bench.store, state, LEARNER, bench.now)


def flip(path: Path) -> None:
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


def begin(bench: Bench, start: int) -> int:
    for number in range(start, start + 12):
        bench.correct(f"question {number}", f"answer {number}")
    return bench.begin_update()


def test_a_clean_start_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    promote_new(bench, tmp_path, 0)
    at_start(bench, tmp_path)
    before = tables(bench.store)
    found = at_start(bench, tmp_path)
    assert found == Reconciliation((), 0, (), (), (), 1)
    assert tables(bench.store) == before
    assert served_directory(bench.store, tmp_path, LEARNER) == (1, version_directory(tmp_path, 1))


def test_a_new_state_directory_serves_the_base(bench: Bench, tmp_path: Path) -> None:
    assert at_start(bench, tmp_path).served == 0
    assert served_directory(bench.store, tmp_path, LEARNER) == (0, None)


@pytest.mark.parametrize("moment", ["snapshot", "training", "before the rename", "after the rename"])
def test_a_kill_during_an_update(bench: Bench, tmp_path: Path, moment: str) -> None:
    assert promote_new(bench, tmp_path, 0) == 1
    bench.interaction(state="running")
    update_id = begin(bench, 100)
    candidate = work_directory(tmp_path, update_id) / "candidate"
    if moment != "snapshot":
        make_candidate(candidate)
    if moment in ("before the rename", "after the rename"):
        write_manifest(candidate, manifest_of(bench, update_id))
    if moment == "after the rename":
        seal(candidate, version_directory(tmp_path, update_id))
    found = at_start(bench, tmp_path)
    assert (found.interrupted, found.interrupted_interactions, found.served) == ((update_id,), 1, 1)
    assert (found.damaged, found.unknown) == ((), ())
    assert not version_directory(tmp_path, update_id).exists()
    assert list((tmp_path / "work").iterdir()) == []
    state = bench.store.read("SELECT state FROM updates WHERE id = ?", (update_id,))
    assert state == [{"state": "interrupted"}]
    # The examples are free again, and the next update works.
    assert promote_new(bench, tmp_path, 200) == update_id + 1
    assert bench.served() == update_id + 1


def test_a_flipped_byte_falls_back_along_the_line(bench: Bench, tmp_path: Path) -> None:
    for start in (0, 100, 200):
        promote_new(bench, tmp_path, start)
    flip(version_directory(tmp_path, 3) / "adapter_model.safetensors")
    flip(version_directory(tmp_path, 2) / "manifest.json")
    found = at_start(bench, tmp_path)
    assert (found.damaged, found.served) == ((3, 2), 1)
    assert bench.served() == 1
    last = bench.store.read("SELECT version, action, reason FROM rollouts ORDER BY id DESC LIMIT 1")[0]
    assert (last["version"], last["action"]) == (1, "recover")
    assert "version 3 cannot be served" in last["reason"]
    assert "adapter_model.safetensors" in last["reason"]
    audit = bench.store.read("SELECT action FROM audit ORDER BY id DESC LIMIT 1")
    assert audit == [{"action": "rollout.recover"}]
    assert at_start(bench, tmp_path).damaged == ()


def test_with_nothing_intact_the_base_serves(bench: Bench, tmp_path: Path) -> None:
    promote_new(bench, tmp_path, 0)
    flip(version_directory(tmp_path, 1) / "adapter_config.json")
    found = at_start(bench, tmp_path)
    assert (found.damaged, found.served) == ((1,), 0)
    assert "suspect" in bench.states().values()


def test_versions_of_a_lost_database_are_kept_and_their_numbers_left_to_them(bench: Bench, tmp_path: Path) -> None:
    stranger = version_directory(tmp_path, 5)
    make_candidate(stranger)
    (tmp_path / "versions" / "notes.txt").write_text("an operator's")
    found = at_start(bench, tmp_path)
    assert (found.removed, found.unknown) == ((), ("v000005",))
    assert (stranger / "adapter_model.safetensors").is_file()
    assert promote_new(bench, tmp_path, 0) == 6
    assert at_start(bench, tmp_path).unknown == ("v000005",)
    assert bench.served() == 6
