"""Secrets and personal data go, ordinary text stays, and no text takes long."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selflearn.config import ExperienceSettings
from selflearn.errors import ConfigurationError
from selflearn.experience.redaction import check_detector, pseudonym, redact, redact_tree
from tests.benchmarks.redaction_corpus import HOSTILE

LABELS = {
    "api-key": [
        ("use sk-proj-abcDEF1234567890abcd now", "use {} now"),
        ("key AKIAIOSFODNN7EXAMPLE.", "key {}."),
        ("ghp_0123456789abcdefghijABCDEFGHIJ012345", "{}"),
        ("github_pat_11ABCDEFG0123456789_abcdef", "{}"),
        ("xoxb-123456789012-abcdefGHIJ", "{}"),
        ("AIzaSyA0123456789abcdefghijklmnopqrstuv", "{}"),
        # a checksum that holds outweighs the word it is glued to
        ("token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", "token{}"),
    ],
    "token": [
        ("Authorization: Bearer abcdef0123456789abcdef==", "Authorization: Bearer {}"),
        ("Authorization: Basic Ym9iOmh1bnRlcjI=", "Authorization: Basic {}"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc-DEF_123", "{}"),
    ],
    "private-key": [
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY----- after", "{} after"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\nAASCBKcwggSjAgEAAoIB", "{}"),
        ("'-----BEGIN PRIVATE KEY-----\\nMIIEvQIBADANBgkqhkiG9w0BAQEF', cut off", "'{}', cut off"),
    ],
    "secret": [
        ("password=hunter2", "password={}"),
        ("DB_PASSWORD=xyz123; next", "DB_PASSWORD={}; next"),
        ('the api_key: "abc def ghi" ok', "the api_key: {} ok"),
        ("password: hunter2", "password: {}"),
        ("(dbPassword: P(ss)w0rd!)", "(dbPassword: {})"),
        ("<smtp.password>hunter2</smtp.password>", "<smtp.password>{}</smtp.password>"),
        ("mysql --password hunter2 -u root", "mysql --password {} -u root"),
        ("secret=" + "x9" * 400 + " end", "secret={} end"),
        ("My password is hunter2.", "My password is {}."),
        ('{"a": "{\\"password\\": \\"hunter2\\"}"}', '{"a": "{\\"password\\": {}}"}'),
        ('password = "my [redacted:email] and more"', "password = {}"),
        (
            "Endpoint=sb://x/;SharedAccessKey=abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG=",
            "Endpoint=sb://x/;SharedAccessKey={}",
        ),
    ],
    "password": [("postgres://user:s3c@ret@host/db", "postgres://user:{}@host/db")],
    "email": [
        ("mail bob.smith+x@mail.example.co.uk, please", "mail {}, please"),
        ("<müller@bücher.example>", "<{}>"),
    ],
    "card": [
        ("4111 1111 1111 1111 exp 12/27", "{} exp 12/27"),
        ("4111-1111-1111-1111 123", "{} 123"),
        ("4111 1111 1111 1111 123", "{} 123"),
        ("card 378282246310005!", "card {}!"),
    ],
    "iban": [
        ("DE89 3704 0044 0532 0130 00 BANK", "{} BANK"),
        ("gb82west12345698765432", "{}"),
        ("AB12 DE89 3704 0044 0532 0130 00", "AB12 {}"),
    ],
    "phone": [
        ("ring +44 20 7946 0958.", "ring {}."),
        ("0049 (30) 901820, 2 times", "{}, 2 times"),
        ("call (415) 555-2671 now", "call {} now"),
        ("Büro 030/901820", "Büro {}"),
        ("le 06 12 34 56 78", "le {}"),
        ("Tel: 4155552671", "Tel: {}"),
    ],
    "ip": [
        ("from 81.2.69.142:443", "from {}:443"),
        ("host 2a00:1450:4001:81b::200e;", "host {};"),
    ],
    "national-id": [
        ("SSN 078-05-1120", "SSN {}"),
        ("CPF 529.982.247-25", "CPF {}"),
        ("CF RSSMRA85T10A562S", "CF {}"),
        ("NIR 2 55 08 14 168 025 38", "NIR {}"),
        ("ID 11010519491231002X", "ID {}"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "text", "expected"), [(kind, *case) for kind, cases in LABELS.items() for case in cases]
)
def test_secrets_and_personal_data_go(kind: str, text: str, expected: str) -> None:
    assert redact(text) == (expected.replace("{}", f"[redacted:{kind}]"), Counter([kind]))


@pytest.mark.parametrize(
    "text",
    [
        "sk-learn-is-a-very-good-thing-to-have",
        "bearer responsibilities are heavy",
        "The password: it must be reset.",
        "password = getpass.getpass()",
        "password=$PASSWORD",
        "PWD=/home/bob/work2",
        "api_key = keys[0]",
        "add the option --password or -p2",
        "4111 1111 1111 1112",
        "DE89 3704 0044 0532 0130 01",
        "at 1700000000000 ms, order 12345678",
        "Write to @bob or see a@b",
        "git clone git@github.com:owner/name.git",
        "logo@2x.png",
        "def f(x): return x  # naïve café 東京 🙂",
        "the secret of good bread is time",
        "a file begins with -----BEGIN PRIVATE KEY----- and ends",
        "gateway 192.168.0.1, resolver 8.8.8.8, version 1.22.33.44",
        "std::max and a::b at 12:30:45",
        "on 01.02.2024 12:30 and 2024-05-01",
        "call it 1234567890123",
        "+1 999 999 9999 is nobody's",
        "eyJhIjoxLCJiIjoyfQ.abcdefghij.abcdefghij",
        "the number 0612345678 without a word about it",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == (text, Counter())


def test_several_things_go_each_under_its_name() -> None:
    text, found = redact(
        "4111 1111 1111 1111 415-555-2671 a@b.co, c@d.co; token=ghp_0123456789abcdefghijABCDEFGHIJ012345"
    )
    assert text == ("[redacted:card] [redacted:phone] [redacted:email], [redacted:email]; token=[redacted:api-key]")
    assert found == Counter({"email": 2, "card": 1, "phone": 1, "api-key": 1})


def test_what_overlaps_goes_as_a_whole() -> None:
    assert redact("password='mail a@b.co and 4111111111111111'") == ("password=[redacted:secret]", Counter(secret=1))


def test_of_what_overlaps_in_part_nothing_is_left() -> None:
    assert redact("password=abc12=+44 20 7946 0958.") == ("password=[redacted:phone].", Counter(phone=1))


def test_what_one_replacement_brings_to_light_ends_soon() -> None:
    once, _ = redact("a@b.co" + ".-x@y.de" * 20)
    assert redact(once) == (once, Counter())


def test_what_stands_beside_a_label_goes_too() -> None:
    text, found = redact("password=abc1[redacted:email]4111111111111111")
    assert text == "password=[redacted:secret][redacted:email][redacted:card]"
    assert found == Counter(secret=1, card=1)


def test_national_numbers_are_those_of_the_configured_countries() -> None:
    french = ExperienceSettings(phone_regions=("FR",))
    text = "030/901820 or (415) 555-2671 or 06 12 34 56 78"
    assert redact(text, french) == ("030/901820 or (415) 555-2671 or [redacted:phone]", Counter(phone=1))
    assert redact(text) == ("[redacted:phone] or [redacted:phone] or [redacted:phone]", Counter(phone=3))


def test_a_country_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigurationError, match="no country 'XX'"):
        check_detector(ExperienceSettings(phone_regions=("US", "XX")))


#: Beginnings, whole secrets and what stands between: together they bring texts that are neither.
PIECES = st.sampled_from(
    [text for cases in LABELS.values() for text, _ in cases]
    + [
        "password",
        "=",
        ": ",
        '"',
        "'",
        " ",
        "\n",
        "@",
        ".",
        "-",
        "/",
        "+",
        "://",
        "[redacted:email]",
        "[",
        "]",
        "0",
        "12",
    ]
    + [
        "a",
        "x@y.z",
        "sk-",
        "eyJ",
        "-----BEGIN PRIVATE KEY-----",
        "tel ",
        "is a1",
        "DE89",
        "81.2.69",
        "2a00:",
        "token=",
        "\\",
    ]
)


@given(st.lists(PIECES, max_size=8).map("".join))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once, _ = redact(text)
    assert redact(once) == (once, Counter())


@given(st.text(max_size=120))
def test_redacting_any_text_twice_changes_nothing_more(text: str) -> None:
    once, _ = redact(text)
    assert redact(once) == (once, Counter())


@given(st.text(alphabet="0123456789 -@.:/=abesk\"'()+[]", max_size=80))
def test_redacting_twice_changes_nothing_more_on_hard_text(text: str) -> None:
    once, _ = redact("password" + text)
    assert redact(once) == (once, Counter())


@pytest.mark.parametrize("piece", HOSTILE)
def test_no_text_takes_long(piece: str) -> None:
    started = time.process_time()
    redact(piece * (50_000 // len(piece)))
    assert time.process_time() - started < 2  # what is quadratic takes minutes


def test_half_surrogates_become_storable() -> None:
    assert redact("a\ud800b") == ("a\ufffdb", Counter())
    assert redact("\ud83d\ude42") == ("🙂", Counter())


def test_a_tree_is_redacted_wherever_text_is() -> None:
    tree = {"messages": [{"content": [{"type": "text", "text": "I am a@example.org"}]}], "top_p": float("nan"), "n": 1}
    clean = {"messages": [{"content": [{"type": "text", "text": "I am [redacted:email]"}]}], "top_p": None, "n": 1}
    assert redact_tree(tree) == (clean, Counter(email=1))


def test_a_field_that_is_named_a_secret_is_one() -> None:
    tree = {"password": "correct horse", "tool": {"api_key": "abc"}, "type": "password", "secret": {"type": "string"}}
    clean, found = redact_tree(tree)
    assert clean == {**tree, "password": "[redacted:secret]", "tool": {"api_key": "[redacted:secret]"}}
    assert found == Counter(secret=2)
    assert redact_tree(clean) == (clean, Counter())


def test_people_stay_apart_without_their_names() -> None:
    assert pseudonym("local") == "local"
    first, second = pseudonym("ann@example.org"), pseudonym("bob@example.org")
    assert first != second
    assert "@" not in first + second
    assert pseudonym("ann@example.org") == first
    assert pseudonym(first) == first
