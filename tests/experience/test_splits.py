"""Test, then train: each example judges before it trains, and no version is judged on what its line trained on."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.errors import NotEnoughExamples
from selflearn.experience import Snapshot, choose_roles, note_refusal
from selflearn.versions import roll_back
from selflearn.versions.rollouts import lineage
from tests.stores import LEARNER, Bench, open_bench


def choose(bench: Bench, seed: int = 0) -> Snapshot:
    connection = bench.store.connection()
    line = lineage(connection, bench.served())
    return choose_roles(connection, LEARNER, lineage=line, judging=bench.judging, learning=bench.learning, seed=seed)


def teach(bench: Bench, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        bench.correct(f"question {number}", f"answer {number}")


def roll(bench: Bench, to: int | None) -> None:
    bench.store.write(
        lambda connection: roll_back(connection, learner=LEARNER, to=to, actor="me", reason="test", now=bench.now)
    )


def roles_of(bench: Bench, update_id: int, *roles: str) -> set[int]:
    marks = ", ".join("?" for _ in roles)
    sql = f"SELECT example_id FROM update_examples WHERE update_id = ? AND role IN ({marks})"
    return {row["example_id"] for row in bench.store.read(sql, (update_id, *roles))}


def test_too_few_examples_are_refused_with_counts(bench: Bench) -> None:
    teach(bench, 2)
    with pytest.raises(NotEnoughExamples, match=r"2 new and 0 that judged before.*at least 3"):
        choose(bench)


def test_one_prompt_with_many_answers_cannot_judge_itself(bench: Bench) -> None:
    for number in range(6):
        bench.correct("What is the port?", f"{number}")
    with pytest.raises(NotEnoughExamples, match="only 0 of them can judge"):
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
    found = bench.store.read("SELECT DISTINCT reason, refusals FROM examples WHERE state = 'quarantined'")
    assert found == [{"reason": "trained 2 updates that were refused", "refusals": 2}]


def test_a_rollback_makes_what_trained_suspect_and_going_forward_trusts_it_again(bench: Bench) -> None:
    teach(bench, 12)
    first = bench.begin_update()
    bench.promote(first)
    after = bench.states()
    roll(bench, None)
    assert {bench.states()[number] for number in roles_of(bench, first, "train")} == {"suspect"}
    assert {bench.states()[number] for number in roles_of(bench, first, "holdout")} == {"fresh"}
    roll(bench, first)
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
    bench.judging = JudgingSettings(min_holdout=2, max_holdout=8, reserve_share=1.0)
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
    bench.judging = JudgingSettings(min_holdout=2, max_holdout=8, reserve_share=1.0)
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


class Lives(RuleBasedStateMachine):
    """Random lives of a learner: corrections that collide, ratings, updates, refusals, rollbacks back and forth."""

    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.bench: Bench = open_bench(
            Path(self.directory.name),
            judging=JudgingSettings(min_holdout=2, max_holdout=3, max_retained=4, reserve_share=0.4),
            learning=LearningSettings(max_train_examples=6, max_replay_examples=4),
        )
        self.versions = [0]

    @rule(questions=st.lists(st.integers(0, 30), min_size=3, max_size=8), answer=st.integers(0, 2))
    def correct(self, questions: list[int], answer: int) -> None:
        for question in questions:
            self.bench.correct(f"question {question}?", f"answer {answer}")

    @rule(question=st.integers(0, 30))
    def up_rate(self, question: int) -> None:
        self.bench.feedback(self.bench.interaction(f"Question {question}", "so be it"), "rating", value=1)

    @rule(seed=st.integers(0, 5), promoted=st.booleans())
    def update(self, seed: int, promoted: bool) -> None:
        try:
            update_id = self.bench.begin_update(seed)
        except NotEnoughExamples:
            return
        if promoted:
            self.bench.promote(update_id)
            self.versions.append(update_id)
        else:
            self.bench.refuse(update_id)

    @precondition(lambda self: len(self.versions) > 1)
    @rule(choice=st.randoms(use_true_random=False))
    def roll(self, choice: object) -> None:
        others = [version for version in self.versions if version != self.bench.served()]
        roll(self.bench, choice.choice(others))  # type: ignore[attr-defined]

    @invariant()
    def no_version_is_judged_on_what_its_line_trained_on(self) -> None:
        if not hasattr(self, "bench"):
            return
        used: dict[tuple[int, bool], set[str]] = {}
        for row in self.bench.store.read(
            "SELECT update_id, role, cluster, ue.digest FROM update_examples AS ue"
            " JOIN examples ON examples.id = ue.example_id"
        ):
            learns = row["role"] in ("train", "replay")
            used.setdefault((row["update_id"], learns), set()).update((row["cluster"], row["digest"]))
        parents = {row["id"]: row["parent"] for row in self.bench.store.read("SELECT id, parent FROM updates")}
        for update_id in parents:
            judged = used[update_id, False]
            ancestor = update_id
            while ancestor:
                assert not judged & used[ancestor, True], f"update {update_id} is judged on what {ancestor} trained on"
                ancestor = parents[ancestor]

    @invariant()
    def states_follow_from_what_is_served(self) -> None:
        if not hasattr(self, "bench"):
            return
        line = lineage(self.bench.store.connection(), self.bench.served())
        trained = set().union(*(roles_of(self.bench, update_id, "train") for update_id in line))
        for number, state in self.bench.states().items():
            if state != "quarantined":
                assert (state == "trained") == (number in trained)

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            self.bench.store.close()
            self.directory.cleanup()


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=40, stateful_step_count=14, deadline=None)


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
