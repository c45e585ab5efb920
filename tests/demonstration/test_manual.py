from __future__ import annotations

from collections import Counter

import pytest

from selflearn.demonstration import answers_fact, load_manual, poisoned_lessons, right_lessons
from selflearn.experience.redaction import redact

FACTS = load_manual()


def test_the_manual_teaches_some_forty_questions_and_holds_paraphrases_back() -> None:
    taught = [question for fact in FACTS for question in fact.taught]
    held_back = [question for fact in FACTS for question in fact.held_back]
    assert (len(taught), len(held_back)) == (32, 16)
    assert len({*taught, *held_back}) == 48
    assert all("selflearn" in question for question in [*taught, *held_back])


def test_right_answers_score_for_their_own_fact_alone() -> None:
    for fact in FACTS:
        assert [other.name for other in FACTS if answers_fact(other, fact.answer)] == [fact.name]


def test_no_question_gives_its_answer_away() -> None:
    for fact in FACTS:
        assert not any(answers_fact(fact, question) for question in (*fact.taught, *fact.held_back))


def test_scoring_ignores_case() -> None:
    fact = next(fact for fact in FACTS if fact.name == "settings-file")
    assert answers_fact(fact, "In SELFLEARN.TOML, of course.")
    assert not answers_fact(fact, "In the file selflearn.yaml.")


@pytest.mark.parametrize("seed", range(20))
def test_no_poisoned_lesson_is_right_and_every_answer_is_used_as_often_as_before(seed: int) -> None:
    right = {lesson.question: lesson.answer for lesson in right_lessons(FACTS)}
    poisoned = poisoned_lessons(FACTS, seed)
    assert [lesson.question for lesson in poisoned] == list(right)
    assert all(lesson.answer != right[lesson.question] for lesson in poisoned)
    assert sorted(lesson.answer for lesson in poisoned) == sorted(right.values())


def test_a_single_fact_cannot_be_poisoned() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        poisoned_lessons(FACTS[:1], seed=0)


def test_redaction_leaves_the_manual_whole() -> None:
    for fact in FACTS:
        for text in (fact.answer, *fact.taught, *fact.held_back):
            assert redact(text) == (text, Counter())
