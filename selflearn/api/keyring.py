"""The key file: one ``name role sha256:<hex>`` per line, ``#`` begins a comment. The keys themselves are nowhere."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from selflearn.errors import BadRequest, ConfigurationError, NotFound
from selflearn.versions.files import sync

Role = Literal["client", "teacher", "operator"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
RESERVED: Final = "local"  # how callers are named where no keys are configured
PREFIX: Final = "sl-"
_HEADING = "# Who may use this daemon: name, role (client, teacher, operator), hash of the key.\n"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """A key that is known here; ``digest`` is ``sha256:`` and the hash of the key in hex."""

    name: str
    role: Role
    digest: str


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys that are let in."""

    keys: tuple[Key, ...]

    def find(self, secret: bytes) -> Key | None:
        """Returns the key that ``secret`` is. How long it takes says nothing about what is known."""
        digest, found = digest_of(secret), None
        for key in self.keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def digest_of(secret: bytes) -> str:
    """What the key file has of a key. Keys have 256 random bits: a fast hash without salt is enough for them."""
    return f"sha256:{hashlib.sha256(secret).hexdigest()}"


def read_keyring(file: Path) -> Keyring:
    """Reads the key file; raises ``ConfigurationError`` for one that cannot be read, is wrong, or has no keys.

    One that everybody may write is refused, one that others than its owner can use otherwise is warned of.
    """
    keys = parse(read_text(file), file)
    _check_mode(file)
    if not keys:
        raise ConfigurationError(
            f"The key file {file} has no keys: nobody could use the daemon. Make one with 'selflearn keys add NAME "
            "--role operator', or unset api.keys_file."
        )
    return Keyring(keys)


def read_text(file: Path) -> str:
    """The text of a key file; raises ``ConfigurationError`` if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"The key file {file} cannot be read: {error}. Make it with 'selflearn keys add NAME --role operator', or "
            "name another in api.keys_file."
        ) from error


def parse(text: str, file: Path) -> tuple[Key, ...]:
    """The keys in the text of ``file``; raises ``ConfigurationError`` that names the line that is wrong."""
    keys: list[Key] = []
    for number, line in _lines(text):
        try:
            key = _key(line)
            _check_unique(key, keys)
        except ValueError as error:
            raise ConfigurationError(f"{file}, line {number}: {error}") from None
        keys.append(key)
    return tuple(keys)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if content := line.partition("#")[0].strip():
            yield number, content


def _key(line: str) -> Key:
    words = line.split()
    if len(words) != 3:
        raise ValueError(f"found {len(words)} words; expected three: name, role and sha256:<64 hex digits>.")
    name, role, digest = words
    check_name(name)
    if role not in ROLES:
        raise ValueError(f"{role[:40]!r} is not a role; expected one of: {', '.join(ROLES)}.")
    if not _DIGEST.fullmatch(digest):
        raise ValueError("the third word is not sha256: and 64 hex digits in lower case.")
    return Key(name, role, digest)


def check_name(name: str) -> None:
    """Raises ``ValueError`` for what cannot be the name of a key."""
    if name == RESERVED or not _NAME.fullmatch(name):
        raise ValueError(
            f"{name[:80]!r} cannot be the name of a key; expected 1 to 63 letters, digits, '.', '_' and '-', the first "
            f"of them a letter or digit, and not {RESERVED!r}."
        )


def _check_unique(key: Key, others: list[Key]) -> None:
    for other in others:
        if other.name == key.name:
            raise ValueError(f"there is another key named {key.name!r}; expected each name once.")
        if other.digest == key.digest:
            raise ValueError(f"{key.name!r} is the same key as {other.name!r}; expected each key once.")


def _check_mode(file: Path) -> None:
    mode = file.stat().st_mode
    if mode & stat.S_IWOTH:
        raise ConfigurationError(f"Everybody may write the key file {file}, and so let themselves in. chmod 600 it.")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        _log.warning("others than its owner can use the key file %s; chmod 600 it", file)


def add_key(file: Path, name: str, role: Role) -> str:
    """Makes a key, adds its hash to the file (a new one if need be), and returns the key: nothing else ever has it.

    Raises ``ConfigurationError`` when the file is wrong or cannot be written, ``BadRequest`` for the name.
    """
    secret = PREFIX + secrets.token_urlsafe(32)

    def add(text: str) -> str:
        line = f"{name} {role} {digest_of(secret.encode())}\n"
        before = text if not text or text.endswith("\n") else text + "\n"
        return (before or _HEADING) + line

    try:
        check_name(name)
    except ValueError as error:
        raise BadRequest(str(error), param="name") from None
    _change(file, add)
    return secret


def remove_key(file: Path, name: str) -> None:
    """Takes a key out of the file; raises ``NotFound``, and ``BadRequest`` for the last: no daemon starts without."""

    def remove(text: str) -> str:
        names = [key.name for key in parse(text, file)]
        if name not in names:
            known = ", ".join(names) or "none"
            raise NotFound(f"There is no key named {name[:80]!r} in {file}; there are: {known}.", param="name")
        if len(names) == 1:
            raise BadRequest(f"{name!r} is the last key in {file}; nobody could use the daemon. Add another before.")
        return "".join(line for line in text.splitlines(keepends=True) if line.split()[:1] != [name])

    _change(file, remove)


def _change(file: Path, change: Callable[[str], str]) -> None:
    """Replaces the file by one with the changed text, all or nothing; both texts must be right."""
    target = file.resolve()
    try:
        with _alone_in(target.parent):
            before = read_text(target) if target.exists() else ""
            parse(before, file)
            after = change(before)
            parse(after, file)
            _replace(target, after)
    except OSError as error:
        raise ConfigurationError(
            f"The key file {file} cannot be written: {error}. Make its directory writable."
        ) from error


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Keeps others who do the same out until the end."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(target: Path, text: str) -> None:
    """Puts a new file in the place of ``target``, with the same owner and mode (0600 if there was none)."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if target.exists():
                known = target.stat()
                os.fchmod(descriptor, stat.S_IMODE(known.st_mode))
                if (known.st_uid, known.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, known.st_uid, known.st_gid)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink()
        raise
    sync(target.parent)
