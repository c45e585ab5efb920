"""Replay: every stratum has its places, nothing twice, nothing excluded, and no look at the whole history."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from selflearn.experience import Example, choose_roles
from selflearn.experience.roles.sampling import sample_replay
from tests.experience.synthetic import insert
from tests.stores import LEARNER, Bench, open_bench


def sample(bench: Bench, limit: int = 32, seed: int = 0, excluded: tuple[str, ...] = ()) -> list[Example]:
    return sample_replay(bench.store.connection(), LEARNER, excluded=excluded, limit=limit, seed=seed)


@settings(max_examples=25, deadline=None)
@given(
    trained=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(0, 6)), max_size=40),
    others=st.integers(0, 5),
    excluded=st.sets(st.integers(0, 6), max_size=3),
    limit=st.integers(0, 45),
    seed=st.integers(0, 3),
)
def test_as_many_as_wanted_or_all_there_are(
    trained: list[tuple[str, int, int]], others: int, excluded: set[int], limit: int, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        bench = open_bench(Path(directory))
        available = set()
        for source, replays, cluster in trained:
            insert(bench, others % 2, state="fresh")
            (number,) = insert(bench, state="trained", source=source, replays=replays, cluster=f"cluster {cluster}")
            available |= set() if cluster in excluded else {number}
        insert(bench, others, state="quarantined")
        left_out = tuple(f"cluster {cluster}" for cluster in excluded)
        found = [example.id for example in sample(bench, limit, seed, left_out)]
        again = [example.id for example in sample(bench, limit, seed, left_out)]
        bench.store.close()
    assert found == again == sorted(set(found))
    assert set(found) <= available
    assert len(found) == min(limit, len(available))


def test_the_few_that_are_left_are_found_among_many(bench: Bench) -> None:
    insert(bench, 100, state="trained", cluster="taught anew")
    left = insert(bench, 1, state="trained") + insert(bench, 1, state="trained")
    insert(bench, 100, state="trained", cluster="taught anew")
    left += insert(bench, 1, state="trained")
    for seed in range(10):
        assert [example.id for example in sample(bench, 8, seed, ("taught anew",))] == left


def test_the_seed_decides(bench: Bench) -> None:
    insert(bench, 300, state="trained")
    assert sample(bench, seed=1) == sample(bench, seed=1)
    assert sample(bench, seed=1) != sample(bench, seed=2)


def test_the_latest_have_places_of_their_own(bench: Bench) -> None:
    ids = insert(bench, 2000, state="trained")
    for seed in range(5):
        assert len({example.id for example in sample(bench, 32, seed)} & set(ids[-32:])) >= 8


def test_what_was_replayed_least_has_places_of_its_own(bench: Bench) -> None:
    insert(bench, 1000, state="trained", replays=5)
    rare = insert(bench, 6, state="trained", replays=0)
    rarer = insert(bench, 600, state="trained", replays=2)
    insert(bench, 1000, state="trained", replays=5)
    for seed in range(5):
        found = {example.id for example in sample(bench, 32, seed)}
        assert set(rare) <= found
        assert found & set(rarer)


def test_each_source_has_places_however_little_it_brought(bench: Bench) -> None:
    insert(bench, 2000, state="trained", source="loud", replays=0)
    quiet = {source: insert(bench, 5, state="trained", source=source, replays=9) for source in ("quiet", "calm")}
    insert(bench, 500, state="trained", source="loud", replays=0)
    for seed in range(5):
        brought = Counter(example.source for example in sample(bench, 32, seed))
        assert all(brought[source] >= 2 for source in quiet)


def test_the_rest_is_drawn_from_all_alike(bench: Bench) -> None:
    sparse: list[int] = []
    for _ in range(150):
        insert(bench, 2, state="quarantined")
        sparse += insert(bench, 1, state="trained")
    insert(bench, 150, state="trained")
    # Of three, no other stratum has a place. Whoever took the next one after a random id would take 3 of 4 there.
    drawn = [example.id for seed in range(150) for example in sample(bench, 3, seed)]
    assert 0.42 < sum(number in set(sparse) for number in drawn) / len(drawn) < 0.58


def test_what_versions_replay_gives_way_to_the_rest(bench: Bench) -> None:
    insert(bench, 12)
    bench.promote(bench.begin_update())
    insert(bench, 12)
    second = bench.begin_update()
    assert bench.store.read("SELECT max(replays) AS most FROM examples") == [{"most": 0}]
    bench.promote(second)
    replayed = bench.store.read(
        "SELECT example_id FROM update_examples WHERE update_id = ? AND role = 'replay'", (second,)
    )
    counted = bench.store.read("SELECT id AS example_id FROM examples WHERE replays = 1 ORDER BY id")
    assert replayed == counted
    assert replayed


def test_neither_the_sample_nor_the_choice_of_roles_looks_at_the_whole_history(bench: Bench) -> None:
    insert(bench, 700, state="trained", replays=1)
    insert(bench, 20, state="trained", replays=2, source="other")
    insert(bench, 10, state="due")
    insert(bench, 40)
    connection = bench.store.connection()
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    choose_roles(connection, LEARNER, lineage=(3, 2), judging=bench.judging, learning=bench.learning, seed=0)
    connection.set_trace_callback(None)
    plans = {
        row["detail"]
        for statement in {text for text in statements if text.startswith(("SELECT", "WITH"))}
        for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
    }
    touched = {plan for plan in plans if {"examples", "found", "old", "new"} & {*plan.split()[1:2]}}
    assert len(touched) > 5
    # All of a learner's examples, or of all learners', is more than any of them may look at.
    assert not {plan for plan in touched if plan.endswith("(learner=?)")}
    assert {plan for plan in touched if plan.startswith("SCAN")} <= {"SCAN found"}  # those of one conversation
