"""Candidates that the gate did not promote: kept, swept, and put into service by an operator's word alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selflearn import overview
from selflearn.errors import BadRequest, Conflict, RefusedByGate, VersionDamaged
from selflearn.versions import (
    Change,
    close_update,
    history,
    list_versions,
    promote,
    reconcile,
    roll_back,
    seal,
    show_version,
    verify_version,
    version_directory,
    why,
    work_directory,
    write_manifest,
)
from selflearn.versions.names import refused_directory
from selflearn.versions.overrides import kept_candidates, place_candidate, sweep_candidates
from selflearn.versions.registry import ClosedState
from tests.stores import LEARNER, Bench, tables
from tests.versions.candidates import make_candidate, manifest_of, promote_new

REASON = "the new holdout is not typical"
ADAPTER = "adapter_model.safetensors"


def keep(state: Path, bench: Bench, update: int) -> str:
    """Keeps a candidate as the daemon does; returns its manifest's SHA-256."""
    candidate = work_directory(state, update) / "candidate"
    make_candidate(candidate, seed=update)
    sha256 = write_manifest(candidate, manifest_of(bench, update))
    seal(candidate, refused_directory(state, update))
    return sha256


def judged(
    bench: Bench,
    state: Path,
    start: int = 0,
    *,
    outcome: str = "refuse",
    closed: ClosedState = "refused",
    nonfinite: tuple[str, ...] = (),
) -> int:
    """Teaches a dozen facts, and carries an update through to a verdict that does not promote it."""
    for number in range(start, start + 12):
        bench.correct(f"question {number}", f"answer {number}")
    return judged_again(bench, state, outcome=outcome, closed=closed, nonfinite=nonfinite)


def judged_again(
    bench: Bench, state: Path, *, outcome: str = "refuse", closed: ClosedState = "refused", nonfinite: Any = ()
) -> int:
    update = bench.begin_update()
    report: dict[str, Any] = {"measurements": {"nonfinite": list(nonfinite)}}
    if not nonfinite:
        report["kept"] = {"manifest_sha256": keep(state, bench, update)}
    told = {"outcome": outcome, "reason": "retained: it forgot", "checks": []}
    bench.store.write(
        lambda connection: close_update(
            connection, update, state=closed, report=report, verdict=told, reason="retained: it forgot", now=bench.now
        )
    )
    return update


def order(bench: Bench, state: Path, version: int, *, force: bool = True, reason: str = REASON, **more: Any) -> Change:
    def work(connection: Any) -> Change:
        return promote(
            connection,
            learner=LEARNER,
            version=version,
            actor="operator:ann",
            reason=reason,
            state=state,
            force=force,
            now=bench.now,
            **more,
        )

    return work(bench.store.connection()) if more.get("dry_run") else bench.store.write(work)


def test_an_override_makes_it_a_version_like_any_other_and_says_so_everywhere(bench: Bench, state: Path) -> None:
    update = judged(bench, state)
    assert order(bench, state, update) == Change(0, update)

    assert bench.served() == update
    assert verify_version(bench.store, state, update)["intact"]
    told = f"forced by operator:ann: {REASON} (the gate said: retained: it forgot)"
    last = history(bench.store, LEARNER, 1)[0]
    assert (last["action"], last["version"], last["actor"], last["reason"]) == ("promote", update, "operator:ann", told)
    story = why(bench.store, state, update)
    assert (story["outcome"], story["reason"], story["verdict"]["outcome"]) == ("promoted", told, "refuse")
    assert overview.served(bench.store, LEARNER)["forced"] is True
    assert [row["forced"] for row in list_versions(bench.store, LEARNER)] == [True, False]
    assert show_version(bench.store, state, update)["forced"] is True
    audit = bench.store.read("SELECT actor, action, detail FROM audit ORDER BY id DESC LIMIT 1")[0]
    assert (audit["actor"], audit["action"]) == ("operator:ann", "rollout.promote")
    assert json.loads(audit["detail"])["reason"] == told

    bench.store.write(
        lambda connection: roll_back(connection, learner=LEARNER, to=None, actor="me", reason="worse", now=bench.now)
    )
    assert overview.served(bench.store, LEARNER) | {"since": None} == {
        "version": 0,
        "name": "v000000",
        "sha256": "",
        "since": None,
        "action": "rollback",
        "forced": False,
    }


def test_what_trained_it_has_trained_and_leaves_the_quarantine_that_refusals_put_it_in(
    bench: Bench, state: Path
) -> None:
    first = judged(bench, state)
    second = judged_again(bench, state)
    trained = {
        row["example_id"]
        for row in bench.store.read(
            "SELECT example_id FROM update_examples WHERE update_id = ? AND role = 'train'", (second,)
        )
    }
    quarantined = {number for number, found in bench.states().items() if found == "quarantined"}
    assert quarantined
    order(bench, state, second)

    states = bench.states()
    assert {states[number] for number in trained} == {"trained"}
    left = {row["id"] for row in bench.store.read("SELECT id FROM examples WHERE state = 'quarantined'")}
    assert left == quarantined - trained
    counted = bench.store.read("SELECT id, refusals, reason FROM examples ORDER BY id")
    of_first = {
        row["example_id"]
        for row in bench.store.read(
            "SELECT example_id FROM update_examples WHERE update_id = ? AND role = 'train'", (first,)
        )
    }
    for row in counted:
        if row["id"] in trained:
            assert (row["refusals"], row["reason"]) == (int(row["id"] in of_first), None)


