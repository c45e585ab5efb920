"""States are derived for few examples at a time, and are what deriving all of them anew would give."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.errors import NotEnoughExamples, NotFound
from selflearn.experience import note_refusal, state_of
from selflearn.versions.rollouts import lineage
from tests.experience.synthetic import insert
from tests.stores import LEARNER, Bench, open_bench

#: The state of every example from all roles in all updates: slow, and plainly right.
ORACLE = """
WITH line AS (SELECT value AS id FROM json_each(:line)),
facts AS (
    SELECT ue.example_id,
        max(ue.role = 'train' AND line.id IS NOT NULL) AS trained,
        max(ue.role = 'holdout' AND ue.update_id = :served) AS held,
        max(ue.role = 'holdout' AND line.id IS NOT NULL) AS due,
        max(ue.role = 'train' AND line.id IS NULL AND versions.id IS NOT NULL) AS suspect
    FROM update_examples AS ue
    LEFT JOIN line ON line.id = ue.update_id
    LEFT JOIN versions ON versions.id = ue.update_id
    GROUP BY ue.example_id
)
SELECT examples.id, CASE WHEN state IN ('reserve', 'quarantined', 'forgotten') THEN state
    WHEN trained THEN 'trained' WHEN held THEN 'held' WHEN due THEN 'due'
    WHEN suspect AND NOT vouched THEN 'suspect' ELSE 'fresh' END AS state
