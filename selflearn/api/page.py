"""``/``: the page for people, and the files that it consists of.

They are the same for everybody and tell nothing of a daemon's state, so they need no key: what the page shows it asks
of the interface, with the key that a person gives it. Their addresses name their content (``/page/DIGEST/NAME``), so
that a browser may keep them for good.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from selflearn.errors import NotFound

INDEX: Final = "index.html"
PLACE: Final = b"RELEASE"  # in the index, where the digest of all files goes
MEDIA: Final[Mapping[str, str]] = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
)
SAFETY: Final[Mapping[str, str]] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
PROGRAMS: Final[Mapping[str, object]] = {
    "name": "selflearn",
    "is": "a language model that learns from its own use",
    "paths": ["/v1/chat/completions", "/v1/models", "/v1/feedback", "/admin/status", "/metrics", "/readyz", "/livez"],
}


@dataclass(frozen=True, slots=True)
class File:
    """One file as it is sent. ``etag`` has its quotes."""

    body: bytes
    media: str
    etag: str

    @classmethod
    def of(cls, name: str, body: bytes) -> File:
        return cls(body, MEDIA[name[name.rindex(".") :]], f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def paths() -> frozenset[str]:
    """The addresses of all files but the index."""
    return frozenset(_files())


async def show_page(request: Request) -> Response:
    """The page for a browser; for programs, in JSON, where to go."""
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse(PROGRAMS, headers={"vary": "accept"})
    return _send(request, _index(), {"cache-control": "no-cache", "vary": "accept"})


async def show_file(request: Request) -> Response:
    """A file, under an address that stands for this content alone."""
    found = _files().get(request.url.path)
    if found is None:
        raise NotFound("The page has no such file. Load the page again: the daemon may have a newer one.")
    return _send(request, found, {"cache-control": "public, max-age=31536000, immutable"})


def _send(request: Request, file: File, headers: Mapping[str, str]) -> Response:
    headers = {**SAFETY, **headers, "etag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.body, media_type=file.media, headers=headers)


@functools.cache
def _bodies() -> Mapping[str, bytes]:
    """All files of the page by their names, those in folders as ``folder/name``."""
    return {name: found.read_bytes() for name, found in _walk(files("selflearn.api") / "static", "")}


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.is_dir():
            found += _walk(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(tuple(MEDIA)):
            found.append((prefix + entry.name, entry))
    return found


@functools.cache
def _release() -> str:
    """A digest that is another one as soon as any byte of any file is."""
    whole = hashlib.sha256()
    for name, body in _bodies().items():
        whole.update(f"{name} {len(body)}\n".encode() + body)
    return whole.hexdigest()[:16]


@functools.cache
def _files() -> Mapping[str, File]:
    """The files by their addresses."""
    return {f"/page/{_release()}/{name}": File.of(name, body) for name, body in _bodies().items() if name != INDEX}


@functools.cache
def _index() -> File:
    return File.of(INDEX, _bodies()[INDEX].replace(PLACE, _release().encode()))
