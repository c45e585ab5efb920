"""Test, then train: each example judges before it trains, and no version is judged on what its line trained on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from selflearn.config import ExperienceSettings, JudgingSettings, LearningSettings
from selflearn.errors import NotEnoughExamples
from selflearn.experience import Snapshot, choose_roles, note_refusal
from selflearn.experience.signals import OBJECTIVES, Objective
from selflearn.versions.rollouts import lineage
from tests.experience.synthetic import insert
from tests.stores import LEARNER, Bench


def choose(bench: Bench, seed: int = 0) -> Snapshot:
    connection = bench.store.connection()
    line = lineage(connection, bench.served())
    return choose_roles(connection, LEARNER, lineage=line, judging=bench.judging, learning=bench.learning, seed=seed)


def teach(bench: Bench, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        bench.correct(f"question {number}", f"answer {number}")


def roles_of(bench: Bench, update_id: int, *roles: str) -> set[int]:
    marks = ", ".join("?" for _ in roles)
    sql = f"SELECT example_id FROM update_examples WHERE update_id = ? AND role IN ({marks})"
    return {row["example_id"] for row in bench.store.read(sql, (update_id, *roles))}


def test_too_few_examples_are_refused_with_counts(bench: Bench) -> None:
    teach(bench, 2)
    with pytest.raises(NotEnoughExamples, match=r"2 new and 0 that judged before.*at least 3"):
        choose(bench)


@pytest.mark.parametrize(("fresh", "expected"), [(3, 2), (8, 2), (12, 3), (20, 5), (60, 8)])
def test_the_share_that_judges_is_bounded(bench: Bench, fresh: int, expected: int) -> None:
    teach(bench, fresh)
    snapshot = choose(bench)
    assert len(snapshot.holdout) == expected
    assert len(snapshot.train) == fresh - expected
    assert (snapshot.replay, snapshot.retained) == ((), ())


def test_the_choice_depends_on_the_seed_and_on_nothing_else(bench: Bench) -> None:
    teach(bench, 30)
    assert choose(bench, seed=1) == choose(bench, seed=1)
    assert choose(bench, seed=1).digest != choose(bench, seed=2).digest


def test_no_more_train_than_allowed_and_the_oldest_first(bench: Bench) -> None:
    bench.learning = LearningSettings(max_train_examples=5)
    teach(bench, 20)
    snapshot = choose(bench)
    judging = {example.id for example in snapshot.holdout}
    assert [e.id for e in snapshot.train] == [number for number in range(1, 21) if number not in judging][:5]


def test_an_example_judges_then_measures_retention_then_trains(bench: Bench) -> None:
    teach(bench, 12)
    first = bench.begin_update()
    judged = roles_of(bench, first, "holdout")
    bench.promote(first)
    assert {number for number, state in bench.states().items() if state == "held"} == judged
    teach(bench, 12, start=100)
    second = bench.begin_update()
    assert roles_of(bench, second, "retained") == judged
    assert roles_of(bench, second, "replay") == roles_of(bench, first, "train")
    bench.promote(second)
    assert {bench.states()[number] for number in judged} == {"due"}
    teach(bench, 12, start=200)
    third = bench.begin_update()
    assert judged <= roles_of(bench, third, "train")
    bench.promote(third)
    assert {bench.states()[number] for number in judged} == {"trained"}


def test_a_refused_update_leaves_every_state_as_it_was(bench: Bench) -> None:
    teach(bench, 12)
    before = bench.states()
    bench.refuse(bench.begin_update())
    assert bench.states() == before


def test_what_trained_two_refused_updates_is_quarantined(bench: Bench) -> None:
    teach(bench, 12)
    first = bench.begin_update(seed=1)
    bench.refuse(first)
    # Counting twice counts once: whoever closes the update and whoever asks again agree.
    assert bench.store.write(lambda connection: note_refusal(connection, first)) == 0
    second = bench.begin_update(seed=1)
    bench.refuse(second)
    twice = roles_of(bench, first, "train") & roles_of(bench, second, "train")
    assert {number for number, state in bench.states().items() if state == "quarantined"} == twice
    found = bench.store.read("SELECT DISTINCT reason, detail, refusals FROM examples WHERE state = 'quarantined'")
    assert found == [{"reason": "refused", "detail": "trained 2 updates that were refused", "refusals": 2}]


def test_a_rollback_makes_what_trained_suspect_and_going_forward_trusts_it_again(bench: Bench) -> None:
    teach(bench, 12)
    first = bench.begin_update()
    bench.promote(first)
    after = bench.states()
    bench.roll_back()
    assert {bench.states()[number] for number in roles_of(bench, first, "train")} == {"suspect"}
    assert {bench.states()[number] for number in roles_of(bench, first, "holdout")} == {"fresh"}
    bench.roll_back(first)
    assert bench.states() == after


def test_the_likes_of_what_trained_train(bench: Bench) -> None:
    teach(bench, 12)
    first = bench.begin_update()
    bench.promote(first)
    questions = {
        row["id"]: int(row["target"].split()[1]) for row in bench.store.read("SELECT id, target FROM examples")
    }
    for number in roles_of(bench, first, "train"):
        bench.correct(f"QUESTION {questions[number]}!", f"a better answer {number}")
    teach(bench, 6, start=100)
    snapshot = choose(bench)
    assert {int(example.target.split()[-1]) >= 100 for example in snapshot.holdout} == {True}


def test_the_reserve_measures_and_never_trains(bench: Bench) -> None:
    bench.judging = JudgingSettings(min_holdout=2, max_holdout=8)
    bench.experience = ExperienceSettings(reserve_share=1.0)
    for number in range(4):
        bench.feedback(bench.interaction(f"rated {number}", f"answer {number}"), "rating", value=1)
    teach(bench, 12)
    first = bench.begin_update()
    assert len(roles_of(bench, first, "retained")) == 4
    bench.promote(first)
    assert list(bench.states().values()).count("reserve") == 4
    bench.correct("rated 0", "another answer")
    teach(bench, 12, start=100)
    assert {e.target for e in choose(bench).retained if e.state == "reserve"} == {"answer 1", "answer 2", "answer 3"}


def test_the_likes_of_what_is_due_train(bench: Bench) -> None:
    for start in (0, 100):
        teach(bench, 12, start=start)
        bench.promote(bench.begin_update())
    due = bench.store.read("SELECT target FROM examples WHERE state = 'due'")
    questions = [int(row["target"].split()[1]) for row in due]
    assert questions
    for number in questions:
        bench.correct(f"Question {number}?", f"another answer {number}")
    teach(bench, 6, start=200)
    for seed in range(20):
        assert all(int(example.target.split()[-1]) >= 200 for example in choose(bench, seed).holdout)


def test_a_reserve_whose_likes_have_trained_measures_no_more(bench: Bench) -> None:
    bench.judging = JudgingSettings(min_holdout=2, max_holdout=8)
    bench.experience = ExperienceSettings(reserve_share=1.0)
    for number in range(2):
        bench.feedback(bench.interaction(f"rated {number}", f"answer {number}"), "rating", value=1)
    bench.correct("rated 0", "a better answer")
    teach(bench, 12)
    seed = next(seed for seed in range(50) if "a better answer" in {e.target for e in choose(bench, seed).train})
    bench.promote(bench.begin_update(seed))
    teach(bench, 12, start=100)
    # Replay may happen to leave it out: what an ancestor has seen is known without it.
    bench.learning = LearningSettings(max_replay_examples=0)
    assert {e.target for e in choose(bench).retained if e.state == "reserve"} == {"answer 1"}


def test_another_answer_to_a_known_prompt_contradicts_and_the_same_prompt_is_not_replayed(bench: Bench) -> None:
    teach(bench, 8)
    bench.promote(bench.begin_update())
    for number in range(8):
        bench.correct(f"question {number}", f"quite another answer {number}")
    teach(bench, 4, start=20)
    snapshot = choose(bench)

    new = {example.id for example in (*snapshot.train, *snapshot.holdout)}
    assert set(snapshot.contradicting) == {i for i in new if 9 <= i <= 16}
    assert len(snapshot.contradicting) == 8
    taught_anew = {example.cluster for example in (*snapshot.train, *snapshot.holdout)}
    assert not taught_anew & {example.cluster for example in snapshot.replay}


def test_saying_the_same_again_or_answering_another_prompt_is_no_contradiction(bench: Bench) -> None:
    teach(bench, 8)
    bench.promote(bench.begin_update())
    for number in range(8):
        bench.correct(f"Question {number}?", f"ANSWER {number} ")
    teach(bench, 4, start=20)

    assert choose(bench).contradicting == ()


def conversations_of(examples: Any) -> set[str]:
    return {example.conversation for example in examples}


def test_whole_conversations_judge(bench: Bench) -> None:
    for number in range(12):
        insert(bench, 3, conversation=f"chat {number}")
    for seed in range(10):
        snapshot = choose(bench, seed)
        assert len(snapshot.holdout) == 6
        assert not conversations_of(snapshot.holdout) & conversations_of(snapshot.train)


def test_what_hangs_together_by_clusters_and_conversations_judges_or_trains_together(bench: Bench) -> None:
    chain = [
        *insert(bench, 1, conversation="a", cluster="1"),
        *insert(bench, 1, conversation="b", cluster="1"),
        *insert(bench, 1, conversation="b", cluster="2"),
    ]
    insert(bench, 12)
    places = set()
    for seed in range(40):
        judging = {example.id for example in choose(bench, seed).holdout}
        assert not judging & set(chain) or set(chain) <= judging
        places.add(set(chain) <= judging)
    assert places == {True, False}


def test_a_conversation_that_trained_judges_no_more_and_others_do(bench: Bench) -> None:
    for number in range(12):
        insert(bench, 1, conversation=f"chat {number}")
    first = bench.begin_update()
    bench.promote(first)
    trained = {
        row["conversation"] for row in bench.store.read("SELECT conversation FROM examples WHERE state = 'trained'")
    }
    for conversation in trained:
        insert(bench, 1, conversation=conversation)
    insert(bench, 8)
    for seed in range(10):
        assert not conversations_of(choose(bench, seed).holdout) & trained


def test_one_long_conversation_teaches_by_its_clusters(bench: Bench) -> None:
    insert(bench, 12, conversation="the only one")
    bench.promote(bench.begin_update())
    insert(bench, 12, conversation="the only one")
    snapshot = choose(bench)
    assert len(snapshot.holdout) == 3
    assert len(snapshot.train) == 9


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_kind_alone_teaches_and_judges_over_a_line(bench: Bench, objective: Objective) -> None:
    """Who only ever gives ratings (or preferences, or rewards) is heard, and retention is measured on what there is."""
    bench.judging = JudgingSettings(min_holdout=3)
    for turn in range(4):
        insert(bench, 16, objective=objective)
        update = bench.begin_update(turn)
        assert len(roles_of(bench, update, "holdout")) >= 3
        assert len(roles_of(bench, update, "train")) >= 12
        assert len(roles_of(bench, update, "retained")) >= (3 if turn else 0)
        assert bool(roles_of(bench, update, "replay")) is (turn > 0)
        bench.promote(update)
    found = bench.store.read("SELECT DISTINCT objective FROM examples WHERE state IN ('trained', 'held', 'due')")
    assert found == [{"objective": objective}]


def test_all_kinds_teach_and_judge_together(bench: Bench) -> None:
    insert(bench, 300, objective="unpaired_preference")
    for objective in OBJECTIVES:
        insert(bench, 10, objective=objective)
    snapshot = choose(bench, seed=1)
    kinds = Counter(example.objective for example in (*snapshot.train, *snapshot.holdout))
    assert kinds == {**dict.fromkeys(OBJECTIVES, 10), "unpaired_preference": 24}  # of one source 64 in all
    assert {example.objective for example in snapshot.train} == set(OBJECTIVES)
    judging = [choose(bench, seed).holdout for seed in range(20)]
    assert {example.objective for holdout in judging for example in holdout} == set(OBJECTIVES)


def test_right_answers_alone_measure_retention_where_there_are_enough(bench: Bench) -> None:
    insert(bench, 6)
    compared = insert(bench, 6, state="held", objective="paired_preference")
    right = insert(bench, 1, state="held")
    assert [example.id for example in choose(bench).retained] == [*compared, *right]
    right += insert(bench, 1, state="held")
    assert [example.id for example in choose(bench).retained] == right


def test_only_right_answers_fill_the_reserve(bench: Bench) -> None:
    bench.experience = ExperienceSettings(reserve_share=1.0)
    for number, value in enumerate((1, -1) * 4):
        asked = bench.interaction(f"question {number}", f"answer {number}")
        bench.feedback(asked, "rating", value=value)
    assert set(bench.states().values()) == {"reserve", "fresh"}
    found = bench.store.read("SELECT DISTINCT objective FROM examples WHERE state = 'reserve'")
    assert found == [{"objective": "supervised"}]


def say(bench: Bench, target: str, objective: Objective = "supervised", **columns: Any) -> int:
    """An example of one and the same prompt."""
    (number,) = insert(bench, objective=objective, cluster="one", messages=ONE_PROMPT, target=target, **columns)
    return number


ONE_PROMPT = '[{"role": "user", "content": "What is the port?"}]'


@pytest.mark.parametrize(
    ("old", "new", "contradicts"),
    [
        (("8000", "supervised"), ("9000", "supervised"), True),
        (("8000", "supervised"), (" 8000", "supervised"), False),
        (("8000", "supervised"), ("9000", "unpaired_preference"), False),
        (("8000", "supervised"), ("8000", "unpaired_preference"), True),
        (("8000", "unpaired_preference"), ("8000", "supervised"), True),
        (("8000", "unpaired_preference"), ("9000", "unpaired_preference"), False),
        (("8000", "supervised"), ("9000", "hindsight"), False),
        (("8000", "supervised"), ("9000", "reward_weighted"), False),
        (("8000", "supervised"), ("9000", "paired_preference", "8000"), False),
        (("8000", "paired_preference", "9000"), ("9000", "paired_preference", "8000"), True),
        (("8000", "paired_preference", "9000"), ("8000", "paired_preference", "7000"), False),
    ],
)
def test_what_contradicts_what_was_said_before_is_named(
    bench: Bench, old: tuple[Any, ...], new: tuple[Any, ...], contradicts: bool
) -> None:
    (first, second) = (
        say(bench, *said[:2], rejected=said[2] if len(said) > 2 else None, source=source)
        for said, source in ((old, "alice"), (new, "bob"))
    )
    insert(bench, 8)
    assert choose(bench).contradicting == ((second,) if contradicts else ())
    sql = "UPDATE examples SET vouched = 1 WHERE id = ?"
    bench.store.write(lambda connection: connection.execute(sql, (second,)))
    assert choose(bench).contradicting == ()
    assert first < second


@pytest.mark.parametrize("learned", [True, False])
def test_taking_back_what_was_learned_counts_as_contradicting(bench: Bench, learned: bool) -> None:
    """Else whoever taught something could unlearn it in bulk, unseen by the gate: the older word is superseded."""
    for number in range(12):
        bench.correct(f"question {number}", f"answer {number}")
    if learned:
        bench.promote(bench.begin_update())
    for number in range(12):
        bench.correct(f"question {number}", f"nothing of that, {number}")
        bench.correct(f"another question {number}", f"another answer {number}")
    trained = len(bench.store.read("SELECT 1 FROM update_examples WHERE role = 'train'"))
    assert len(choose(bench).contradicting) == trained
    assert (trained > 0) is learned


def test_too_few_judges_have_a_reason_of_their_own(bench: Bench) -> None:
    insert(bench, 12, cluster="one")
    with pytest.raises(NotEnoughExamples, match="only 0 of them can judge") as caught:
        choose(bench)
    assert caught.value.reason == "too_few_judges"


def test_a_correction_that_judged_trains_after_one_more_promotion(bench: Bench) -> None:
    """The promise of the documentation, for one source and the default share, over a long line."""
    bench.judging = JudgingSettings()
    judged_in: dict[int, int] = {}
    for turn in range(6):
        insert(bench, 40)
        update = bench.begin_update(turn)
        for number in roles_of(bench, update, "holdout"):
            judged_in[number] = turn
        trains = roles_of(bench, update, "train")
        assert all((number in trains) == (turn == seen + 2) for number, seen in judged_in.items() if turn > seen)
        bench.promote(update)
