"""Pinned versions are kept; a held one is replaced by nothing but an operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selflearn.errors import Conflict, NotFound, UpdateError, VersionRemoved
from selflearn.store.audit import list_audit
from selflearn.versions import Pin, append, held, pin, pinned, promote, roll_back, start_canary, unpin
from selflearn.versions.pins import pins, require_unheld
from selflearn.versions.removal import mark_removed
from tests.stores import LEARNER, Bench, tables
from tests.versions.candidates import promote_new


@pytest.fixture
def two(bench: Bench, state: Path) -> Bench:
    """Versions 1 and 2; 2 is served."""
    assert [promote_new(bench, state, start) for start in (0, 100)] == [1, 2]
    return bench


def put(bench: Bench, version: int, *, held: bool = False, **options: Any) -> Pin:
    given: dict[str, Any] = {"learner": LEARNER, "version": version, "held": held, "actor": "me", "reason": "release"}
    return bench.store.write(lambda connection: pin(connection, **given, now=bench.now, **options))


def take(bench: Bench, version: int | None = None) -> Pin:
    given: dict[str, Any] = {"learner": LEARNER, "version": version, "actor": "me", "reason": "enough"}
    return bench.store.write(lambda connection: unpin(connection, **given, now=bench.now))


def audit(bench: Bench) -> list[tuple[str, Any]]:
    """What was written about pins, newest first."""
    about = ("rollout.pin", "rollout.unpin", "rollout.unhold")
    found = list_audit(bench.store.connection())
    return [(row["action"], row["detail"]["version"]) for row in found if row["action"] in about]


def test_pin_and_unpin(two: Bench) -> None:
    connection = two.store.connection()
    assert put(two, 1, dry_run=True).version == 1
    assert pinned(connection, LEARNER) == set()
    put(two, 1)
    put(two, 2, held=True)
    assert [(each.version, each.held, each.actor, each.reason) for each in pins(connection, LEARNER)] == [
        (1, False, "me", "release"),
        (2, True, "me", "release"),
    ]
    assert (pinned(connection, LEARNER), held(connection, LEARNER)) == ({1, 2}, 2)
    assert put(two, 2).held  # a second pin does not end the hold of the first
    assert take(two).version == 2  # the held one is meant
    assert take(two).version == 1  # the only one
    assert audit(two) == [
        ("rollout.unpin", 1),
        ("rollout.unpin", 2),
        ("rollout.pin", 2),
        ("rollout.pin", 2),
        ("rollout.pin", 1),
    ]
    assert pinned(connection, LEARNER) == set()


def test_what_cannot_be_pinned_changes_nothing(two: Bench) -> None:
    before = tables(two.store)
    with pytest.raises(NotFound):
        put(two, 9)
    with pytest.raises(Conflict, match="Version 1 is not served"):
        put(two, 1, held=True)
    with pytest.raises(Conflict, match="needs no pin"):
        put(two, 0)
    with pytest.raises(Conflict, match="No such version is pinned"):
        take(two, 1)
    assert tables(two.store) == before
    two.store.write(lambda connection: mark_removed(connection, [1], because="retention", actor="test", at=1.0))
    with pytest.raises(VersionRemoved):
        put(two, 1)
    assert pinned(two.store.connection(), LEARNER) == set()


def test_several_pins_have_to_be_named(two: Bench) -> None:
    put(two, 1)
    put(two, 2)
    with pytest.raises(Conflict, match="Several versions are pinned; pinned are: 1, 2"):
        take(two)
    assert take(two, 1).version == 1


@pytest.mark.parametrize("actor", ["gate", "watchdog"])
@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_nobody_replaces_a_held_version_by_himself(two: Bench, actor: str, action: Any) -> None:
    put(two, 2, held=True)
    before = tables(two.store)
    with pytest.raises(Conflict, match="held by me"):
        two.store.write(
            lambda connection: append(
                connection, learner=LEARNER, version=1, action=action, actor=actor, reason="it says so", now=two.now
            )
        )
    assert tables(two.store) == before


def test_what_gives_way_to_damage_stays_held(two: Bench) -> None:
    put(two, 2, held=True)
    two.store.write(
        lambda connection: append(
            connection, learner=LEARNER, version=1, action="recover", actor="selflearn", reason="gone", now=two.now
        )
    )
    assert (two.served(), held(two.store.connection(), LEARNER)) == (1, 2)
    put(two, 1, held=True)
    assert held(two.store.connection(), LEARNER) == 1
    assert pinned(two.store.connection(), LEARNER) == {1, 2}


def test_an_update_that_ran_already_is_dropped(two: Bench) -> None:
    for number in range(300, 312):
        two.correct(f"question {number}", "answer")
    update = two.begin_update()
    put(two, 2, held=True)
    with pytest.raises(UpdateError, match=f"update {update} is dropped"):
        two.promote(update)
    assert two.served() == 2
    with pytest.raises(Conflict, match="no update starts"):
        require_unheld(two.store.connection(), LEARNER, "no update starts")
    take(two)
    two.promote(update)
    assert two.served() == update


@pytest.mark.parametrize("order", ["rollback", "promotion", "canary"])
def test_an_operator_ends_the_hold_and_it_is_written_down(two: Bench, state: Path, order: str) -> None:
    put(two, 2, held=True)
    given: dict[str, Any] = {"learner": LEARNER, "actor": "operator:ann", "reason": "it is worse", "now": two.now}
    work: dict[str, Any] = {
        "rollback": lambda connection: roll_back(connection, to=None, **given),
        "promotion": lambda connection: promote(connection, version=1, state=state, **given),
        "canary": lambda connection: start_canary(
            connection, version=1, share=0.1, for_seconds=None, state=state, **given
        ),
    }
    two.store.write(work[order])
    assert held(two.store.connection(), LEARNER) is None
    assert pinned(two.store.connection(), LEARNER) == {2}
    assert audit(two)[0] == ("rollout.unhold", 2)


def test_the_base_can_be_held(two: Bench) -> None:
    two.roll_back(0)
    put(two, 0, held=True)
    assert held(two.store.connection(), LEARNER) == 0