FROM examples LEFT JOIN facts ON facts.example_id = examples.id WHERE learner = :learner ORDER BY examples.id
"""


def recomputed(bench: Bench) -> dict[int, str]:
    line = lineage(bench.store.connection(), bench.served())
    given = {"line": json.dumps(line), "served": bench.served(), "learner": LEARNER}
    return {row["id"]: row["state"] for row in bench.store.read(ORACLE, given)}


def set_columns(bench: Bench, number: int, **columns: Any) -> None:
    assigned = ", ".join(f"{name} = :{name}" for name in columns)
    bench.store.write(lambda c: c.execute(f"UPDATE examples SET {assigned} WHERE id = :id", {**columns, "id": number}))


def release(bench: Bench, number: int) -> str:
    """What leaving the quarantine comes down to: vouched for, with the state that its roles give it."""
    state = bench.store.write(lambda connection: _release(connection, number))
    assert bench.states()[number] == state
    return state


def _release(connection: Any, number: int) -> str:
    connection.execute("UPDATE examples SET vouched = 1 WHERE id = ?", (number,))
    state = state_of(connection, LEARNER, number)
    connection.execute("UPDATE examples SET state = ? WHERE id = ?", (state, number))
    return state


class Histories(RuleBasedStateMachine):
    """Updates, promotions, refusals, rollbacks and undos, with deeds of an operator in between."""

    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.bench: Bench = open_bench(
            Path(self.directory.name),
            judging=JudgingSettings(min_holdout=2, max_holdout=4, max_retained=4),
            learning=LearningSettings(max_train_examples=6, max_replay_examples=4),
        )
        self.versions = [0]
        insert(self.bench, 3, state="reserve")
        insert(self.bench, 2, objective="hindsight")

    @rule(count=st.integers(4, 9))
    def teach(self, count: int) -> None:
        insert(self.bench, count)

    @rule(seed=st.integers(0, 5), outcome=st.sampled_from(["promoted", "promoted", "refused"]), left_out=st.booleans())
    def update(self, seed: int, outcome: str, left_out: bool) -> None:
        insert(self.bench, 5)
        try:
            update_id = self.bench.begin_update(seed)
        except NotEnoughExamples:
            return
        if left_out:
            sql = (
                "UPDATE update_examples SET role = 'left_out' WHERE update_id = ?1 AND example_id ="
                " (SELECT min(example_id) FROM update_examples WHERE update_id = ?1 AND role = 'train')"
            )
            self.bench.store.write(lambda connection: connection.execute(sql, (update_id,)))
        if outcome == "promoted":
            self.bench.promote(update_id)
            self.versions.append(update_id)
        else:
            self.bench.refuse(update_id)

    @precondition(lambda self: len(self.versions) > 1)
    @rule(seed=st.integers(0, 99))
    def roll_to(self, seed: int) -> None:
        self.bench.roll_back(Random(seed).choice([v for v in self.versions if v != self.bench.served()]))

    @precondition(lambda self: self.bench.served() != 0)
    @rule()
    def undo(self) -> None:
        self.bench.roll_back()

    @rule(seed=st.integers(0, 99), state=st.sampled_from(["quarantined", "forgotten"]))
    def take_away(self, seed: int, state: str) -> None:
        set_columns(self.bench, Random(seed).choice(sorted(self.bench.states())), state=state)

    @rule(seed=st.integers(0, 99))
    def give_back(self, seed: int) -> None:
        held_back = [number for number, state in self.bench.states().items() if state in ("quarantined", "suspect")]
        if held_back:
            release(self.bench, Random(seed).choice(held_back))

    @invariant()
    def it_is_as_if_all_were_derived_anew(self) -> None:
        if hasattr(self, "bench"):
            assert self.bench.states() == recomputed(self.bench)

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            self.bench.store.close()
            self.directory.cleanup()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=25, stateful_step_count=16, deadline=None)


def learned(bench: Bench) -> tuple[int, list[int], list[int]]:
    """A promoted update with what trained it and what judged it."""
    insert(bench, 12)
    update = bench.begin_update()
    bench.promote(update)
    sql = "SELECT example_id FROM update_examples WHERE update_id = ? AND role = ? ORDER BY example_id"
    trained, judged = (
        [r["example_id"] for r in bench.store.read(sql, (update, role))] for role in ("train", "holdout")
    )
    return update, trained, judged


def test_only_what_a_change_concerns_is_looked_at(bench: Bench) -> None:
    lessons = [learned(bench) for _ in range(4)]
    concerned = {number for _, trained, judged in lessons[2:] for number in (*trained, *judged)}
    # A state that no derivation gives to any of them shows which ones were derived anew.
    for number in bench.states():
        set_columns(bench, number, state="suspect", vouched=1)
    bench.roll_back()
    assert {number for number, state in bench.states().items() if state != "suspect"} == concerned


def test_who_was_vouched_for_is_not_suspect_but_trains_again(bench: Bench) -> None:
    update, trained, _ = learned(bench)
    set_columns(bench, trained[0], vouched=1)
    bench.roll_back()
    assert bench.states()[trained[0]] == "fresh"
    assert {bench.states()[number] for number in trained[1:]} == {"suspect"}
    bench.roll_back(update)
    assert {bench.states()[number] for number in trained} == {"trained"}


def test_what_leaves_the_quarantine_gets_the_state_of_its_roles(bench: Bench) -> None:
    _, trained, judged = learned(bench)
    (fresh,) = insert(bench, state="quarantined")
    (compared,) = insert(bench, state="quarantined", objective="paired_preference")
    for number, state in ((trained[0], "trained"), (judged[0], "held"), (fresh, "fresh"), (compared, "fresh")):
        set_columns(bench, number, state="quarantined")
        assert release(bench, number) == state


def test_what_measured_retention_from_the_reserve_returns_to_it(bench: Bench) -> None:
    (reserved,) = insert(bench, state="reserve")
    learned(bench)
    set_columns(bench, reserved, state="quarantined")
    assert release(bench, reserved) == "reserve"


def test_what_is_forgotten_stays_so_and_what_is_not_there_is_refused(bench: Bench) -> None:
    (number,) = insert(bench, state="forgotten")
    connection = bench.store.connection()
    assert state_of(connection, LEARNER, number) == "forgotten"
    with pytest.raises(NotFound, match="no example 99"):
        state_of(connection, LEARNER, 99)


def test_what_was_left_out_is_bound_by_nothing(bench: Bench) -> None:
    insert(bench, 12)
    update = bench.begin_update()
    sql = "UPDATE update_examples SET role = 'left_out' WHERE update_id = ? AND role = 'train'"
    bench.store.write(lambda connection: connection.execute(sql, (update,)))
    bench.promote(update)
    assert sorted(set(bench.states().values())) == ["fresh", "held"]


def test_refusals_do_not_quarantine_who_was_vouched_for(bench: Bench) -> None:
    ids = insert(bench, 12)
    first = bench.begin_update(seed=1)
    bench.refuse(first)
    for number in ids[:6]:
        set_columns(bench, number, vouched=1)
    second = bench.begin_update(seed=1)
    bench.refuse(second)
    quarantined = {number for number, state in bench.states().items() if state == "quarantined"}
    assert quarantined
    assert not quarantined & set(ids[:6])
    assert bench.store.write(lambda connection: note_refusal(connection, second)) == 0


def test_what_is_said_again_after_it_was_taken_back_gets_the_state_of_its_roles(bench: Bench) -> None:
    asked = {number: bench.interaction(f"question {number}") for number in range(12)}
    for number, interaction in asked.items():
        bench.feedback(interaction, "correction", text=f"answer {number}")
    bench.promote(bench.begin_update())
    held = bench.store.read("SELECT id, target, interaction_id FROM examples WHERE state = 'held' ORDER BY id")[0]
    bench.feedback(held["interaction_id"], "correction", text="quite another answer")
    assert bench.states()[held["id"]] == "quarantined"
    bench.correct(f"question {held['target'].split()[-1]}", held["target"])
    assert bench.states()[held["id"]] == "held"
