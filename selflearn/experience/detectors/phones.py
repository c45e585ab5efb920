"""Telephone numbers: a cheap expression says where one may be, the library ``phonenumbers`` whether it is one."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import phonenumbers

from selflearn.errors import ConfigurationError
from selflearn.experience.detectors.finding import Detector, Finding

_GAP: Final = "[ \u00a0\u202f.-]"
_END: Final = r"(?![\w@]|[.,:/-][0-9])"
_INTERNATIONAL: Final = re.compile(
    rf"(?<![\w+])(?:\+[ ]?(?=[1-9])|00(?=[1-9][0-9]{{0,2}}{_GAP}))"
    rf"(?:[0-9]|[ \u00a0\u202f./-][(]?(?=[0-9])|[(](?=[0-9])|[)]{_GAP}?(?=[0-9]))"
    rf"{{6,28}}(?<=[0-9]){_END}"
)
#: What holds a national number, if any: with fewer characters there is none.
_RUN: Final = re.compile(r"[(0-9][0-9 ()./\u00a0\u202f-]{7,}[0-9]")
#: Numbers of a country, grouped as people write them: 3-3-4 digits, or a trunk prefix 0 and an area code.
_NORTH_AMERICAN: Final = re.compile(
    rf"(?<![\w.,+/=-])(?:1{_GAP})?(?:\([2-9][0-9]{{2}}\) ?|[2-9][0-9]{{2}}{_GAP})"
    rf"[2-9][0-9]{{2}}[ \u00a0.-][0-9]{{4}}{_END}"
)
_TRUNK: Final = re.compile(
    rf"(?<![\w.,+/=:-])(?:0[1-9](?P<pair>{_GAP})[0-9]{{2}}(?:(?P=pair)[0-9]{{2}}){{3}}"
    r"|0[0-9]{1,5}-[1-9][0-9]{2,7}(?:-[0-9]{1,4})?"
    r"|(?:\(0[0-9]{1,5}\) ?|0[0-9]{1,5}(?: ?/ ?|[ \u00a0]))[1-9][0-9]{1,7}(?:[ \u00a0-][0-9]{2,8}){0,4}"
    rf"){_END}"
)
#: Any digits, if the words before them say that they are a telephone number.
_ANNOUNCED: Final = re.compile(rf"[(]?[0-9](?:[0-9]|[ \u00a0\u202f()./-](?=[0-9(])){{5,20}}(?<=[0-9]){_END}")
_ANNOUNCEMENT: Final = re.compile(
    r"(?<![^\W_])(?:(?:tele|cell|mobile )?phone|tel|mobile|cell|fax|whatsapp|sms|call|dial|ring|text|handy|mobil"
    r"|telefon|tel[eé]fono|t[eé]l[eé]phone|t[eé]l|m[oó]vil|portable|rufnummer|telefonnummer|handynummer|cellulare)[.:]?"
    r"(?: (?:me|us|him|her|them|back|number|no|nr|nummer|num[eé]ro|is|ist|est|on|at|unter|via)[.:]?){0,4}[ :=]{1,3}\Z",
    re.IGNORECASE,
)
_ANNOUNCEMENT_LENGTH: Final = 40
#: Before it stands another group of digits, as in the middle of a longer number; dates and times are none.
_CONTINUES: Final = re.compile(r"(?<![0-9A-Za-z./:-])[0-9A-Za-z]*[0-9]{2}[ \u00a0\u202f-]\Z")
_DATE: Final = re.compile(r"[0-9]{1,2}([./-])[0-9]{1,2}\1[0-9]{2,4}(?![0-9])")
_LEAST_DIGITS: Final = 8
_TRIES: Final = 4
_NOT_DIGITS: Final = re.compile("[^0-9]+")
_LAST_GROUP: Final = re.compile(r"[^0-9]+[0-9]+\Z")

#: The kinds of numbers that the library describes for a country.
_KINDS: Final = (
    "fixed_line",
    "mobile",
    "toll_free",
    "premium_rate",
    "shared_cost",
    "personal_number",
    "voip",
    "pager",
    "uan",
    "voicemail",
)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A country's numbers. ``pattern`` is for digits, with or without trunk prefix; the library has the last word."""

    region: str
    pattern: re.Pattern[str]

    def has(self, number: str) -> bool:
        digits = _NOT_DIGITS.sub("", number)
        return self.pattern.fullmatch(digits) is not None and _is_valid(number, self.region)


