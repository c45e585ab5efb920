"""Precedence: of several words about one answer the strongest counts, whichever came first."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from selflearn.config import ExperienceSettings, JudgingSettings
from selflearn.experience import FeedbackReceipt, add_feedback
from tests.stores import LEARNER, Bench

CORRECTION: dict[str, Any] = {"kind": "correction", "text": "It is 8000."}
UP: dict[str, Any] = {"kind": "rating", "value": 1}
DOWN: dict[str, Any] = {"kind": "rating", "value": -1}
REWARD: dict[str, Any] = {"kind": "reward", "value": 0.5}
COMMENT: dict[str, Any] = {"kind": "comment", "text": "Say of which daemon."}
COMPARISON: dict[str, Any] = {"kind": "preference", "text": "Look it up in its configuration."}


def standing(bench: Bench) -> list[str]:
    """The objectives of the examples that may train, in the alphabet's order."""
    found = bench.store.read("SELECT objective FROM examples WHERE state = 'fresh' ORDER BY objective")
    return [row["objective"] for row in found]


@pytest.fixture
def bench(bench: Bench) -> Bench:
    bench.experience = ExperienceSettings(reserve_share=0.0)
    return bench


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ((CORRECTION, UP), ["supervised"]),
        ((CORRECTION, DOWN), ["supervised"]),
        ((CORRECTION, REWARD), ["supervised"]),
        ((CORRECTION, UP, REWARD), ["supervised"]),
        ((DOWN, REWARD), ["unpaired_preference"]),
        ((UP, REWARD), ["reward_weighted", "supervised"]),
        ((CORRECTION, COMMENT), ["hindsight", "supervised"]),
        ((CORRECTION, COMPARISON), ["paired_preference", "supervised"]),
        ((DOWN, COMMENT, COMPARISON), ["hindsight", "paired_preference", "unpaired_preference"]),
    ],
)
def test_what_counts_does_not_depend_on_what_came_first(
    bench: Bench, said: tuple[dict[str, Any], ...], left: list[str]
) -> None:
    for order in itertools.permutations(said):
        interaction = bench.interaction(f"What is the port of machine {next(bench.numbers)}?", "No idea.")
        for word in order:
            bench.feedback(interaction, **word)
        assert standing(bench) == left, order
        bench.store.write(lambda connection: connection.execute("UPDATE examples SET state = 'forgotten'"))


def test_of_two_ratings_the_latest_counts_for_rewards_too(bench: Bench) -> None:
    interaction = bench.interaction()
    bench.feedback(interaction, **DOWN)
    ignored = bench.feedback(interaction, **REWARD)
    assert (ignored.status, ignored.example_id) == ("ignored", None)
    assert "is wrong" in ignored.detail
    bench.feedback(interaction, **UP)
    assert bench.feedback(interaction, kind="reward", value=2).status == "accepted"
    assert standing(bench) == ["reward_weighted", "supervised"]


def test_what_is_ignored_says_why_and_is_counted(bench: Bench) -> None:
    interaction = bench.interaction()
    bench.feedback(interaction, **CORRECTION)
    for word, told in ((UP, "stands"), (DOWN, "says so already"), (REWARD, "would teach to give it")):
        receipt = bench.feedback(interaction, **word)
        assert (receipt.status, receipt.example_id) == ("ignored", None)
        assert told in receipt.detail
    assert len(bench.store.read("SELECT id FROM feedback")) == 4


def test_a_correction_that_is_held_back_overrules_nothing(bench: Bench) -> None:
    interaction = bench.interaction()
    bench.feedback(interaction, **DOWN)
    held = bench.feedback(interaction, kind="correction", text="x x x x x x x x x x x x x x x x x x x x x x x x x " * 9)
    assert held.status == "quarantined"
    assert standing(bench) == ["unpaired_preference"]
    other = bench.interaction("And of the other one?")
    assert bench.feedback(other, kind="correction", text="y y y y y y y y y y y y y " * 9).status == "quarantined"
    assert bench.feedback(other, **DOWN).status == "accepted"