def test_without_force_the_gates_word_stands(bench: Bench, state: Path) -> None:
    update = judged(bench, state)
    before = tables(bench.store)
    with pytest.raises(RefusedByGate, match=rf"promote update {update} .*it forgot.*--force --reason"):
        order(bench, state, update, force=False)
    with pytest.raises(BadRequest, match="needs a reason"):
        order(bench, state, update, reason=" ")
    assert tables(bench.store) == before
    assert not version_directory(state, update).exists()


def test_a_rehearsal_checks_and_changes_nothing(bench: Bench, state: Path) -> None:
    update = judged(bench, state)
    before = tables(bench.store)
    assert order(bench, state, update, dry_run=True) == Change(0, update)
    assert tables(bench.store) == before
    assert not version_directory(state, update).exists()


def test_what_a_dry_run_held_back_needs_no_force_and_is_not_forced(bench: Bench, state: Path) -> None:
    update = judged(bench, state, outcome="promote", closed="inconclusive")
    order(bench, state, update, force=False)
    assert bench.served() == update
    assert overview.served(bench.store, LEARNER)["forced"] is False
    assert "held back by a dry run" in history(bench.store, LEARNER, 1)[0]["reason"]


def test_it_must_continue_what_is_served(bench: Bench, state: Path) -> None:
    update = judged(bench, state)
    assert promote_new(bench, state, 100) == update + 1
    before = tables(bench.store)
    with pytest.raises(Conflict, match=f"continues version 0, but version {update + 1} is served") as caught:
        order(bench, state, update)
    assert caught.value.code == "parent_not_served"
    assert tables(bench.store) == before


def test_what_is_not_finite_is_never_served(bench: Bench, state: Path) -> None:
    update = judged(bench, state, nonfinite=("q.lora_A",))
    with pytest.raises(Conflict, match="not finite") as caught:
        order(bench, state, update)
    assert caught.value.code == "not_finite"


def test_a_changed_byte_is_refused_even_if_its_manifest_was_changed_with_it(bench: Bench, state: Path) -> None:
    update = judged(bench, state)
    directory = refused_directory(state, update)
    directory.chmod(0o755)
    (directory / ADAPTER).chmod(0o644)
    with (directory / ADAPTER).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(VersionDamaged, match=ADAPTER):
        order(bench, state, update)
    write_manifest(directory, manifest_of(bench, update))
    with pytest.raises(VersionDamaged, match="manifest"):
        order(bench, state, update)
    assert bench.served() == 0


def test_only_the_newest_are_kept(bench: Bench, state: Path) -> None:
    updates = [judged(bench, state, 100 * number) for number in range(3)]
    kept = kept_candidates(state)
    assert [each.update for each in kept] == updates[::-1]
    assert overview.kept_candidates(state) == {"updates": updates[::-1], "bytes": sum(each.bytes for each in kept)}
    files = list(refused_directory(state, updates[0]).iterdir())
    assert kept[-1].bytes == sum(path.stat().st_size for path in files) > 0

    assert sweep_candidates(state, 1) == (updates[1], updates[0])
    assert [each.update for each in kept_candidates(state)] == [updates[2]]
    with pytest.raises(Conflict, match=r"judging\.keep_refused") as caught:
        order(bench, state, updates[1])
    assert caught.value.code == "candidate_not_kept"


def test_a_kill_in_the_middle_loses_nothing(bench: Bench, state: Path) -> None:
    update = judged(bench, state)
    place_candidate(state, update)
    found = reconcile(bench.store, state, LEARNER, bench.now)  # the next start: it was not registered
    assert found.removed == (f"versions/v{update:06d}",)
    order(bench, state, update)
    assert bench.served() == update

    assert refused_directory(state, update).exists()  # as after a kill before it was removed
    found = reconcile(bench.store, state, LEARNER, bench.now)
    assert found.removed == (f"refused/v{update:06d}",)
    assert (found.served, found.damaged) == (update, ())


def test_what_it_replayed_counts_as_replayed(bench: Bench, state: Path) -> None:
    promote_new(bench, state, 0)
    update = judged(bench, state, 100)
    replayed = bench.store.read(
        "SELECT example_id FROM update_examples WHERE update_id = ? AND role = 'replay'", (update,)
    )
    assert replayed
    order(bench, state, update)
    counts = {row["id"]: row["replays"] for row in bench.store.read("SELECT id, replays FROM examples")}
    assert {counts[row["example_id"]] for row in replayed} == {1}
