"""HTTP as commands need it: one request, its answer whole or as it comes.

The standard library's client does all of this, and is there in a fifth of the time that a general one takes to import.
Proxies of the environment are for the internet, not for a daemon of ours: they are not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from selflearn.errors import DaemonUnreachable

if TYPE_CHECKING:
    import ssl
    from http.client import HTTPConnection, HTTPResponse

CONNECT_SECONDS = 2.0
PIECE_BYTES = 64 * 1024
LINES = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is. ``path`` stands before every path that is asked for, without a slash at its end."""

    host: str
    port: int
    secure: bool
    path: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises ``DaemonUnreachable`` for what is no HTTP address."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DaemonUnreachable(f"{url!r} is no address of a server. Give one like http://127.0.0.1:8000.")
        secure = parts.scheme == "https"
        return cls(parts.hostname, port or (443 if secure else 80), secure, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. ``data`` is its JSON, None if it is none."""

    status: int
    data: Any

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class BrokenOff(Exception):
    """The network failed or the server did not speak HTTP; ``begun`` says that an answer had begun to come."""

    def __init__(self, error: Exception, *, begun: bool) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.begun = begun


@contextmanager
def answered(
    url: str,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str],
    body: object = None,
    timeout: float,
    trusted: ssl.SSLContext | None = None,
) -> Iterator[HTTPResponse]:
    """Sends a request and gives the answer while its body is still to be read.

    Bytes are sent as JSON Lines, all else as JSON. ``timeout`` is the longest silence, in seconds; ``trusted`` says
    whose certificates are believed (None: those that the system trusts). Raises
    ``DaemonUnreachable`` for what is no address, :class:`BrokenOff` for all that goes wrong on the way, also while the
    body is read.
    """
    from http.client import HTTPException

    address, begun = Address.parse(url), False
    connection = _connection(address, trusted)
    try:
        connection.connect()
        connection.sock.settimeout(timeout)
        content, kind = (body, LINES) if isinstance(body, bytes) else (json.dumps(body).encode(), "application/json")
        sent = {**headers, "accept": "*/*"} | ({} if body is None else {"content-type": kind})
        connection.request(method, address.path + path, None if body is None else content, sent)
        response = connection.getresponse()
        begun = True
        yield response
    except (OSError, HTTPException, UnicodeError) as error:
        raise BrokenOff(error, begun=begun) from error
    finally:
        connection.close()


def ask(url: str, method: str, path: str, **options: Any) -> Answer:
    """Sends a request and returns its whole answer; takes and raises what :func:`answered` does."""
    with answered(url, method, path, **options) as response:
        return whole(response)


def whole(response: HTTPResponse) -> Answer:
    """The rest of an answer, with its status."""
    try:
        data = json.loads(response.read())
    except ValueError:
        data = None
    return Answer(response.status, data)


def pieces(response: HTTPResponse) -> Iterator[bytes]:
    """The body as it comes."""
    while piece := response.read1(PIECE_BYTES):
        yield piece


def _connection(address: Address, trusted: ssl.SSLContext | None) -> HTTPConnection:
    from http.client import HTTPConnection, HTTPSConnection

    if not address.secure:
        return HTTPConnection(address.host, address.port, timeout=CONNECT_SECONDS)
    return HTTPSConnection(address.host, address.port, timeout=CONNECT_SECONDS, context=trusted)
