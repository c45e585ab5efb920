"""Makers of what looks like secrets or personal data and is none: failed checksums, order numbers, code, prose."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from typing import Final

from tests.benchmarks.redaction_values import (
    ALNUM,
    HEX,
    URL_SAFE,
    Maker,
    card,
    drawn,
    form,
    grouped,
    iban,
    ip4,
    ip6,
    number,
    one_of,
)


def shifted_card(choice: random.Random) -> str:
    """A card with a wrong digit."""
    text = card(choice)
    return text[:-1] + str((int(text[-1]) + choice.randint(1, 9)) % 10)


def wrong_iban(choice: random.Random) -> str:
    text = iban(choice)
    return text[:-1] + str((int(text[-1]) + choice.randint(1, 9)) % 10)


def uuid(choice: random.Random) -> str:
    return grouped(drawn(HEX, 32)(choice), (8, 4, 4, 4, 12), "-")


digest: Final = form("sha256:{}", drawn(HEX, 64))
commit: Final = form("commit {}", drawn(HEX, 40))
timestamp: Final = form("at {} ms", number(1_600_000_000_000, 1_800_000_000_000))
seconds: Final = form("ts={}.{}", number(1_600_000_000, 1_800_000_000), drawn(string.digits, 6))
date_time: Final = form("2024-0{}-1{} 1{}:3{}:4{}", *[drawn("123456789", 1)] * 5)
price: Final = form("It costs {},{}.{} EUR.", number(1, 999), drawn(string.digits, 3), drawn(string.digits, 2))
isbn: Final = form("ISBN 978-{}-{}-{}-{}", number(0, 9), drawn(string.digits, 3), drawn(string.digits, 5), number(0, 9))
coordinates: Final = form(
    "{}.{}, -{}.{}", number(10, 60), drawn(string.digits, 6), number(10, 99), drawn(string.digits, 6)
)
order: Final = form("order {} and invoice 2024-{}", drawn("123456789", 10), drawn(string.digits, 8))
long_order: Final = form("order {}", drawn(string.digits, 16))
tracking: Final = form("parcel 1Z{} is late", drawn(string.digits + "ABCDEFW", 16))
version: Final = form("version {}.{}.{}.{}", *[number(0, 40)] * 4)
agent: Final = form("Mozilla/5.0 Chrome/{}.0.{}.{} Safari/537.36", number(90, 130), number(10, 250), number(10, 250))
code: Final = one_of(
    "password = getpass.getpass()",
    "password: str",
    "def login(user: str, password: str | None = None) -> None: ...",
    'api_key = os.environ["API_KEY"]',
    "token = tokens[position + 1]",
    "secret = settings.secret",
    "if password != other.password: raise ValueError",
    'password = "<your-password>"',
    "max_tokens=256, next_token=None",
    'PASSWORD="${DB_PASSWORD}"',
    "passwd: '********'",
    "SELECT password FROM users WHERE id = 7",
    "kubectl create secret generic db --from-literal=key",
    "password=$PASSWORD",
)
prose: Final = one_of(
    "The secret of good bread is time: 24 hours.",
    "Your password must have 12 characters; the password is case-sensitive.",
    "The password is SHA256-hashed before it is stored.",
    "Reset the password: open settings, then accounts.",
    "bearer responsibilities are heavy in 2024",
    "Basic understanding of TCP/IP is needed.",
    "sk-learn-is-a-very-good-thing-to-have",
    "sk-button-container-large-2x-and-more",
    "A PEM file starts with -----BEGIN PRIVATE KEY----- and goes on in base 64.",
    "The task-runner-configuration-2024-final is old.",
    "Set AWS_ACCESS_KEY_ID to AKIAXXXXXXXXXXXXXXXX.",
    "export GITHUB_TOKEN=ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "See https://host.example:8443/path@2 or ssh://git@host/repo.git",
)
mentions: Final = one_of(
    "Write to @bob or see a@b",
    "git clone git@github.com:owner/repository.git",
    "open logo@2x.png and icon@3x.webp",
    "pip install package@1.2.3",
    "use the @app.route decorator",
    "a @ b is the matrix product, x@y.T too",
    "twitter.com/@somebody and @somebody@",
    "reply within 2 days @ 5 EUR",
)
network: Final = one_of(
    "use 8.8.8.8 or 1.1.1.1 as the resolver",
    "mask 255.255.255.0, gateway 192.168.1.1",
    "the loopback ::1 and fe80::1",
    "std::vector<int>::size_type, a::b::c",
    "MAC 3c:22:fb:12:9a:01",
    "see section 3.12.4.11 of the manual",
    "OID 1.3.6.1.4.1.311.21.20",
    "at 12:34:56:78 in the film",
    "2001:db8::1 is for documentation",
)
arithmetic: Final = form("{} + {} = {}", number(100, 9999), number(1000, 99999), number(10000, 99999))
serial: Final = form("serial 0{}-{} rev {}", drawn(string.digits, 3), drawn(string.ascii_uppercase, 4), number(1, 9))
table: Final = form("{} {} {} {}", *[number(100, 9999)] * 4)
dates: Final = form("from 0{}.1{}.2023 to 1{}.0{}.2024", *[drawn("12", 1)] * 4)
part: Final = form("part {}-{}-{}", drawn(string.digits, 4), drawn(string.digits, 2), drawn(string.digits, 5))
wrong_brazilian: Final = form("{}.{}.{}-xx", *[drawn(string.digits, 3)] * 3)

NEGATIVES: Final[Mapping[str, Sequence[Maker]]] = {
    "api-key": (
        prose,
        digest,
        commit,
        uuid,
        code,
        tracking,
        form("id {}", drawn(ALNUM, 24)),
        form("etag {}", drawn(URL_SAFE, 40)),
    ),
    "token": (
        prose,
        digest,
        uuid,
        form("eyJ{}.x.y", drawn(ALNUM, 5)),
        form("module eyJ{}.{}.{}", *[drawn(ALNUM, 12)] * 3),
    ),
    "secret": (code, code, prose, date_time, digest),
    "password": (
        prose,
        form("https://host:8080/{}@2", drawn(ALNUM, 5)),
        one_of("postgres://app:${PASSWORD}@db/app"),
        date_time,
    ),
    "private-key": (
        prose,
        one_of("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----", "-----BEGIN PUBLIC KEY-----"),
    ),
    "card": (shifted_card, shifted_card, timestamp, isbn, order, long_order, digest, uuid, table, coordinates),
    "iban": (wrong_iban, wrong_iban, tracking, uuid, form("part AB12 {} {}", drawn(string.digits, 4), drawn(ALNUM, 4))),
    "email": (mentions, mentions, price, code),
    "phone": (
        timestamp,
        seconds,
        date_time,
        price,
        isbn,
        coordinates,
        order,
        arithmetic,
        serial,
        table,
        dates,
        uuid,
        version,
        shifted_card,
    ),
    "ip": (
        version,
        version,
        agent,
        network,
        network,
        form("host {}", ip4(False)),
        form("{} up", ip6("2001:db8::")),
        price,
        date_time,
    ),
    "national-id": (
        part,
        order,
        isbn,
        timestamp,
        wrong_brazilian,
        date_time,
        long_order,
        tracking,
        form("{}", drawn(string.digits, 15)),
    ),
}