def phone_detector(regions: Sequence[str]) -> Detector:
    """Finds international numbers, and national ones of ``regions`` (ISO 3166 codes).

    Raises :class:`ConfigurationError` for a region that the library does not know.
    """
    unknown = [region for region in regions if region not in phonenumbers.SUPPORTED_REGIONS]
    if unknown:
        raise ConfigurationError(
            f"Setting experience.phone_regions: there is no country {unknown[0][:20]!r}. Expected two-letter codes in "
            "capitals (ISO 3166), such as US or DE."
        )
    known = phonenumbers.PhoneMetadata.metadata_for_region
    plans = [_Plan(region, re.compile(_pattern(known(region), _KINDS))) for region in regions]
    north_american = [plan for plan in plans if phonenumbers.country_code_for_region(plan.region) == 1]
    others = [plan for plan in plans if plan not in north_american]

    def find(text: str) -> Iterator[Finding]:
        yield from _international(text)
        for run in _RUN.finditer(text):
            if sum(map(run.group().count, "0123456789")) < _LEAST_DIGITS:
                continue
            # The characters around it decide too, so a little more than the run is looked at.
            start, end = max(0, run.start() - 1), run.end() + 2
            if north_american:
                yield from _national(text, _NORTH_AMERICAN.finditer(text, start, end), north_american)
            if others:
                yield from _national(text, _TRUNK.finditer(text, start, end), others)
            if _ANNOUNCEMENT.search(text[max(0, run.start() - _ANNOUNCEMENT_LENGTH) : run.start()]):
                yield from _national(text, filter(None, [_ANNOUNCED.match(text, run.start())]), plans)

    return find


def _international(text: str) -> Iterator[Finding]:
    if "+" in text or "00" in text:
        for match in _INTERNATIONAL.finditer(text):
            yield from _longest_valid(match, _is_international)


def _is_international(number: str) -> bool:
    digits = _NOT_DIGITS.sub("", number.removeprefix("00"))
    for length in (1, 2, 3):
        code = int(digits[:length] or 0)
        if code in phonenumbers.COUNTRY_CODE_TO_REGION_CODE:
            return _pattern_of_code(code).fullmatch(digits[length:]) is not None and _is_valid(f"+{digits}", None)
    return False


def _national(text: str, matches: Iterable[re.Match[str]], plans: Sequence[_Plan]) -> Iterator[Finding]:
    for match in matches:
        before = text[max(0, match.start() - 12) : match.start()]
        if not _DATE.search(match.group()) and not _CONTINUES.search(before):
            yield from _longest_valid(match, lambda number: any(plan.has(number) for plan in plans))


def _longest_valid(match: re.Match[str], is_valid: Callable[[str], bool]) -> Iterator[Finding]:
    """The match, or what of it is valid without its last groups of digits: they may belong to what follows."""
    number = match.group()
    for _ in range(_TRIES):
        if is_valid(number):
            yield Finding(match.start(), match.start() + len(number), "phone")
            return
        number = _LAST_GROUP.sub("", number)


@functools.cache
def _pattern_of_code(code: int) -> re.Pattern[str]:
    """What may follow a calling code, roughly: any number of the countries that share it."""
    known = phonenumbers.PhoneMetadata.metadata_for_region_or_calling_code
    shared = [known(code, region) for region in phonenumbers.COUNTRY_CODE_TO_REGION_CODE[code]]
    return re.compile("|".join({_pattern(metadata, ("general_desc",)) for metadata in shared}))


def _pattern(metadata: phonenumbers.PhoneMetadata | None, kinds: Sequence[str]) -> str:
    described = [getattr(metadata, kind, None) for kind in kinds]
    patterns = [each.national_number_pattern for each in described if each and each.national_number_pattern]
    prefix = metadata.national_prefix if metadata is not None else None
    return rf"(?:{prefix or ''})?(?:{'|'.join(patterns)})"


def _is_valid(number: str, region: str | None) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(number, region))
    except phonenumbers.NumberParseException:
        return False
