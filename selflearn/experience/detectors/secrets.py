"""Secrets that have no form of their own: the words around them say what they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from selflearn.experience.detectors.finding import Finding

#: Names whose values are secret whatever they look like.
_STRONG: Final = (
    r"pass(?:word|wd|phrase|code)|pwd|secret|api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key"
    r"|(?:account|shared[_-]?access)[_-]?key|auth[_-]?token|access[_-]?token|refresh[_-]?token|client[_-]?secret"
    r"|secret[_-]?access[_-]?key|passwort|kennwort|mot[ _-]de[ _-]passe|contraseña"
)
#: Names that are also used for harmless things: what they name must look random.
_WEAK: Final = r"token|credentials?|shared[_-]?access[_-]?signature|sig|session[_-]?(?:id|key|token)|x-api-key"
#: Where such a name may begin: after db_ and in dbPassword, but not within a word.
_START: Final = r"(?:(?<![A-Za-z0-9])|(?-i:(?<=[a-z0-9])(?=[A-Z])))"
_SIGN: Final = re.compile(r"[:=](?<=[A-Za-zñ\"' \t\\].)[=>]?(?P<gap>[ \t]{0,8})")
_NAME: Final = re.compile(rf"{_START}(?:{_STRONG}|(?P<weak>{_WEAK}))\\?[\"']?(?P<gap>[ \t]{{0,8}})\Z", re.IGNORECASE)
_NAME_LENGTH: Final = 40
_QUOTED: Final = re.compile(r"\\?\"([^\"\n\\]{3,1000})\\?\"|\\?'([^'\n\\]{3,1000})\\?'|`([^`\n]{3,1000})`")
_BARE: Final = re.compile(r"(?:[^\s\"'`,;&\[]|\[(?!redacted:)){3,1000}")
#: What may close a bracket around name and value.
_CLOSING: Final = ")]}>"
_ELEMENT: Final = re.compile(rf"{_START}(?:{_STRONG})>([^<>\n]{{3,200}})</", re.IGNORECASE)
_FLAG: Final = re.compile(
    rf"--(?:[A-Za-z0-9]{{1,20}}-){{0,3}}(?:{_STRONG})[ \t]{{1,4}}"
    r"(?=[^\s0-9]{0,60}[0-9])([^\s\"'`,;&-][^\s\"'`,;&]{2,200})",
    re.IGNORECASE,
)

#: What looks like a key: long, with letters and digits.
_OPAQUE: Final = re.compile(r"[A-Za-z0-9+/_%.~-]{16,}=*")
_RANDOM: Final = re.compile(r"(?=[^0-9]*[0-9])(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9+/_%.~-]{16,}=*")
#: Values that stand for a secret, in templates and documentation, or say where it is.
_STAND_IN: Final = re.compile(
    r"\$\{?[A-Za-z_][A-Za-z_0-9]*\}?|\$[({].*|%.*|\{\{.*|<.*|[*x•.…]+|_+|null|none|nil|undefined|true|false"
    r"|str|string|bytes|secretstr|optional|password|passwd|secret|token|your[_-].*|.*[_-]here|change[_-]?(?:me|this)"
    r"|replace[_-]?(?:me|this)|\[?(?:redacted|hidden|masked).*|example|placeholder"
    r"|(?:~|\.{1,2}|/(?:home|etc|usr|var|opt|srv|mnt|tmp|root|run|app|data|Users))/.*",
    re.IGNORECASE,
)
#: A value that is an expression of a programming language: a name, a path of names, a call, an index.
_NAME_OR_PATH: Final = re.compile(r"[A-Za-z_]+|[A-Za-z_][A-Za-z_0-9]*(?:(?:\.|->|::)[A-Za-z_][A-Za-z_0-9]*)+")
_CALL: Final = re.compile(r"[A-Za-z_][A-Za-z_0-9.]*(?:\([^)]*|\[[^\]]*)")

_SPOKEN: Final = re.compile(
    r"[pk](?<![A-Za-z0-9].)(?:ass(?:word|wort|phrase|code)|ennwort)[ \t]{1,4}(?:is|was|ist|war|to)[ \t]{1,4}"
    r"(?::[ \t]?)?"
    r"([\"'`]?)((?=[^\s0-9]{0,60}[0-9])(?=[^\sA-Za-z]{0,60}[A-Za-z])[^\s\"'`,;\[\]]{6,60}?)(?=[.,;!?]?[\"'`]?(?:\s|\Z))",
    re.IGNORECASE,
)
_TECHNICAL: Final = re.compile(
    r"\d+-?[a-z]+|(?:sha|md|base|utf|aes|rsa|argon|scrypt|bcrypt|pbkdf)-?[0-9a-z-]*", re.IGNORECASE
)

_IN_ADDRESS: Final = re.compile(r"(?<=://)[^\s:/@\[\]]{0,100}:([^\s/?\[\]]{3,200})(?=@)")


def find_assigned(text: str) -> Iterator[Finding]:
    """What is assigned to a name such as ``password``, in code, in configuration and in connection strings."""
    place = 0
    while sign := _SIGN.search(text, place):
        place = sign.end()
        name = _NAME.search(text, max(0, sign.start() - _NAME_LENGTH), sign.start())
        if name is not None:
            end = _end_of_value(text, name, sign)
            if end > place:
                yield Finding(place, end, "secret")
                place = end
    if "</" in text:
        for match in _ELEMENT.finditer(text):
            if not _is_stand_in(match.group(1)):
                yield Finding(*match.span(1), "secret")
    if "--" in text:
        for match in _FLAG.finditer(text):
            yield Finding(*match.span(1), "secret")


def find_spoken(text: str) -> Iterator[Finding]:
    """What is said to be a password, if it looks like one (letters and digits)."""
    for match in _SPOKEN.finditer(text):
        if not _TECHNICAL.fullmatch(match.group(2)):
            yield Finding(*match.span(2), "secret")


def find_in_addresses(text: str) -> Iterator[Finding]:
    """Passwords in URLs."""
    if "://" in text:
        for match in _IN_ADDRESS.finditer(text):
            if not _is_stand_in(match.group(1)):
                yield Finding(*match.span(1), "password")


def names_secret(name: str, value: str) -> bool:
    """Whether the value of a field of that name is a secret."""
    match = re.fullmatch(rf".*?{_START}(?:{_STRONG})", name[-60:], re.IGNORECASE | re.DOTALL)
    return match is not None and len(value) >= 3 and not _is_stand_in(value)


def _end_of_value(text: str, name: re.Match[str], sign: re.Match[str]) -> int:
    """Where the secret ends that stands after name and sign; 0 if there is none."""
    at, weak = sign.end(), name.group("weak") is not None
    quoted = _QUOTED.match(text, at)
    if quoted is not None:
        word = quoted.group(quoted.lastindex or 0)
        is_secret = not _is_stand_in(word) and not (weak and not _RANDOM.fullmatch(word))
        return quoted.end() if is_secret else 0
    bare = (_OPAQUE if weak else _BARE).match(text, at + (text[at : at + 1] in ("'", '"')))
    word = bare.group().rstrip(_CLOSING) if bare else ""
    if bare is None or len(word) < 3 or _is_stand_in(word):
        return 0
    is_secret = _RANDOM.fullmatch(word) is not None if weak else _is_bare_secret(word, name, sign)
    return bare.start() + len(word) if is_secret else 0


def _is_bare_secret(word: str, name: re.Match[str], sign: re.Match[str]) -> bool:
    """Whether a value without quotes is a secret, and not an expression, a type or an ordinary word."""
    has_digit = re.search("[0-9]", word) is not None
    if _CALL.fullmatch(word) or (sign.group().startswith(":") and "=" not in sign.group() and not has_digit):
        return False
    spaced = bool(name.group("gap") or sign.group("gap"))
    return has_digit or not (_NAME_OR_PATH.fullmatch(word) and (spaced or "." in word))


def _is_stand_in(word: str) -> bool:
    """Whether it stands for a secret; what does is short."""
    return len(word) <= 60 and _STAND_IN.fullmatch(word) is not None
