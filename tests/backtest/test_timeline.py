"""Which examples there were when an update began: the record's present tells what it was then."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from selflearn.backtest.stage import Start, number_next, prepare_start, staged
from selflearn.backtest.timeline import LATER, bring, take_away
from selflearn.errors import VersionDamaged
from selflearn.experience import Order, quarantine_examples, release
from selflearn.experience.keeping.forgetting import forget
from selflearn.experience.keeping.selection import Selector
from selflearn.store import Store
from selflearn.versions import register
from tests.stores import LEARNER, Bench, registered

ORDER = Order(LEARNER, "operator", "test", 1.0)
NEVER, RELEASED = 13, 14  # examples that come into quarantine before any update may use them


def teach(bench: Bench, topic: str, lessons: int = 12) -> list[str]:
    """Corrects answers; returns the ids of the interactions."""
    asked = [bench.interaction(f"{topic} question {number}") for number in range(lessons)]
    for number, interaction in enumerate(asked):
        bench.feedback(interaction, "correction", text=f"the answer is {topic} {number}")
    return asked


def promote(bench: Bench, update: int, left_out: int) -> None:
    """Promotes an update that could not use one of its examples."""
    row = {"id": left_out, "role": "train", "reason": "too_long", "tokens": 9999}
    bench.store.write(
        lambda connection: register(
            connection,
            update_id=update,
            manifest_sha256="0" * 64,
            adapter_sha256="1" * 64,
            report={"left_out": [row]},
            verdict={"outcome": "promote", "checks": []},
            actor="gate",
            now=bench.now,
        )
    )


def role(store: Store, update: int, name: str) -> list[int]:
    sql = "SELECT example_id FROM update_examples WHERE update_id = ? AND role = ? ORDER BY example_id"
    return [row["example_id"] for row in store.read(sql, (update, name))]


def live(bench: Bench) -> tuple[list[dict[int, str]], int]:
    """A history with all that befalls examples; the states before each update, and the example that it left out."""
    seen = []
    asked = teach(bench, "harbour")
    teach(bench, "anchor", 2)
    bench.store.write(lambda connection: quarantine_examples(connection, ORDER, [NEVER, RELEASED]))
    seen.append(bench.states())
    first = bench.begin_update()
    left_out = role(bench.store, first, "train")[0]
    promote(bench, first, left_out)
    judged = role(bench.store, first, "holdout")[0]
    bench.feedback(asked[judged - 1], "correction", text="no, it is something else")  # what it said is superseded
    teach(bench, "sail")
    seen.append(bench.states())
    bench.refuse(bench.begin_update())
    bench.roll_back()
    bench.store.write(lambda connection: release(connection, ORDER, [RELEASED]))
    teach(bench, "wind")
    seen.append(bench.states())
    bench.promote(bench.begin_update())
    teach(bench, "later")
    return seen, left_out


def replayed(bench: Bench, start: Start, directory: Path, left_out: int) -> list[dict[int, str]]:
    """The states before each update as the replay finds them, where the same roles lead to the same ends."""
    ends: dict[int, Any] = {1: partial(promote, left_out=left_out), 2: Bench.refuse, 3: Bench.promote}
    seen = []
    with staged(start, directory) as store:
        again = Bench(store, judging=bench.judging, learning=bench.learning)
        numbers = [update.number for update in start.history.updates]
        for before, number in zip([0, *numbers], numbers, strict=False):
            if number == 3 and again.served():
                again.roll_back()
            store.write(partial(bring, learner=LEARNER, stays=start.timeline.coming(number)))
            store.write(partial(take_away, stays=start.timeline.going(before, number)))
            store.write(partial(number_next, number=number))
            found = store.read("SELECT id, state FROM examples WHERE reason IS NOT ? ORDER BY id", (LATER,))
            seen.append({row["id"]: row["state"] for row in found})
            assert again.begin_update() == number
            ends[number](again, number)
    return seen


def test_every_update_finds_the_examples_as_they_were(bench: Bench, state: Path, tmp_path: Path) -> None:
    seen, left_out = live(registered(bench))
    start = prepare_start(state, tmp_path / "start", LEARNER, updates=None, last=None)
    found = replayed(bench, start, tmp_path / "stage", left_out)
    assert_same(seen, found)
    assert start.timeline.missing == {"quarantined": 1}
    assert [deed.version for deed in start.history.deeds] == [0]
    assert left_out not in {stay.example for stay in start.timeline.going(1, 2)}  # other settings may find it fits


def test_the_latest_update_finds_what_came_of_those_before(bench: Bench, state: Path, tmp_path: Path) -> None:
    seen, left_out = live(registered(bench))
    refused = role(bench.store, 2, "train")
    start = prepare_start(state, tmp_path / "start", LEARNER, updates=None, last=1)
    with staged(start, tmp_path / "look") as store:
        counted = {row["id"]: row["refusals"] for row in store.read("SELECT id, refusals FROM examples")}
    assert {number for number, refusals in counted.items() if refusals} == set(refused)
    assert_same(seen[2:], replayed(bench, start, tmp_path / "stage", left_out))


def assert_same(seen: list[dict[int, str]], found: list[dict[int, str]]) -> None:
    """What is in quarantine may be out of reach in the replay instead: no update looks at either."""
    for then, now in zip(seen, found, strict=True):
        quarantined = {number for number, its_state in then.items() if its_state == "quarantined"}
        assert {number: now[number] for number in now if number not in quarantined} == {
            number: its_state for number, its_state in then.items() if number not in quarantined
        }
        assert {now.get(number, "quarantined") for number in quarantined} == {"quarantined"}


def test_what_was_forgotten_is_missed(bench: Bench, state: Path, tmp_path: Path) -> None:
    live(registered(bench))
    gone = role(bench.store, 3, "train")[0]
    interaction = bench.store.read("SELECT interaction_id FROM examples WHERE id = ?", (gone,))[0]["interaction_id"]
    forget(
        bench.store,
        LEARNER,
        Selector("interaction", interaction),
        actor="operator",
        reason="test",
        now=bench.now,
        end_update=lambda number: None,
    )
    start = prepare_start(state, tmp_path / "start", LEARNER, updates=None, last=None)
    assert start.timeline.missing["forgotten"] == 1
    assert gone not in {stay.example for stay in start.timeline.stays}
    assert gone not in start.columns[2]


def test_the_version_that_is_continued_must_be_intact(bench: Bench, state: Path, tmp_path: Path) -> None:
    live(registered(bench))
    with pytest.raises(VersionDamaged, match="v000001"):
        prepare_start(state, tmp_path / "start", LEARNER, updates="2:", last=None)
