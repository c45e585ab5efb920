"""Numbers with a checksum: cards, bank accounts, identity numbers."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from typing import Final

from selflearn.experience.detectors.finding import Finding

#: ISO 13616 lengths, by country.
_IBAN_LENGTHS: Final = {
    country: int(length)
    for country, length in re.findall(
        r"([A-Z]{2})([0-9]{2})",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
        "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
        "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
        "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 "
        "YE30",
    )
}
#: What people type and word processors set between groups: space, no-break spaces, hyphens.
_GAP: Final = "[ \u00a0\u202f-]"

# ASCII digits are named as such: \d would also take digits that no checksum is defined for. The first character comes
# before the look-behind that guards it: so the search can leap to where one may begin.
_IBAN_START: Final = re.compile(rf"[A-Za-z](?<![A-Za-z0-9].)[A-Za-z][0-9]{{2}}(?={_GAP}?[A-Za-z0-9]{{4}})")
_IBAN_REST: Final = re.compile(rf"(?:{_GAP}?[A-Za-z0-9]){{1,48}}")

_CARD: Final = re.compile(
    rf"[2-6](?<![0-9A-Za-z.,-].)(?=([0-9]{{13,18}}"
    rf"|[0-9]{{3}}(?P<gap>{_GAP})[0-9]{{4}}(?P=gap)[0-9]{{4}}(?P=gap)[0-9]{{4}}(?:(?P=gap)[0-9]{{3}})?"
    rf"|[0-9]{{3}}{_GAP}[0-9]{{6}}{_GAP}[0-9]{{4,5}})(?![0-9A-Za-z]))"
)
#: Issuers (ranges of the first six digits) and how many digits their cards have.
_ISSUERS: Final[tuple[tuple[int, int, frozenset[int]], ...]] = (
    (400000, 499999, frozenset({16, 19})),  # Visa
    (510000, 559999, frozenset({16})),  # Mastercard
    (222100, 272099, frozenset({16})),
    (340000, 349999, frozenset({15})),  # American Express
    (370000, 379999, frozenset({15})),
    (300000, 305999, frozenset({14, 16})),  # Diners Club
    (309500, 309599, frozenset({14, 16})),
    (360000, 369999, frozenset({14, 16})),
    (380000, 399999, frozenset({14, 16})),
    (352800, 358999, frozenset({16, 17, 18, 19})),  # JCB
    (601100, 601199, frozenset({16, 17, 18, 19})),  # Discover, RuPay
    (644000, 659999, frozenset({16, 17, 18, 19})),
    (620000, 629999, frozenset({16, 17, 18, 19})),  # UnionPay
    (220000, 220499, frozenset({16, 17, 18, 19})),  # Mir
    (500000, 509999, frozenset({16, 18, 19})),  # Maestro and others
    (560000, 589999, frozenset({16, 18, 19})),
    (630000, 639999, frozenset({16, 18, 19})),
    (670000, 679999, frozenset({16, 18, 19})),
)

_SOCIAL_SECURITY: Final = re.compile(
    r"[0-8](?<![0-9A-Za-z-].)[0-9]{2}(?<!000|666)-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![0-9A-Za-z-])"
)
_NATIONAL: Final = re.compile(
    r"[0-9](?<![0-9A-Za-z.-].)(?:(?P<brazil>[0-9]{2}\.[0-9]{3}\.[0-9]{3}-[0-9]{2})"
    r"|(?P<france>(?<=[12]) ?[0-9]{2} ?(?:0[1-9]|1[0-2]) ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2})"
    r"|(?P<china>(?<!0)[0-9]{5}(?:19|20)[0-9]{9}[0-9X]))(?![0-9A-Za-z-])"
)
_ITALIAN: Final = re.compile(
    r"[A-Z](?<![0-9A-Za-z.-].)[A-Z]{5}[0-9]{2}[ABCDEHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z](?![0-9A-Za-z-])"
)
_ODD_VALUES: Final = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        [1, 0, 5, 7, 9, 13, 15, 17, 19, 21] * 2 + [2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23],
        strict=True,
    )
)


def find_cards(text: str) -> Iterator[Finding]:
    """Numbers of payment cards: of an issuer's range and length, with Luhn's checksum."""
    for match in _CARD.finditer(text):
        number = match.group() + match.group(1)
        if not _is_card(number) and not number[-4].isdigit():
            number = number[:-4]  # the last group was the card's security code
        if _is_card(number):
            yield Finding(match.start(), match.start() + len(number), "card")


def find_ibans(text: str) -> Iterator[Finding]:
    """International bank account numbers: of their country's length, with the checksum of ISO 13616."""
    for match in _IBAN_START.finditer(text):
        end = _iban_end(text, match)
        if end:
            yield Finding(match.start(), end, "iban")


def find_national_ids(text: str) -> Iterator[Finding]:
    """Identity numbers that are near certain: five countries' forms, four of them with checksums."""
    for match in _SOCIAL_SECURITY.finditer(text):
        yield Finding(*match.span(), "national-id")
    for match in _NATIONAL.finditer(text):
        if _NATIONAL_CHECKS[match.lastgroup or ""](match.group().replace(" ", "")):
            yield Finding(*match.span(), "national-id")
    for match in _ITALIAN.finditer(text):
        if _is_italian(match.group()):
            yield Finding(*match.span(), "national-id")


def _is_card(number: str) -> bool:
    digits = [int(character) for character in number if "0" <= character <= "9"]
    issuer = int("".join(map(str, digits[:6])))
    if not any(first <= issuer <= last and len(digits) in lengths for first, last, lengths in _ISSUERS):
        return False
    total = sum(digits[-1::-2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return total % 10 == 0


def _iban_end(text: str, start: re.Match[str]) -> int:
    """Where the account number ends that starts there; 0 if it is none."""
    length = _IBAN_LENGTHS.get(start.group()[:2].upper(), 0)
    if length == 0:
        return 0
    rest = _IBAN_REST.match(text, start.end())
    place, seen = start.end(), 4
    while rest is not None and place < rest.end() and seen < length:
        seen += text[place].isalnum()
        place += 1
    if seen < length or text[place : place + 1].isalnum():
        return 0
    compact = [character for character in text[start.start() : place].upper() if character.isalnum()]
    number = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
    return place if int(number) % 97 == 1 else 0


def _is_brazilian(number: str) -> bool:
    digits = [int(character) for character in number if character.isdigit()]
    if len(set(digits)) == 1:
        return False
    first = sum(weight * digit for weight, digit in zip(range(10, 1, -1), digits, strict=False)) * 10 % 11 % 10
    second = sum(weight * digit for weight, digit in zip(range(11, 1, -1), digits, strict=False)) * 10 % 11 % 10
    return digits[9:] == [first, second]


def _is_italian(number: str) -> bool:
    odd = sum(_ODD_VALUES[character] for character in number[:15:2])
    even = sum(int(character, 36) - 10 * character.isalpha() for character in number[1:15:2])
    return chr(ord("A") + (odd + even) % 26) == number[15]


def _is_french(number: str) -> bool:
    counted = number[:13].replace("2A", "19").replace("2B", "18") if number[5:7] in ("2A", "2B") else number[:13]
    return counted.isdigit() and 97 - int(counted) % 97 == int(number[13:])


def _is_chinese(number: str) -> bool:
    try:
        datetime.date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * 2 ** (17 - place) for place, digit in enumerate(number[:17]))
    return "10X98765432"[total % 11] == number[17]


_NATIONAL_CHECKS: Final = {
    "brazil": _is_brazilian,
    "france": _is_french,
    "china": _is_chinese,
}
