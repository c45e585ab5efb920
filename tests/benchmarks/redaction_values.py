"""Makers of secrets and personal data, each in the form that its issuer gives it. None of them belongs to anybody."""

from __future__ import annotations

import base64
import ipaddress
import json
import random
import string
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import phonenumbers
from phonenumbers import PhoneNumberFormat

Maker = Callable[[random.Random], str]

ALNUM: Final = string.ascii_letters + string.digits
HEX: Final = "0123456789abcdef"
URL_SAFE: Final = ALNUM + "-_"
BASE64: Final = ALNUM + "+/"
BASE62: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase


def drawn(alphabet: str, length: int) -> Maker:
    return lambda choice: "".join(choice.choices(alphabet, k=length))


def form(template: str, *makers: Maker) -> Maker:
    """Fills the template's ``{}`` in order."""

    def make(choice: random.Random) -> str:
        text = template
        for maker in makers:
            text = text.replace("{}", maker(choice), 1)
        return text

    return make


def one_of(*words: str) -> Maker:
    return lambda choice: choice.choice(words)


def number(first: int, last: int) -> Maker:
    return lambda choice: str(choice.randint(first, last))


def checked_token(prefix: str) -> Maker:
    """GitHub's form: 30 characters and their CRC-32 in base 62."""

    def make(choice: random.Random) -> str:
        body = drawn(ALNUM, 30)(choice)
        rest, digits = zlib.crc32(body.encode()), ""
        for _ in range(6):
            rest, digit = divmod(rest, 62)
            digits = BASE62[digit] + digits
        return f"{prefix}_{body}{digits}"

    return make


def web_token(choice: random.Random) -> str:
    header = {"alg": choice.choice(["HS256", "RS256", "ES256"]), "typ": "JWT"}
    claims = {"sub": drawn(string.digits, 10)(choice), "iat": choice.randint(1_500_000_000, 1_800_000_000)}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, claims)]
    return ".".join([*parts, drawn(URL_SAFE, 43)(choice)])


def private_key(choice: random.Random) -> str:
    name = choice.choice(["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "])
    lines = [drawn(BASE64, 64)(choice) for _ in range(choice.randint(3, 20))]
    end = [] if choice.random() < 0.2 else [f"-----END {name}PRIVATE KEY-----"]
    gap = choice.choice(["\n", "\n", "\\n", "\r\n"])
    return gap.join([f"-----BEGIN {name}PRIVATE KEY-----", *lines, *end])


