"""Alarms, and where to go back to after one."""

from __future__ import annotations

import operator
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from selflearn.versions import version_directory
from selflearn.versions.alarms import (
    cooling_until,
    in_service,
    last_good,
    list_alarms,
    raise_alarm,
    why_cooling,
)
from tests.daemons import flip_byte
from tests.stores import LEARNER, Bench, registered
from tests.versions.candidates import promote_new


@pytest.fixture
def line(bench: Bench, state: Path) -> tuple[int, int, int]:
    """Three versions, each the child of the one before, the last one served."""
    registered(bench)
    first, second, third = (promote_new(bench, state, start) for start in (0, 20, 40))
    return first, second, third


def alarm(bench: Bench, version: int, action: Any = "none") -> None:
    bench.store.write(
        lambda connection: raise_alarm(
            connection,
            learner=LEARNER,
            version=version,
            signal="errors",
            action=action,
            detail={"reason": "a test"},
            at=bench.now(),
        )
    )


def test_alarms_are_kept_for_good(bench: Bench, line: tuple[int, int, int]) -> None:
    alarm(bench, line[2])
    (row,) = list_alarms(bench.store, LEARNER)
    assert (row["version"], row["signal"], row["action"], row["detail"]) == (
        line[2],
        "errors",
        "none",
        {"reason": "a test"},
    )
    for statement in ("UPDATE alarms SET version = 0", "DELETE FROM alarms"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            bench.store.write(operator.methodcaller("execute", statement))


def test_the_last_good_version(bench: Bench, state: Path, line: tuple[int, int, int]) -> None:
    first, second, _ = line

    def good() -> int:
        return last_good(bench.store.connection(), LEARNER, state)

    assert good() == second
    flip_byte(version_directory(state, second) / "adapter_model.safetensors")
    assert good() == first
    flip_byte(version_directory(state, second) / "adapter_model.safetensors")
    assert good() == second
    alarm(bench, second)
    assert good() == first
    alarm(bench, first)
    assert good() == 0


def test_what_an_operator_promotes_again_is_good_again(bench: Bench, state: Path, line: tuple[int, int, int]) -> None:
    first, second, third = line
    alarm(bench, second)
    bench.roll_back(first)
    assert last_good(bench.store.connection(), LEARNER, state) == 0
    promote_again(bench, state, second)
    promote_again(bench, state, third)
    assert last_good(bench.store.connection(), LEARNER, state) == second


def promote_again(bench: Bench, state: Path, version: int) -> None:
    from selflearn.versions import promote

    bench.store.write(
        lambda connection: promote(
            connection, learner=LEARNER, version=version, actor="operator", reason="", state=state, now=bench.now
        )
    )


def test_what_is_in_service(bench: Bench, line: tuple[int, int, int]) -> None:
    first, second, third = line
    found = in_service(bench.store.connection(), LEARNER)
    assert found is not None
    assert (found.version, found.action, found.before) == (third, "promote", second)
    bench.roll_back(first)
    found = in_service(bench.store.connection(), LEARNER)
    assert found is not None
    assert (found.version, found.action, found.before) == (first, "rollback", third)


def test_it_cools_down_after_a_rollback(bench: Bench, line: tuple[int, int, int]) -> None:
    connection = bench.store.connection()
    alarm(bench, line[2])
    assert cooling_until(connection, LEARNER, 60.0) == 0.0
    assert not why_cooling(bench.store, LEARNER, 60.0, bench.now)
    alarm(bench, line[2], "rollback")
    at = list_alarms(bench.store, LEARNER)[0]["created_at"]
    assert cooling_until(connection, LEARNER, 60.0) == at + 60.0
    assert "2 min" in why_cooling(bench.store, LEARNER, 120.0, lambda: at + 0.1)
    assert not why_cooling(bench.store, LEARNER, 60.0, lambda: at + 61.0)
