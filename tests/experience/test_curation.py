"""Curation: what no model should learn waits in quarantine with its reason; honest answers that look odd do not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selflearn.config import ExperienceSettings, Settings
from selflearn.daemon.composition import composed
from selflearn.errors import ConfigurationError
from selflearn.experience.curation import languages
from selflearn.experience.curation.problems import Problem, check_languages, problem_of
from tests.experience.curation_corpus import BAD, HARD, HONEST, LANGUAGES, UNJUDGED
from tests.stores import Bench

DEFAULT = ExperienceSettings()
PROSE = "When the harbour opens at six, boats that waited outside may enter in the order of their arrival."


def problem(question: str, answer: str, chosen: ExperienceSettings = DEFAULT) -> Problem | None:
    return problem_of([{"role": "user", "content": question}], answer, chosen)


def name(pair: Sequence[str]) -> str:
    return pair[1][:40]


@pytest.mark.parametrize("pair", HONEST, ids=name)
def test_honest_answers_pass(pair: tuple[str, str]) -> None:
    assert problem(*pair) is None


@pytest.mark.parametrize("row", BAD, ids=name)
def test_bad_answers_are_held_back_with_their_reason(row: tuple[str, str, str]) -> None:
    question, answer, reason = row
    found = problem(question, answer)
    assert found is not None
    assert found.reason == reason
    assert len(found.detail) < 200


def test_what_is_known_to_slip_through_is_said() -> None:
    """If one of these is held back one day, move it to the others, and the figures in the documentation with it."""
    assert [row for row in HARD if problem(*row[:2])] == []


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([], "no user turn"),
        ([{"role": "system", "content": "Be brief."}], "no user turn"),
        ([{"role": "wizard", "content": "x"}, {"role": "user", "content": "Hello"}], "the role 'wizard'"),
        ([{"role": "user", "content": "Hello"}, {"content": "who?"}], "the role ''"),
        ([{"role": "user", "content": [{"type": "text", "text": " "}]}], "last user turn is empty"),
        ([{"role": "user", "content": None}], "last user turn is empty"),
        ([{"role": "system", "content": "a\0b"}, {"role": "user", "content": "Hello"}], "null characters"),
    ],
)
def test_malformed_conversations(messages: list[dict[str, Any]], found: str) -> None:
    held = problem_of(messages, "An answer.", DEFAULT)
    assert held is not None
    assert held.reason == "malformed"
    assert found in held.detail


def test_tools_and_developers_belong_to_conversations() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "What is the weather?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]},
        {"role": "tool", "content": "12 degrees", "tool_call_id": "a"},
    ]
    assert problem_of(messages, "Twelve degrees.", DEFAULT) is None


def test_length_counts_prompt_and_answer() -> None:
    chosen = ExperienceSettings(max_characters=40)
    assert problem("q" * 20, "Twenty characters ok", chosen) is None
    held = problem("q" * 21, "Twenty characters ok", chosen)
    assert held == Problem("too_long", "prompt and answer have 41 characters; experience.max_characters is 40")


@settings(max_examples=60, deadline=None)
@given(
    unit=st.text("abcdefgh ijkl.\n", min_size=2, max_size=30).filter(lambda text: any(map(str.isalpha, text))),
    start=st.sampled_from(["", "The port is 8000. ", "Well, "]),
)
def test_every_loop_is_found(unit: str, start: str) -> None:
    found = problem("What is the port?", start + unit * (500 // len(unit)))
    assert found is not None
    assert found.reason == "repetitive"


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=400))
def test_any_text_gets_a_verdict_and_its_detail_never_quotes_it(text: str) -> None:
    secret = "xyzzy-plugh-42"
    found = problem("What is the port?", f"{secret} {text}")
    assert found is None or secret not in found.detail


@pytest.mark.parametrize("allowed", [("en",), ("de",), ("en", "de"), ("fr", "es", "it")])
def test_languages(allowed: tuple[str, ...]) -> None:
    chosen = ExperienceSettings(languages=allowed)
    for language, text in LANGUAGES:
        held = problem("?a", text, chosen)
        assert (held.reason if held else None) == (None if language in allowed else "language"), text


@pytest.mark.parametrize("text", UNJUDGED)
def test_short_texts_and_code_are_of_no_language(text: str) -> None:
    assert problem("?a", text, ExperienceSettings(languages=("fi",))) is None


def test_languages_are_checked_at_the_start() -> None:
    check_languages(ExperienceSettings())
    check_languages(ExperienceSettings(languages=("en", "de")))
    with pytest.raises(ConfigurationError, match=r"languages names english, klingon, .*It knows: .*, en, "):
        check_languages(ExperienceSettings(languages=("english", "klingon", "de")))


async def test_a_daemon_does_not_start_with_languages_that_it_cannot_tell(tmp_path: Path) -> None:
    chosen = Settings(state=tmp_path, experience=ExperienceSettings(languages=("klingon",)))
    with pytest.raises(ConfigurationError, match="klingon"):
        async with composed(chosen, tmp_path):
            pytest.fail("it started")


def test_a_missing_package_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    languages._identifier.cache_clear()
    check_languages(ExperienceSettings())
    with pytest.raises(ConfigurationError, match=r'pip install "selflearn\[language\]"'):
        check_languages(ExperienceSettings(languages=("en",)))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 90),
    st.text("abcdefgh 12", min_size=1, max_size=32).filter(lambda unit: any(map(str.isalpha, unit))),
    st.integers(60, 130),
)
def test_a_loop_is_found_wherever_it_begins(before: int, unit: str, size: int) -> None:
    """The quick look before the search must not miss any."""
    rounds = max(size, 4 * len(unit), before) // len(unit) + 1
    found = problem("How does it go on?", PROSE[:before] + unit * rounds)
    assert found is not None
    assert found.reason == "repetitive"


def test_what_is_held_back_is_in_quarantine_with_its_reason(bench: Bench) -> None:
    receipt = bench.correct("What is the port?", "I'm sorry, but I can't assist with that.")
    assert receipt.status == "quarantined"
    row = bench.store.read("SELECT state, reason, detail FROM examples")[0]
    assert row == {
        "state": "quarantined",
        "reason": "boilerplate",
        "detail": "the answer is nothing but canned phrases",
    }
    assert bench.correct("What is the port?", "8000").status == "accepted"