def luhn(body: str) -> str:
    """The digit that completes a card's number."""
    doubled = [int(digit) * (2 - place % 2) for place, digit in enumerate(reversed(body))]
    return str(-sum(digit // 10 + digit % 10 for digit in doubled) % 10)


#: How cards begin, and how many digits they have.
CARDS: Final = (
    *(("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("2720", 16), ("34", 15), ("37", 15), ("6011", 16)),
    *(("65", 16), ("3530", 16), ("62", 16), ("36", 14), ("2200", 16), ("6304", 16)),
)


def card(choice: random.Random) -> str:
    prefix, length = choice.choice(CARDS)
    body = prefix + drawn(string.digits, length - 1 - len(prefix))(choice)
    digits = body + luhn(body)
    groups = {16: (4, 4, 4, 4), 15: (4, 6, 5), 14: (4, 6, 4)}[length]
    gap = choice.choice(["", "", " ", " ", "-", "\u00a0"])
    return grouped(digits, groups, gap)


def grouped(digits: str, groups: Sequence[int], gap: str) -> str:
    parts, place = [], 0
    for size in groups:
        parts.append(digits[place : place + size])
        place += size
    return gap.join(parts)


#: Countries, the length of their account numbers, and how many letters these begin with.
ACCOUNTS: Final = (
    *(("DE", 22, 0), ("FR", 27, 0), ("GB", 22, 4), ("NL", 18, 4), ("ES", 24, 0), ("IT", 27, 1), ("AT", 20, 0)),
    *(("CH", 21, 0), ("BE", 16, 0), ("PL", 28, 0), ("SE", 24, 0), ("NO", 15, 0), ("MT", 31, 4), ("IE", 22, 4)),
)


def iban(choice: random.Random) -> str:
    country, length, letters = choice.choice(ACCOUNTS)
    body = drawn(string.ascii_uppercase, letters)(choice) + drawn(string.digits, length - 4 - letters)(choice)
    value = int("".join(str(int(character, 36)) for character in body + country + "00"))
    text = f"{country}{98 - value % 97:02}{body}"
    if choice.random() < 0.6:
        text = " ".join(text[place : place + 4] for place in range(0, length, 4))
    return text.lower() if choice.random() < 0.1 else text


NAMES: Final = (
    "ann",
    "bob.smith",
    "c.o'neil",
    "maria_lopez",
    "j-p.dupont",
    "li.wei",
    "müller",
    "иван",
    "x+tag",
    "a1b2",
)


def email(choice: random.Random) -> str:
    name = choice.choice(NAMES) + choice.choice(["", str(choice.randint(1, 999))])
    host = choice.choice(
        ["example", "mail.example", "firma-gmbh", "uni.example", "bücher", "пример", "xn--bcher-kva", "a.b.c"]
    )
    ending = choice.choice(["com", "org", "de", "co.uk", "museum", "io", "рф" if host == "пример" else "net"])
    return f"{name}@{host}.{ending}"


def spelled_email(choice: random.Random) -> str:
    return f"{choice.choice(NAMES)} at example dot {choice.choice(['com', 'org'])}"


def phone(regions: Sequence[str], written: int) -> Maker:
    """A valid number of one of the regions, as people of that country write it."""

    def make(choice: random.Random) -> str:
        while True:
            region = choice.choice(regions)
            known = phonenumbers.example_number_for_type(region, choice.choice([0, 1]))  # fixed lines, mobiles
            example = str(known.national_number if known is not None else "")
            digits = example[:3] + drawn(string.digits, len(example) - 3)(choice)
            parsed = phonenumbers.parse(digits, region)
            if phonenumbers.is_valid_number_for_region(parsed, region):
                return str(phonenumbers.format_number(parsed, written))

    return make


def bare_phone(choice: random.Random) -> str:
    return "".join(filter(str.isdigit, phone(HOME, PhoneNumberFormat.NATIONAL)(choice)))


def announced_phone(choice: random.Random) -> str:
    word = choice.choice(["tel ", "phone: ", "call me at ", "mobile ", "Fax: ", "Telefon: "])
    return f"{word}\x1f{bare_phone(choice)}"


HOME: Final = ("US", "GB", "DE", "FR")
ABROAD: Final = ("US", "GB", "DE", "FR", "IT", "ES", "IN", "BR", "JP", "AU", "PL", "NL", "CH", "MX", "ZA", "SE")


def ip4(wanted: bool) -> Maker:
    """An address that is global or is not."""

    def make(choice: random.Random) -> str:
        while True:
            address = ipaddress.IPv4Address(choice.getrandbits(32))
            if address.is_global and not address.is_multicast and wanted:
                return str(address)
            if not wanted:
                private = choice.choice(["10.0.0.0", "192.168.0.0", "172.16.0.0", "127.0.0.0", "169.254.0.0"])
                return str(ipaddress.IPv4Address(private) + choice.randint(1, 60_000))

    return make


def ip6(prefix: str) -> Maker:
    base = int(ipaddress.IPv6Address(prefix))
    return lambda choice: str(ipaddress.IPv6Address(base + choice.getrandbits(choice.choice([16, 64, 80]))))


def social_security(choice: random.Random) -> str:
    area = choice.choice([choice.randint(1, 665), choice.randint(667, 899)])
    return f"{area:03}-{choice.randint(1, 99):02}-{choice.randint(1, 9999):04}"


def brazilian(choice: random.Random) -> str:
    digits = [choice.randint(0, 9) for _ in range(9)]
    for most in (10, 11):
        digits.append(
            sum(weight * digit for weight, digit in zip(range(most, 1, -1), digits, strict=True)) * 10 % 11 % 10
        )
    return "{}{}{}.{}{}{}.{}{}{}-{}{}".format(*digits)


def french(choice: random.Random) -> str:
    body = f"{choice.choice('12')}{choice.randint(0, 99):02}{choice.randint(1, 12):02}{choice.randint(1, 95):02}"
    body += f"{choice.randint(1, 999):03}{choice.randint(1, 999):03}"
    digits = f"{body}{97 - int(body) % 97:02}"
    return grouped(digits, (1, 2, 2, 2, 3, 3, 2), " ") if choice.random() < 0.5 else digits


def chinese(choice: random.Random) -> str:
    body = f"{choice.randint(110000, 659000)}{choice.randint(1940, 2010)}{choice.randint(1, 12):02}"
    body += f"{choice.randint(1, 28):02}{choice.randint(0, 999):03}"
    return body + "10X98765432"[sum(int(digit) * 2 ** (17 - place) for place, digit in enumerate(body)) % 11]


WORDS: Final = ("hunter2", "Tr0ub4dor&3", "s3cr3t!", "P@ssw0rd99", "qwerty123", "Sommer2024!", "xK9#mQ2v")


def password(choice: random.Random) -> str:
    return choice.choice([*WORDS, drawn(ALNUM + "!#%", 14)(choice)])


VALUES: Final[Mapping[str, Sequence[Maker]]] = {
    "api-key": (
        form("sk-proj-{}", drawn(URL_SAFE, 48)),
        form("sk-{}T3BlbkFJ{}", drawn(ALNUM, 20), drawn(ALNUM, 20)),
        form("sk-ant-api03-{}AA", drawn(URL_SAFE, 93)),
        form("sl-{}", drawn(URL_SAFE, 43)),
        form("AKIA{}", drawn(string.ascii_uppercase + "234567", 16)),
        *(checked_token(prefix) for prefix in ("ghp", "gho", "ghs", "npm")),
        form("github_pat_{}_{}", drawn(ALNUM, 22), drawn(ALNUM, 59)),
        form("glpat-{}", drawn(URL_SAFE, 20)),
        form("xoxb-{}-{}-{}", drawn(string.digits, 12), drawn(string.digits, 12), drawn(ALNUM, 24)),
        form("sk_live_{}", drawn(ALNUM, 24)),
        form("AIza{}", drawn(URL_SAFE, 35)),
        form("GOCSPX-{}", drawn(URL_SAFE, 28)),
        form("hf_{}", drawn(string.ascii_letters, 34)),
        form("pypi-AgEIcHlwaS5vcmc{}", drawn(URL_SAFE, 80)),
        form("SG.{}.{}", drawn(URL_SAFE, 22), drawn(URL_SAFE, 43)),
        form("SK{}", drawn(HEX, 32)),
        form("{}:AA{}", drawn("123456789", 9), drawn(URL_SAFE, 33)),
        form("dop_v1_{}", drawn(HEX, 64)),
        form("hvs.{}", drawn(ALNUM, 24)),
        form("gsk_{}", drawn(ALNUM, 52)),
    ),
    "token": (web_token, web_token, form("Bearer \x1f{}", drawn(ALNUM, 40)), form("bearer \x1f{}=", drawn(BASE64, 31))),
    "secret": (password,),
    "password": (password,),
    "private-key": (private_key,),
    "card": (card,),
    "iban": (iban,),
    "email": (*[email] * 19, spelled_email),
    "phone": (
        phone(ABROAD, PhoneNumberFormat.INTERNATIONAL),
        phone(ABROAD, PhoneNumberFormat.INTERNATIONAL),
        phone(ABROAD, PhoneNumberFormat.E164),
        phone(HOME, PhoneNumberFormat.NATIONAL),
        phone(HOME, PhoneNumberFormat.NATIONAL),
        phone(HOME, PhoneNumberFormat.NATIONAL),
        announced_phone,
        bare_phone,
    ),
    "ip": (ip4(True), ip4(True), ip6("2a00::"), ip6("2600:1f00::")),
    "national-id": (social_security, brazilian, french, chinese, one_of("RSSMRA85T10A562S", "MRTMTT91D08F205J")),
}
