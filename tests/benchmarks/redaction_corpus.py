"""A synthetic corpus for redaction: secrets and personal data in sentences, and what looks like them but is none.

Made by code from a seed; nothing in it belongs to anybody. It also holds what the detectors cannot see (a password that
nothing announces, a telephone number without groups, a spelled-out address), so that recall says something.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.benchmarks.redaction_decoys import NEGATIVES
from tests.benchmarks.redaction_values import VALUES

KINDS: Final = tuple(VALUES)

ANY_FRAMES: Final = (
    "{}",
    "Please check {} for me.",
    "I was told to use {}, is that right?",
    "({})",
    "It is {}!",
    'The form says "{}" in red.',
    "Details:\n- {}\n- delivered last week",
    "Voilà : {} – merci.",
    '{"note": "{}", "ok": true}',
    "customer\tvalue\nSmith\t{}\n",
    "Meine Angabe lautet {}. Danke!",
)

FRAMED_ONLY: Final = frozenset({"secret", "password"})
FRAMES: Final[Mapping[str, Sequence[str]]] = {
    "secret": (
        "password={}",
        "DB_PASSWORD={}",
        'export SECRET_KEY="{}"',
        '{"user": "bob", "password": "{}"}',
        "password: {}",
        "client_secret = '{}'",
        "Server=db;Uid=app;Pwd={};Encrypt=yes",
        "My password is {}.",
        "the passphrase is {}, please reset it",
        "curl -d 'user=bob&password={}' https://host/login",
        "Passwort: {}",
        'api_key => "{}"',
        '{"arguments": "{\\"password\\": \\"{}\\"}"}',
        "I log in as bob with {}",
        "userPassword={}",
        "<password>{}</password>",
        "tool --password {} --verbose",
    ),
    "password": (
        "postgres://app:{}@db.internal:5432/app",
        "clone https://bob:{}@git.host/x.git",
        "redis://:{}@cache:6379/0",
    ),
    "private-key": ("Here is my key:\n{}\nwhat is wrong?", 'key = """{}"""'),
    "card": ("My card {} exp 12/27 was declined.", "Visa {}", "pay with {} please"),
    "iban": ("IBAN: {}", "Transfer it to {} BIC DEUTDEFF."),
    "email": ("From: <{}>", "mailto:{}", "Cc: {}; x"),
    "phone": ("Phone: {}", "Call me: {}.", "Tel. {} (office)"),
    "ip": ("login from {} at 12:30", "ip={}", "host {};", "[{}]"),
    "national-id": ("My SSN/ID is {}.", "CPF {}"),
}

#: Repeated, each of them keeps some expression busy as long as it can.
HOSTILE: Final = (
    *(
        "eyJ",
        "a",
        "a@",
        "a.",
        "password=",
        'password:"',
        "password is a1",
        "password=[",
        "password:a",
        "token=",
        "sk-",
        "ghp_",
        "basic aaaaaaaa",
    ),
    *(
        "bearer ",
        "://",
        "://aaa:",
        "a@a.",
        "a@b.co_",
        '"',
        "[",
        "[redacted:",
        "[redacted:email]",
        "[redacted:email]a@b.co",
    ),
    *("1234 ", "(0", "0 ", "0-1", "0123 ", "tel 1", "+1+", "+1 (", "+1 4 1 ", "+12 34 56 78 90 ", "0612345678 "),
    *("415-555-2671 ", "+14155552671 ", "0171 1234567 ", "123-45-6789 ", "4111111111111111 ", "4111111111111111-"),
    *("AA00 AAAA ", "DE89 3704 0044 0532 0130 00 ", "2a00:", "1.1.1.1.", "81.2.69.142 ", "-----BEGIN PRIVATE KEY-----"),
    "-----BEGIN PRIVATE KEY-----\nAAAAAAAAAAAAAAAAAAAAA",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """``text`` holds ``value``, which must go; the rest must stay. Where all of it must, ``value`` is empty."""

    kind: str
    text: str
    value: str = ""


def positives(kind: str, number: int, seed: int = 0) -> list[Sample]:
    """So many texts that hold one thing of a kind each; makers set \\x1f between it and what announces it."""
    choice = random.Random(f"{seed}/positive/{kind}")
    found = []
    for _ in range(number):
        announcement, _, value = choice.choice(VALUES[kind])(choice).rpartition("\x1f")
        frame = choice.choice([*FRAMES.get(kind, ()), *(() if kind in FRAMED_ONLY else ANY_FRAMES)])
        found.append(Sample(kind, frame.replace("{}", announcement + value), value))
    return found


def negatives(kind: str, number: int, seed: int = 0) -> list[Sample]:
    """So many texts that look as if they held one, and do not."""
    choice = random.Random(f"{seed}/negative/{kind}")
    return [Sample(kind, choice.choice(NEGATIVES[kind])(choice)) for _ in range(number)]
