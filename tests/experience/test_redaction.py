"""Obvious secrets go, ordinary text stays, and no text takes long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selflearn.experience.redaction import pseudonym, redact, redact_tree


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("use sk-proj-abcDEF1234567890abcd now", "use [redacted:api-key] now"),
        ("key AKIAIOSFODNN7EXAMPLE.", "key [redacted:api-key]."),
        ("ghp_0123456789abcdefghijABCDEFGHIJ012345", "[redacted:api-key]"),
        ("github_pat_11ABCDEFG0123456789_abcdef", "[redacted:api-key]"),
        ("xoxb-123456789012-abcdefGHIJ", "[redacted:api-key]"),
        ("AIzaSyA0123456789abcdefghijklmnopqrstuv", "[redacted:api-key]"),
        ("Authorization: Bearer abcdef0123456789abcdef==", "Authorization: Bearer [redacted:token]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc-DEF_123", "[redacted:token]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY----- after", "[redacted:private-key] after"),
        ("-----BEGIN PRIVATE KEY-----\ncut off", "[redacted:private-key]"),
        ("password=hunter2", "password=[redacted:secret]"),
        ("DB_PASSWORD=xyz123; next", "DB_PASSWORD=[redacted:secret]; next"),
        ('the api_key: "abc def ghi" ok', "the api_key: [redacted:secret] ok"),
        ("password: hunter2", "password: [redacted:secret]"),
        ("postgres://user:s3cret@host/db", "postgres://user:[redacted:password]@host/db"),
        ("mail bob.smith+x@mail.example.co.uk, please", "mail [redacted:email], please"),
        ("4111 1111 1111 1111", "[redacted:card]"),
        ("card 378282246310005!", "card [redacted:card]!"),
        ("DE89 3704 0044 0532 0130 00 BANK", "[redacted:iban] BANK"),
        ("gb82west12345698765432", "[redacted:iban]"),
    ],
)
def test_secrets_go(text: str, expected: str) -> None:
    assert redact(text) == (expected, 1)


@pytest.mark.parametrize(
    "text",
    [
        "sk-learn-is-a-very-good-thing-to-have",
        "bearer responsibilities are heavy",
        "The password: it must be reset.",
        "4111 1111 1111 1112",
        "DE89 3704 0044 0532 0130 01",
        "at 1700000000000 ms, order 12345678",
        "Write to @bob or see a@b",
        "def f(x): return x  # naïve café 東京 🙂",
        "the secret of good bread is time",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == (text, 0)


@given(st.text(max_size=200))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once, _ = redact(text)
    assert redact(once) == (once, 0)


@given(st.text(alphabet="0123456789 -@.:/=abesk\"'", max_size=80))
def test_redacting_twice_changes_nothing_more_on_hard_text(text: str) -> None:
    once, _ = redact("password" + text)
    assert redact(once) == (once, 0)


@pytest.mark.parametrize(
    "piece",
    [
        "eyJ",
        "a",
        "a@",
        "a.",
        "password=",
        'password:"',
        "sk-",
        "1234 ",
        "AA00 AAAA ",
        "://",
        "bearer ",
        "://aaa:",
        "a@a.",
    ],
)
def test_no_text_takes_long(piece: str) -> None:
    started = time.monotonic()
    redact(piece * (500_000 // len(piece)))
    assert time.monotonic() - started < 5


def test_half_surrogates_become_storable() -> None:
    assert redact("a\ud800b") == ("a\ufffdb", 0)
    assert redact("\ud83d\ude42") == ("🙂", 0)


def test_a_tree_is_redacted_wherever_text_is() -> None:
    tree = {"messages": [{"content": [{"type": "text", "text": "I am a@example.org"}]}], "top_p": float("nan"), "n": 1}
    clean = {"messages": [{"content": [{"type": "text", "text": "I am [redacted:email]"}]}], "top_p": None, "n": 1}
    assert redact_tree(tree) == (clean, 1)


def test_people_stay_apart_without_their_names() -> None:
    assert pseudonym("local") == "local"
    first, second = pseudonym("ann@example.org"), pseudonym("bob@example.org")
    assert first != second
    assert "@" not in first + second
    assert pseudonym("ann@example.org") == first