def test_a_key_that_may_not_teach_overrules_nothing(bench: Bench) -> None:
    interaction = bench.interaction()
    bench.feedback(interaction, **DOWN, role="client")
    assert bench.feedback(interaction, **REWARD).status == "accepted"
    bench.feedback(interaction, **CORRECTION, role="client")
    assert standing(bench) == ["reward_weighted"]


def rewarded(bench: Bench, conversation: str) -> FeedbackReceipt:
    return add_feedback(
        bench.store,
        learner=LEARNER,
        conversation=conversation,
        kind="reward",
        value=1.0,
        source="local",
        settings=bench.experience,
        now=bench.now,
    )


def test_the_reward_of_a_conversation_passes_over_answers_that_are_wrong(bench: Bench) -> None:
    wrong, corrected, good = (
        bench.interaction(f"Question {name}?", f"Answer {name}", conversation="trip") for name in "abc"
    )
    bench.feedback(wrong, **DOWN)
    bench.feedback(corrected, **CORRECTION)
    receipt = rewarded(bench, "trip")
    assert receipt.detail.startswith("3 answers of this conversation: 1 accepted, 2 known to be wrong; new example 3")
    assert bench.store.read("SELECT interaction_id FROM examples WHERE objective = 'reward_weighted'") == [
        {"interaction_id": good}
    ]
    alone = bench.interaction("Question d?", "Answer d", conversation="other")
    bench.feedback(alone, **DOWN)
    assert rewarded(bench, "other").status == "ignored"


def trained_on(bench: Bench, word: dict[str, Any], source: str = "local") -> tuple[str, int]:
    """An interaction of which a version learned what ``source`` said, and the example of it."""
    bench.judging = JudgingSettings(min_holdout=2, max_holdout=2)
    said = {}
    for number in range(12):
        interaction = bench.interaction(f"What is the port of machine {number}?", "No idea.")
        said[bench.feedback(interaction, **word, source=source).example_id] = interaction
    bench.promote(bench.begin_update())
    return next((said[number], number) for number, state in bench.states().items() if state == "trained")


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (UP, DOWN, "down_rated"),
        (DOWN, UP, "superseded"),
        (DOWN, CORRECTION, "superseded"),
        (REWARD, CORRECTION, "superseded"),
        (REWARD, DOWN, "down_rated"),
        (REWARD, {"kind": "reward", "value": -2}, "superseded"),
        (CORRECTION, {"kind": "correction", "text": "It is 9000."}, "superseded"),
        (CORRECTION, {"kind": "correction", "text": "It is 8000. Or was, until May."}, "superseded"),
    ],
)
def test_what_a_source_takes_back_after_it_trained_is_not_replayed(
    bench: Bench, first: dict[str, Any], second: dict[str, Any], reason: str
) -> None:
    interaction, trained = trained_on(bench, first)
    receipt = bench.feedback(interaction, **second)
    assert receipt.status == "accepted"
    assert bench.store.read("SELECT state, reason FROM examples WHERE id = ?", (trained,)) == [
        {"state": "quarantined", "reason": reason}
    ]
    for number in range(12):
        bench.correct(f"Who owns building {number}?", f"Department {number}")
    update = bench.begin_update()
    roles = bench.store.read("SELECT example_id, role FROM update_examples WHERE update_id = ?", (update,))
    assert trained not in {row["example_id"] for row in roles}
    assert "replay" in {row["role"] for row in roles}


def test_what_another_source_says_takes_nothing_back_that_trained(bench: Bench) -> None:
    interaction, trained = trained_on(bench, UP, source="alice")
    bench.feedback(interaction, **DOWN, source="bob")
    assert bench.states()[trained] == "trained"


def test_what_is_taken_back_and_said_again_has_trained(bench: Bench) -> None:
    interaction, trained = trained_on(bench, UP)
    bench.feedback(interaction, **DOWN)
    again = bench.feedback(
        bench.interaction(
            bench.store.read(
                "SELECT json_extract(messages, '$[0].content') AS asked FROM examples WHERE id = ?", (trained,)
            )[0]["asked"],
            "No idea.",
        ),
        **UP,
    )
    assert (again.status, again.example_id) == ("folded", trained)
    assert bench.states()[trained] == "trained"
    assert "unpaired_preference" not in standing(bench)
