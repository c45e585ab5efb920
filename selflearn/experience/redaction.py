"""Obvious secrets and personal numbers leave a text before it is stored.

Only what can be recognised with near certainty goes: well-known key formats, assignments to names like ``password``,
e-mail addresses, and card and account numbers whose checksum holds. Every pattern runs in time linear in the text.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from typing import Any, Final

#: ISO 13616 lengths, by country.
_IBAN_LENGTHS: Final = {
    country: int(length)
    for country, length in re.findall(
        r"([A-Z]{2})([0-9]{2})",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 "
        "FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 "
        "LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 "
        "SA24 SC31 SD18 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20",
    )
}


def _label(kind: str) -> str:
    return f"[redacted:{kind}]"


def _whole(kind: str) -> Callable[[re.Match[str]], str]:
    return lambda match: _label(kind)


def _after_prefix(kind: str) -> Callable[[re.Match[str]], str]:
    return lambda match: f"{match.group('prefix')}{_label(kind)}"


def _card(match: re.Match[str]) -> str:
    digits = [int(character) for character in match.group() if character.isdigit()]
    total = sum(digits[-1::-2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return _label("card") if total % 10 == 0 else match.group()


def _iban(match: re.Match[str]) -> str:
    text = match.group()
    length = _IBAN_LENGTHS.get(text[:2].upper())
    if length is None:
        return text
    end, seen = 0, 0
    while end < len(text) and seen < length:
        seen += text[end] != " "
        end += 1
    compact = text[:end].replace(" ", "").upper()
    if seen < length or text[end : end + 1].isalnum():
        return text
    number = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
    return _label("iban") + text[end:] if int(number) % 97 == 1 else text


# Each pattern starts only where its characters start (a look-behind), so that a long run is scanned once, and ASCII
# digits are named as such: \d would also take digits that no checksum is defined for.
_PATTERNS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]] = (
    (
        re.compile(
            r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)?-----[\s\S]*?"
            r"(?:-----END (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)?-----|\Z)"
        ),
        _whole("private-key"),
    ),
    (
        re.compile(r"(?<![\w-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){1,3}"),
        _whole("token"),
    ),
    (
        re.compile(r"(?P<prefix>(?<=://)[^\s:/@\[\]]{0,100}:)[^\s@/\[\]]{3,200}(?=@)"),
        _after_prefix("password"),
    ),
    (
        re.compile(
            r"(?<![\w-])(?:"
            r"sk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{16,}"
            r"|[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"
            r"|(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])"
            r"|gh[pousr]_[A-Za-z0-9]{30,}"
            r"|github_pat_[A-Za-z0-9_]{22,}"
            r"|glpat-[A-Za-z0-9_-]{20,}"
            r"|xox[a-z]-[A-Za-z0-9-]{10,}"
            r"|AIza[0-9A-Za-z_-]{35}"
            r"|hf_[A-Za-z0-9]{30,}"
            r"|npm_[A-Za-z0-9]{36}"
            r")"
        ),
        _whole("api-key"),
    ),
    (
        re.compile(
            r"(?P<prefix>(?<![A-Za-z0-9])bearer[ \t]{1,8})(?=[A-Za-z._~+/-]*[0-9])[A-Za-z0-9._~+/-]{16,}=*",
            re.IGNORECASE,
        ),
        _after_prefix("token"),
    ),
    (
        re.compile(
            r"(?P<prefix>(?<![A-Za-z0-9])"
            r"(?:password|passwd|pwd|passphrase|secret|api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key"
            r"|auth[_-]?token|access[_-]?token|client[_-]?secret|secret[_-]?access[_-]?key)"
            r"[\"']?[ \t]{0,8}(?:=|:=|:(?=[ \t]{0,8}(?:[\"']|[^\s\"',;&0-9]{0,200}[0-9])))[ \t]{0,8})"
            r"(?![\"']?\[redacted:)(?:\"[^\"\n]{3,}\"|'[^'\n]{3,}'|[\"']?[^\s\"',;&]{3,})",
            re.IGNORECASE,
        ),
        _after_prefix("secret"),
    ),
    (
        re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?: ?[A-Za-z0-9]{4}){2,8}(?: ?[A-Za-z0-9]{1,4})?"),
        _iban,
    ),
    (
        re.compile(
            r"(?<![0-9A-Za-z.,-])[2-6](?:[0-9]{12,18}|[0-9]{3}(?P<gap>[ -])[0-9]{4}(?P=gap)[0-9]{4}(?P=gap)[0-9]{1,7}"
            r"|[0-9]{3}[ -][0-9]{6}[ -][0-9]{5})(?![0-9A-Za-z])"
        ),
        _card,
    ),
    (
        re.compile(
            r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9-])",
        ),
        _whole("email"),
    ),
)


def redact(text: str) -> tuple[str, int]:
    """The text with secrets replaced by ``[redacted:<kind>]``, and how many were replaced.

    Half surrogates, which JSON can carry but neither UTF-8 nor a tokenizer can, become U+FFFD (not counted).
    """
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _has_surrogate(text) else text
    total = 0
    for pattern, replace in _PATTERNS:
        replaced = 0

        def counting(match: re.Match[str], replace: Callable[[re.Match[str]], str] = replace) -> str:
            nonlocal replaced
            result = replace(match)
            replaced += result != match.group()
            return result

        text = pattern.sub(counting, text)
        total += replaced
    return text, total


def redact_tree(value: Any) -> tuple[Any, int]:
    """Redacts every string in a JSON value except keys; returns a new value and the number of replacements."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list | tuple):
        pairs = [redact_tree(item) for item in value]
        return [item for item, _ in pairs], sum(count for _, count in pairs)
    if isinstance(value, dict):
        redacted = {str(key): redact_tree(item) for key, item in value.items()}
        return {key: item for key, (item, _) in redacted.items()}, sum(count for _, count in redacted.values())
    if isinstance(value, float) and not math.isfinite(value):
        return None, 0  # JSON has no word for it
    return value, 0


def pseudonym(name: str) -> str:
    """A name of a source or conversation as it may be stored: itself, or a stable stand-in if it holds a secret.

    An e-mail address as user name must not be stored, yet its feedback must stay apart from that of others.
    """
    cleaned, found = redact(name)
    if not found:
        return cleaned
    return "pseudonym-" + hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:16]


def _has_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
