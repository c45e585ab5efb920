"""A canary is a row of the log: it changes what is tried, never what is served, and every change of that ends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selflearn import overview
from selflearn.errors import BadRequest, Conflict, NotFound, VersionDamaged
from selflearn.versions import (
    abort_broken,
    abort_canary,
    append,
    end_expired,
    history,
    note,
    promote,
    roll_back,
    running_canary,
    show_version,
    start_canary,
    version_directory,
    why,
)
from selflearn.versions.canaries import Trial
from tests.stores import LEARNER, Bench, tables
from tests.versions.candidates import promote_new

OPERATOR: dict[str, Any] = {"learner": LEARNER, "actor": "operator:ann", "reason": "let us see"}


@pytest.fixture
def two(bench: Bench, tmp_path: Path) -> Bench:
    """Version 1 is served again, version 2 passed the gate as well."""
    assert [promote_new(bench, tmp_path, start) for start in (0, 100)] == [1, 2]
    bench.store.write(lambda connection: roll_back(connection, **OPERATOR, to=1, now=bench.now))
    return bench


def try_out(bench: Bench, state: Path, version: int = 2, share: float = 0.1, **given: Any) -> Trial:
    given = {"for_seconds": None, "now": bench.now, **given}
    return bench.store.write(
        lambda connection: start_canary(connection, **OPERATOR, version=version, share=share, state=state, **given)
    )


def running(bench: Bench, at: float = 0.0) -> int | None:
    found = running_canary(bench.store.connection(), LEARNER, at)
    return None if found is None else found.version


def log(bench: Bench, number: int) -> list[tuple[str, int, str, str]]:
    """The last rows, oldest first: action, version, actor, reason."""
    rows = history(bench.store, LEARNER, number)
    return [(row["action"], row["version"], row["actor"], row["reason"]) for row in reversed(rows)]


def test_it_is_tried_and_not_served(two: Bench, tmp_path: Path) -> None:
    states = two.states()
    done = try_out(two, tmp_path, share=0.25, for_seconds=60.0, now=lambda: 5000.0)
    assert done == Trial(version=2, served=1, share=0.25, until=5060.0)
    assert two.served() == 1
    assert running(two, 5059.9) == 2
    assert two.states() == states
    shown = overview.canary(two.store, LEARNER, lambda: 5001.0)
    assert shown is not None
    assert (shown["version"], shown["name"], shown["sha256"]) == (2, "v000002", "1" * 64)
    assert (shown["share"], shown["since"], shown["until"], shown["actor"]) == (0.25, 5000.0, 5060.0, "operator:ann")
    assert overview.served(two.store, LEARNER)["action"] == "rollback"
    row = history(two.store, LEARNER, 1)[0]
    assert (row["action"], row["version"], row["share"], row["until"]) == ("canary", 2, 0.25, 5060.0)
    audit = two.store.read("SELECT actor, action, detail FROM audit ORDER BY id DESC LIMIT 1")[0]
    assert (audit["actor"], audit["action"]) == ("operator:ann", "rollout.canary")
    assert '"share": 0.25' in audit["detail"]


@pytest.mark.parametrize(
    ("version", "given", "error", "code"),
    [
        (9, {}, NotFound, "version_not_found"),
        (1, {}, Conflict, "already_served"),
        (0, {}, Conflict, "base_model"),
        (2, {"share": 0.0}, BadRequest, "invalid_value"),
        (2, {"share": 1.0}, BadRequest, "invalid_value"),
        (2, {"share": float("nan")}, BadRequest, "invalid_value"),
        (2, {"for_seconds": 0.0}, BadRequest, "invalid_value"),
        (2, {"for_seconds": float("inf")}, BadRequest, "invalid_value"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_what_cannot_be_tried_changes_nothing(
    two: Bench,
    tmp_path: Path,
    version: int,
    given: dict[str, float],
    error: type[BadRequest],
    code: str,
    dry_run: bool,
) -> None:
    before = tables(two.store)
    with pytest.raises(error) as caught:
        try_out(two, tmp_path, version, dry_run=dry_run, **given)
    assert caught.value.code == code
    assert tables(two.store) == before


def test_an_update_that_was_refused_cannot_be_tried(two: Bench, tmp_path: Path) -> None:
    for number in range(300, 312):
        two.correct(f"question {number}", "?")
    refused = two.begin_update()
    two.refuse(refused)
    with pytest.raises(NotFound):
        try_out(two, tmp_path, refused)


def test_a_damaged_version_is_neither_tried_nor_promoted(two: Bench, tmp_path: Path) -> None:
    (version_directory(tmp_path, 2) / "training.jsonl").chmod(0o644)
    (version_directory(tmp_path, 2) / "training.jsonl").write_text("")
    before = tables(two.store)
    with pytest.raises(VersionDamaged, match=r"training\.jsonl"):
        try_out(two, tmp_path)
    with pytest.raises(VersionDamaged, match=r"training\.jsonl"):
        two.store.write(lambda connection: promote(connection, **OPERATOR, version=2, state=tmp_path))
    assert tables(two.store) == before


def test_a_rehearsal_needs_no_right_to_write(two: Bench, tmp_path: Path) -> None:
    reader, before = two.store.connection(), tables(two.store)
    options: dict[str, Any] = {**OPERATOR, "dry_run": True}
    trial = start_canary(reader, **options, version=2, share=0.5, for_seconds=None, state=tmp_path)
    assert trial == Trial(2, 1, 0.5, None)
    assert promote(reader, **options, version=2, state=tmp_path).to_version == 2
    assert roll_back(reader, **options, to=0).to_version == 0
    with pytest.raises(Conflict):
        abort_canary(reader, **options)
    assert tables(two.store) == before


def test_one_at_a_time_and_its_share_may_change(two: Bench, tmp_path: Path) -> None:
    promote_new(two, tmp_path, 200)
    try_out(two, tmp_path, 2, 0.1)
    with pytest.raises(Conflict, match="Version 2 runs as canary") as caught:
        try_out(two, tmp_path, 1, 0.1)
    assert caught.value.code == "canary_running"
    try_out(two, tmp_path, 2, 0.5)
    found = running_canary(two.store.connection(), LEARNER, 0.0)
    assert found is not None
    assert (found.version, found.share) == (2, 0.5)


def test_promotion_of_the_canary_ends_it(two: Bench, tmp_path: Path) -> None:
    def go(version: int | None) -> None:
        two.store.write(
            lambda connection: promote(connection, **OPERATOR, version=version, state=tmp_path, now=two.now)
        )

    with pytest.raises(Conflict) as caught:
        go(None)
    assert caught.value.code == "no_canary"
    try_out(two, tmp_path)
    go(None)
    assert (two.served(), running(two)) == (2, None)
    assert [action for action, *_ in log(two, 2)] == ["canary", "promote"]
    with pytest.raises(Conflict) as caught:
        go(2)
    assert caught.value.code == "already_served"
    assert two.store.write(lambda connection: roll_back(connection, **OPERATOR, to=None)).to_version == 1


def test_abort(two: Bench, tmp_path: Path) -> None:
    try_out(two, tmp_path)
    done = two.store.write(lambda connection: abort_canary(connection, **OPERATOR, now=two.now))
    assert (done.version, done.served) == (2, 1)
    assert (two.served(), running(two)) == (1, None)
    assert log(two, 1) == [("abort", 2, "operator:ann", "let us see")]
    with pytest.raises(Conflict, match="No canary runs"):
        two.store.write(lambda connection: abort_canary(connection, **OPERATOR, now=two.now))


def test_it_ends_when_its_time_is_up_and_nothing_is_promoted(two: Bench, tmp_path: Path) -> None:
    try_out(two, tmp_path, for_seconds=10.0, now=lambda: 5000.0)
    two.store.write(lambda connection: end_expired(connection, LEARNER, 5009.0))
    assert running(two, 5009.0) == 2
    assert running(two, 5010.0) is None
    assert overview.canary(two.store, LEARNER, lambda: 5010.0) is None
    with pytest.raises(Conflict):
        two.store.write(lambda connection: abort_canary(connection, **OPERATOR, now=lambda: 5010.0))
    for _ in range(2):
        two.store.write(lambda connection: end_expired(connection, LEARNER, 5011.0))
    assert [row[0] for row in log(two, 2)] == ["canary", "abort"]
    assert log(two, 1) == [("abort", 2, "selflearn", "its time was up")]
    assert two.served() == 1


def test_a_new_one_writes_down_the_end_of_one_whose_time_was_up(two: Bench, tmp_path: Path) -> None:
    promote_new(two, tmp_path, 200)
    try_out(two, tmp_path, 2, for_seconds=10.0, now=lambda: 5000.0)
    try_out(two, tmp_path, 1, now=lambda: 5020.0)
    assert [row[:3] for row in log(two, 2)] == [("abort", 2, "selflearn"), ("canary", 1, "operator:ann")]


def test_every_change_of_what_is_served_ends_it_and_says_so(two: Bench, tmp_path: Path) -> None:
    try_out(two, tmp_path)
    two.store.write(lambda connection: roll_back(connection, **OPERATOR, to=0, now=two.now))
    assert log(two, 2) == [
        ("abort", 2, "operator:ann", "rolled back to version 0"),
        ("rollback", 0, "operator:ann", "let us see"),
    ]
    try_out(two, tmp_path)
    two.store.write(lambda connection: promote(connection, **OPERATOR, version=1, state=tmp_path, now=two.now))
    assert log(two, 2)[0] == ("abort", 2, "operator:ann", "version 1 was promoted")
    try_out(two, tmp_path)
    fallback: Any = {"version": 0, "action": "recover", "actor": "selflearn", "reason": "damaged"}
    two.store.write(lambda connection: append(connection, learner=LEARNER, **fallback, now=two.now))
    assert log(two, 2)[0] == ("abort", 2, "selflearn", "version 0 had to take over")
    assert (two.served(), running(two)) == (0, None)


def test_an_update_that_passed_the_gate_meanwhile_ends_it(two: Bench, tmp_path: Path) -> None:
    try_out(two, tmp_path)
    assert promote_new(two, tmp_path, 200) == 3
    assert (two.served(), running(two)) == (3, None)
    assert log(two, 2) == [("abort", 2, "gate", "version 3 was promoted"), ("promote", 3, "gate", "passed the gate")]


def test_a_rollback_to_the_canary_makes_it_served(two: Bench, tmp_path: Path) -> None:
    try_out(two, tmp_path)
    two.store.write(lambda connection: roll_back(connection, **OPERATOR, to=2, now=two.now))
    assert (two.served(), running(two)) == (2, None)


def test_a_broken_one_is_ended_once_and_a_newer_one_is_left_alone(two: Bench, tmp_path: Path) -> None:
    try_out(two, tmp_path)
    broken = running_canary(two.store.connection(), LEARNER, 0.0)
    assert broken is not None
    for _ in range(2):
        two.store.write(lambda connection: abort_broken(connection, LEARNER, broken, "it does not load", two.now))
    assert [row[0] for row in log(two, 2)] == ["canary", "abort"]
    assert log(two, 1) == [("abort", 2, "selflearn", "it does not load")]
    try_out(two, tmp_path)
    two.store.write(lambda connection: abort_broken(connection, LEARNER, broken, "it does not load", two.now))
    assert running(two) == 2


def test_a_failure_is_noted_and_changes_nothing_else(two: Bench, tmp_path: Path) -> None:
    try_out(two, tmp_path)
    for number in range(300, 312):
        two.correct(f"question {number}", "?")
    update = two.begin_update()
    words: Any = {"learner": LEARNER, "version": update, "action": "fail", "actor": "selflearn", "reason": "no proof"}
    two.store.write(lambda connection: note(connection, **words, at=two.now()))
    assert (two.served(), running(two)) == (1, 2)
    two.refuse(update)
    (told,) = why(two.store, tmp_path, update)["rollouts"]
    assert (told["action"], told["from"], told["reason"]) == ("fail", 1, "no proof")


def test_the_story_of_a_version_has_its_trials(two: Bench, tmp_path: Path) -> None:
    try_out(two, tmp_path, share=0.3)
    two.store.write(lambda connection: abort_canary(connection, **OPERATOR, now=two.now))
    told = [(row["action"], row["from"], row["share"]) for row in show_version(two.store, tmp_path, 2)["rollouts"]]
    assert told == [("promote", 1, None), ("rollback", 2, None), ("canary", 1, 0.3), ("abort", 1, None)]
    served_meanwhile = [row["action"] for row in show_version(two.store, tmp_path, 1)["rollouts"]]
    assert served_meanwhile == ["promote", "promote", "rollback"]


def test_the_undo_pile_knows_nothing_of_canaries(two: Bench, tmp_path: Path) -> None:
    def undo() -> int:
        done = two.store.write(lambda connection: roll_back(connection, **OPERATOR, to=None, now=two.now))
        return done.to_version

    try_out(two, tmp_path)
    two.store.write(lambda connection: abort_canary(connection, **OPERATOR, now=two.now))
    assert undo() == 0
    try_out(two, tmp_path)
    with pytest.raises(Conflict, match="nothing to undo"):
        undo()
