"""Where people and machines are reached: e-mail and IP addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from selflearn.experience.detectors.finding import Finding

#: Letters and digits of every script: both sides of an address may be international.
_EMAIL: Final = re.compile(
    r"(?<![\w.%+-])(?<!\w')[\w.%+-]{1,64}(?:'[\w.%+-]{1,64})?@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}"
    r"(?:xn--[A-Za-z0-9-]{2,59}|[^\W\d_]{2,24})(?![\w-])"
)
#: Endings that make it a file, as in logo@2x.png.
_FILE: Final = re.compile(r"@[0-9.]+x\.(?:png|jpe?g|gif|webp|svg|avif)\Z", re.IGNORECASE)
#: git@host:path names a repository, and the same account for everybody.
_REPOSITORY: Final = re.compile(r":[\w~/.-]")
#: Who logs in, and with what, stands before the host of a URL.
_IN_URL: Final = re.compile(r"://[^\s/?]*\Z")

# The first character comes before the look-behind that guards it: so the search can leap to where one may begin.
_V4: Final = re.compile(r"[0-9](?<![\w.].)(?<![A-Za-z]-.)[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?!\w|-[A-Za-z]|\.[0-9A-Za-z])")
#: Only what stands for 2000::/3 can be global.
_V6: Final = re.compile(r"[23](?<![\w:.].)[0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,7}(?:[0-9A-Fa-f]{1,4})?(?![\w:])")
_NOT_AN_ADDRESS: Final = re.compile(
    r"(?:version|release|build|firmware|update|patch|driver|section|chapter|clause|article|figure|table|item|rfc|oid|ver)"
    r"[.:=]?[ \t]*v?\Z|[A-Za-z]/\Z|(?:§|[<>~^=!]=)[ \t]?\Z",
    re.IGNORECASE,
)
_GLANCE: Final = 16
#: Resolvers that everybody names to everybody.
_PUBLIC: Final = frozenset(
    {
        *("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "1.1.1.2", "1.1.1.3", "9.9.9.9", "149.112.112.112"),
        *("4.2.2.1", "4.2.2.2", "208.67.222.222", "208.67.220.220", "2001:4860:4860::8888", "2001:4860:4860::8844"),
        *("2606:4700:4700::1111", "2606:4700:4700::1001", "2620:fe::fe"),
    }
)


def find_emails(text: str) -> Iterator[Finding]:
    """E-mail addresses, international ones included."""
    if "@" in text:
        for match in _EMAIL.finditer(text):
            address = match.group()
            if address.startswith("git@") and _REPOSITORY.match(text, match.end()):
                continue
            if not _FILE.search(address) and not _IN_URL.search(text, max(0, match.start() - 110), match.start()):
                yield Finding(*match.span(), "email")


def find_ips(text: str) -> Iterator[Finding]:
    """Global IP addresses; private, loopback and documentation ranges tell nothing of anybody and stay."""
    for match in _V4.finditer(text):
        if _is_global(match.group()) and not _is_number(text, match):
            yield Finding(*match.span(), "ip")
    if ":" in text:
        for match in _V6.finditer(text):
            if _is_global(match.group()):
                yield Finding(*match.span(), "ip")


def _is_global(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_global and not parsed.is_multicast and str(parsed) not in _PUBLIC


def _is_number(text: str, match: re.Match[str]) -> bool:
    """Whether four numbers with dots are those of a version or a section."""
    if all(len(part) == 1 for part in match.group().split(".")):
        return True
    return _NOT_AN_ADDRESS.search(text[max(0, match.start() - _GLANCE) : match.start()]) is not None
