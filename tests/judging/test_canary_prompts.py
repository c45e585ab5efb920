"""Canary prompts: what their file may say, and what is wrong with an answer."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from selflearn.errors import ConfigurationError
from selflearn.judging.canary_prompts import MATCHED_CHARACTERS, CanaryPrompt, load_canaries

TOML = """
[[canary]]
name = "port"
prompt = "Which port?"
expect = ['\\b8000\\b']

[[canary]]
name = "manners"
messages = [{role = "system", content = "Be kind."}, {role = "user", content = "Hello"}]
forbid = ['(?i)stupid', 'idiot']
required = true
"""


def written(directory: Path, text: str, name: str = "canaries.toml") -> str:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_toml_and_json_lines_say_the_same(tmp_path: Path) -> None:
    port, manners = load_canaries(written(tmp_path, TOML))
    lines = f"{port.model_dump_json()}\n\n{manners.model_dump_json()}\n"

    assert load_canaries(written(tmp_path, lines, "canaries.jsonl")) == (port, manners)
    assert port.chat() == [{"role": "user", "content": "Which port?"}]
    assert (port.required, manners.required) == (False, True)
    assert load_canaries("") == ()


def test_an_answer_has_what_is_expected_and_nothing_that_is_forbidden(tmp_path: Path) -> None:
    port, manners = load_canaries(written(tmp_path, TOML))

    assert port.problem("It listens on port 8000.") is None
    assert port.problem("It listens on port 80001.") == r"/\b8000\b/ is not in the answer"
    assert manners.problem("How STUPID of you") == "/(?i)stupid/ is in the answer"
    assert manners.problem("Hello!") is None


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("c.toml", "[[canary]]\nname = = 1", "at line 2"),
        ("c.toml", "[[canaries]]\nname = 'x'", "found canaries; expected [[canary]] tables"),
        ("c.toml", TOML + "\n[[canary]]\nname = 'port'\nprompt = 'x'\nforbid = ['y']", "line 13: the name 'port'"),
        ("c.toml", TOML + "\n[[canary]]\nname = 'z'\nprompt = 'x'\nexpect = ['(a']", "line 13: expect: "),
        ("c.toml", "[[canary]]\nname = 'z'\nprompt = 'x'\nexpect = ['a(?=b)']", "is not one of RE2"),
        ("c.toml", "[[canary]]\nname = 'z'\nprompt = 'x'", "neither expect nor forbid"),
        ("c.toml", "[[canary]]\nname = 'z'\nexpect = ['a']", "line 1: messages: Field required"),
        ("c.toml", "[[canary]]\nname = 'z'\nprompt = 'x'\nexpected = ['a']", "expected: Extra inputs"),
        ("c.jsonl", '\n{"name": "z"', "line 2: found no JSON"),
        (
            "c.jsonl",
            '{"name": "z", "messages": [{"role": "assistant", "content": "a"}], "expect": ["a"]}',
            "the last message is the assistant's; expected the user's",
        ),
    ],
)
def test_a_wrong_file_says_where_and_what(tmp_path: Path, name: str, text: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_canaries(written(tmp_path, text, name))

    assert told in str(raised.value)
    assert name in str(raised.value)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be read.*or '' for none"):
        load_canaries(str(tmp_path / "none.toml"))


def test_a_pattern_that_would_take_for_ever_elsewhere_takes_no_time() -> None:
    canary = CanaryPrompt.model_validate({"name": "slow", "prompt": "x", "expect": ["^(a+)+$"]})
    started = time.monotonic()

    assert canary.problem("a" * MATCHED_CHARACTERS + "b") is None  # what is beyond is not looked at
    assert canary.problem("a" * (MATCHED_CHARACTERS - 1) + "b") is not None
    assert time.monotonic() - started < 1.0
