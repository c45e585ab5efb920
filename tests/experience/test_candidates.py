"""No source brings more than its share of an update, and none is kept out by another's flood."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.errors import NotEnoughExamples
from selflearn.experience import choose_roles, new_examples
from selflearn.experience.roles.candidates import MAX_SOURCES, Candidates, cap_of, choose_candidates, sources_in
from tests.experience.synthetic import insert
from tests.stores import LEARNER, Bench, open_bench


def candidates_of(bench: Bench, seed: int = 0) -> Candidates:
    return choose_candidates(bench.store.connection(), LEARNER, bench.judging, bench.learning, seed)


def by_source(found: Candidates) -> Counter[str]:
    return Counter(example.source for example in (*found.fresh, *found.due))


@given(
    counts=st.lists(st.integers(0, 40), max_size=6),
    share=st.floats(0.0, 1.0),
    least=st.integers(1, 12),
    limit=st.integers(1, 60),
)
def test_the_cap_is_the_largest_that_keeps_the_share(counts: list[int], share: float, least: int, limit: int) -> None:
    def fits(cap: int) -> bool:
        return cap <= max(least, math.floor(share * min(limit, sum(min(count, cap) for count in counts))))

    assert cap_of(counts, share=share, least=least, limit=limit) == max(
        cap for cap in range(least, max(limit, least) + 1) if fits(cap)
    )


@settings(max_examples=25, deadline=None)
@given(
    fresh=st.lists(st.integers(0, 25), min_size=1, max_size=5),
    due=st.lists(st.integers(0, 10), min_size=5, max_size=5),
    share=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    least=st.sampled_from([1, 4, 12]),
    most=st.sampled_from([1, 3, 16, 64]),
)
def test_an_update_uses_all_candidates_and_no_source_exceeds_its_share(
    fresh: list[int], due: list[int], share: float, least: int, most: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        bench = open_bench(Path(directory), judging=JudgingSettings(min_holdout=2, max_holdout=8))
        bench.learning = LearningSettings(max_source_share=share, min_source_examples=least, max_train_examples=most)
        for number, counts in enumerate(zip(fresh, due, strict=False)):
            for state, count in zip(("fresh", "due"), counts, strict=True):
                insert(bench, count, source=f"key-{number}", state=state)
        connection = bench.store.connection()
        try:
            chosen = choose_roles(
                connection, LEARNER, lineage=(), judging=bench.judging, learning=bench.learning, seed=1
            )
        except NotEnoughExamples:
            chosen = None
        bench.store.close()
    if chosen is None:
        return
    new = [*chosen.train, *chosen.holdout]
    brought = Counter(example.source for example in new)
    assert max(brought.values()) <= max(least, math.floor(share * len(new)))
    assert len(chosen.train) <= most
    assert len(chosen.holdout) >= 2


def test_a_flood_brings_its_share_and_leaves_room_for_all_others(bench: Bench) -> None:
    flood = insert(bench, 10_000, source="flood")
    honest = [insert(bench, 10, source=f"honest-{number}") for number in range(3)]

    chosen = choose_roles(
        bench.store.connection(), LEARNER, lineage=(), judging=bench.judging, learning=bench.learning, seed=3
    )
    new = {example.id for example in (*chosen.train, *chosen.holdout)}

    assert new == {*flood[: bench.learning.min_source_examples], *(number for ids in honest for number in ids)}
    bench.learning = LearningSettings(min_source_examples=4)
    found = candidates_of(bench)
    assert by_source(found)["flood"] == 30  # half of the sixty
    assert sum(by_source(found).values()) == 60
    assert found.capped == 1


def test_with_one_source_alone_the_least_number_bounds_it(bench: Bench) -> None:
    insert(bench, 200, source="import:handbook")
    assert len(candidates_of(bench).fresh) == bench.learning.min_source_examples == 64
    bench.learning = LearningSettings(max_source_share=1.0)
    assert len(candidates_of(bench).fresh) == 200


def test_sources_take_turns_and_each_brings_its_oldest(bench: Bench) -> None:
    bench.learning = LearningSettings(max_train_examples=10)
    many, few = insert(bench, 50, source="many"), insert(bench, 3, source="few")

    found = candidates_of(bench)

    assert {example.id for example in found.fresh} == {*many[:9], *few}


def test_what_judged_before_goes_first_and_counts_for_its_source(bench: Bench) -> None:
    bench.learning = LearningSettings(max_source_share=0.0, min_source_examples=12)
    due = insert(bench, 5, source="a", state="due")
    fresh, others = insert(bench, 20, source="a"), insert(bench, 20, source="b")

    found = candidates_of(bench)

    assert [example.id for example in found.due] == due
    assert {example.id for example in found.fresh} == {*fresh[:7], *others[:12]}


def test_what_judged_before_leaves_room_for_judges(bench: Bench) -> None:
    bench.learning = LearningSettings(max_source_share=0.0, min_source_examples=10)
    insert(bench, 40, state="due")
    insert(bench, 40)
    found = candidates_of(bench)
    assert (len(found.due), len(found.fresh)) == (7, 3)


def test_more_sources_than_one_update_hears_have_their_turn_by_the_seed(bench: Bench) -> None:
    for number in range(MAX_SOURCES + 20):
        insert(bench, source=f"key-{number}")
    heard = [set(by_source(candidates_of(bench, seed))) for seed in range(8)]
    assert {len(sources) for sources in heard} == {MAX_SOURCES}
    assert len(set().union(*heard)) == MAX_SOURCES + 20
    assert candidates_of(bench, 1) == candidates_of(bench, 1)


def test_a_source_that_can_judge_nothing_within_its_share_is_told_so(bench: Bench) -> None:
    bench.learning = LearningSettings(max_source_share=0.0, min_source_examples=2)
    insert(bench, 50)
    with pytest.raises(NotEnoughExamples, match="no source may bring more than 2") as caught:
        choose_roles(
            bench.store.connection(), LEARNER, lineage=(), judging=bench.judging, learning=bench.learning, seed=0
        )
    assert caught.value.reason == "source_share"


def test_sources_are_listed_from_the_index_in_their_order(bench: Bench) -> None:
    for source in ("b", "a", "c"):
        insert(bench, 3, source=source)
    insert(bench, 1, source="d", state="due")
    assert sources_in(bench.store.connection(), LEARNER, "fresh") == ["a", "b", "c"]
    assert sources_in(bench.store.connection(), LEARNER, "fresh", limit=2) == ["a", "b"]
    assert sources_in(bench.store.connection(), LEARNER, "trained") == []


def test_new_are_those_that_came_since_the_last_update_began(bench: Bench) -> None:
    first = insert(bench, 12)
    assert new_examples(bench.store, LEARNER) == (12, oldest(bench, first[0]))
    bench.refuse(bench.begin_update())
    assert new_examples(bench.store, LEARNER) == (0, 0.0)
    later = insert(bench, 2)
    assert new_examples(bench.store, LEARNER) == (2, oldest(bench, later[0]))


def test_what_found_no_place_in_a_promoted_update_is_new_again(bench: Bench) -> None:
    bench.learning = LearningSettings(max_train_examples=10)
    rows = insert(bench, 30)
    update = bench.begin_update()
    bench.promote(update)
    assert new_examples(bench.store, LEARNER) == (18, oldest(bench, rows[12]))
    bench.refuse(bench.begin_update())
    assert new_examples(bench.store, LEARNER) == (0, 0.0)


def oldest(bench: Bench, number: int) -> float:
    return float(bench.store.read("SELECT created_at FROM examples WHERE id = ?", (number,))[0]["created_at"])
