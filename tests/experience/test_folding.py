"""Folding: what a source says again in nearly the same words is no new example; what might correct it is one."""

from __future__ import annotations

import pytest

from tests.stores import Bench

LONG = "The museum opens at nine in the morning and closes at six in the evening."


@pytest.mark.parametrize(
    ("question", "target"),
    [
        ("When does the museum open on Sundays?", LONG.upper()),
        ("when does the museum open on sundays", LONG),
        ("Please, when does the museum open on Sundays?", LONG[:-1] + "!"),
        ("When does the museum open on Sundayss?", LONG.replace(" and", ", and")),
        ("When does the museum open on Sundays?", LONG.replace("the morning", "morning")),
    ],
)
def test_the_same_said_again_by_the_same_source_is_folded(bench: Bench, question: str, target: str) -> None:
    first = bench.correct("When does the museum open on Sundays?", LONG)
    again = bench.correct(question, target)
    assert (again.status, again.example_id) == ("folded", first.example_id)
    assert bench.store.read("SELECT duplicates FROM examples") == [{"duplicates": 1}]


@pytest.mark.parametrize(
    ("question", "target"),
    [
        ("When does the museum open on Sundays?", LONG.replace("nine", "ten")),
        ("When does the museum open on Sundays?", LONG.replace("opens", "never opens")),
        ("When does the museum open on Sundays?", LONG.replace("nine", "9")),
        ("When does the museum open on Sundays?", LONG + " It is free."),
        ("When does the museum open on Mondays?", LONG),
        ("When does the museum close on Sundays?", LONG),
    ],
)
def test_another_answer_or_question_is_a_new_example(bench: Bench, question: str, target: str) -> None:
    first = bench.correct("When does the museum open on Sundays?", LONG)
    other = bench.correct(question, target)
    assert other.status != "folded"
    assert other.example_id != first.example_id


@pytest.mark.parametrize(
    ("known", "new"),
    [
        ("It is 8000.", "It is 8001."),
        ("Paris", "Paris, of course"),
        ("The result of the line is x < 5 here.", "The result of the line is x > 5 here."),
        ("The balance of the account is -5 euros.", "The balance of the account is 5 euros."),
        ("Write down total = a + b in the next line.", "Write down total = a - b in the next line."),
        ("The factor that you need for it is 1.5 here.", "The factor that you need for it is 15 here."),
        ("Alice lends the book to Bob for two weeks.", "Bob lends the book to Alice for two weeks."),
        ("You must not restart the server at night.", "You must restart the server at night."),
        ("The server doesn't restart at night at all.", "The server does restart at night at all."),
    ],
)
def test_small_differences_that_matter_are_kept(bench: Bench, known: str, new: str) -> None:
    bench.correct("What do I need to know about it?", known)
    assert bench.correct("What do I need to know about it?", new).status != "folded"


def test_what_was_said_before_the_question_counts(bench: Bench) -> None:
    def correct(season: str) -> str:
        turns = [
            {"role": "user", "content": f"Tell me about the museum in {season}, please."},
            {"role": "assistant", "content": "Gladly."},
            {"role": "user", "content": "When does it open on Sundays?"},
        ]
        return bench.feedback(bench.interaction(messages=turns), "correction", text=LONG).status

    assert [correct(season) for season in ("summer", "winter", "sumer")] == ["accepted", "accepted", "folded"]


def test_another_source_is_never_folded_by_nearness(bench: Bench) -> None:
    bench.correct("When does the museum open on Sundays?", LONG)
    interaction = bench.interaction("When does the museum open on sunday?")
    other = bench.feedback(interaction, "correction", text=LONG[:-1] + "!", source="team-b")
    assert other.status != "folded"
    assert len(bench.states()) == 2


def test_what_is_in_quarantine_takes_nobody_in(bench: Bench) -> None:
    first = bench.correct("When does the museum open on Sundays?", LONG)
    bench.store.write(
        lambda connection: connection.execute("UPDATE examples SET state = 'quarantined', reason = 'operator'")
    )
    again = bench.correct("When does the museum open on Sundays, please?", LONG)
    assert again.status == "accepted"
    assert again.example_id != first.example_id
