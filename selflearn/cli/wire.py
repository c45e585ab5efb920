"""HTTP/1.1 as a load generator needs it: one connection, one request at a time, bytes as they come.

A general client takes more than twice the time for each chunk of a stream (measured: 0.11 ms against 0.04 ms). On a
machine where client and server share the cores, that would be measured as if the server were slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from selflearn.cli.transport import Address

MAX_HEADER_BYTES = 64 * 1024
READ_BYTES = 64 * 1024
FINAL = 200


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of an answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]


class Connection:
    """One connection, opened when it is first needed and again when the server has closed it."""

    def __init__(self, address: Address, headers: Mapping[str, str] | None = None) -> None:
        self._address = address
        self._headers = headers or {}  # of every request
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._body: _Body | None = None

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def send(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Head:
        """Sends a request and returns the beginning of its answer; :meth:`pieces` or :meth:`read` gives the rest.

        ``body`` is sent as JSON, bytes as they are. Raises ``OSError`` and ``EOFError`` as the network does, and
        ``ValueError`` for an answer that is not HTTP.
        """
        reader = await self.send_only(method, path, body, headers)
        while (head := await _read_head(reader)).status < FINAL:
            pass  # "100 Continue" and the like say that the answer is still to come
        self._body = _Body(reader, head)
        return head

    async def send_only(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> asyncio.StreamReader:
        """Sends a request and waits for nothing; returns where its answer will come."""
        reader, writer = await self._open()
        writer.write(self._request(method, path, body, headers or {}))
        await writer.drain()
        return reader

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes. What is left unread by the end of the iteration closes the connection."""
        body = self._body
        if body is None:
            return
        try:
            async for piece in body.pieces():
                yield piece
        finally:
            if self._body is body:
                self._body = None
                if not body.keeps_open:
                    await self.close()

    async def read(self) -> bytes:
        """The whole body."""
        return b"".join([piece async for piece in self.pieces()])

    async def close(self) -> None:
        """Closes at once, whatever is under way."""
        streams, self._streams, self._body = self._streams, None, None
        if streams is not None:
            writer = streams[1]
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _request(self, method: str, path: str, body: object, headers: Mapping[str, str]) -> bytes:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = {"host": self._address.authority, "accept": "*/*", "content-length": str(len(content))}
        if content:
            lines["content-type"] = "application/json"
        head = "".join(f"{name}: {value}\r\n" for name, value in {**lines, **self._headers, **headers}.items())
        return f"{method} {self._address.path}{path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + content

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The connection that is kept, unless the server has closed it meanwhile; else a new one."""
        if self._streams is not None and self._streams[0].at_eof():
            await self.close()
        if self._streams is None:
            context: Any = ssl.create_default_context() if self._address.secure else None
            self._streams = await asyncio.open_connection(
                self._address.host, self._address.port, ssl=context, limit=MAX_HEADER_BYTES
            )
        return self._streams


async def _read_head(reader: asyncio.StreamReader) -> Head:
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError as error:
        raise ValueError(f"The answer's header is longer than {MAX_HEADER_BYTES} bytes.") from error
    first, *lines = text[:-4].split("\r\n")
    protocol, _, rest = first.partition(" ")
    status = rest[:3]
    if not protocol.startswith("HTTP/1.") or not status.isdigit():
        raise ValueError(f"The answer begins with {first[:100]!r}, which is not HTTP/1.1.")
    pairs = (line.partition(":") for line in lines)
    return Head(int(status), {name.strip().lower(): value.strip() for name, _, value in pairs})


class _Body:
    """The body that belongs to a head. ``keeps_open`` holds once it was read to its end on a connection that stays."""

    def __init__(self, reader: asyncio.StreamReader, head: Head) -> None:
        self._reader = reader
        self._chunked = head.headers.get("transfer-encoding", "").lower() == "chunked"
        length = head.headers.get("content-length")
        self._length = 0 if head.status in (204, 304) else None if length is None else int(length)
        self._stays = head.headers.get("connection", "").lower() != "close"
        self.keeps_open = False

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        if self._chunked:
            while piece := await self._chunk():
                yield piece
        elif self._length is not None:
            left = self._length
            while left:
                piece = await self._some(min(left, READ_BYTES))
                left -= len(piece)
                yield piece
        else:
            self._stays = False
            while piece := await self._reader.read(READ_BYTES):
                yield piece
        self.keeps_open = self._stays

    async def _some(self, most: int) -> bytes:
        piece = await self._reader.read(most)
        if not piece:
            raise EOFError("the server closed the connection within an answer")
        return piece

    async def _chunk(self) -> bytes:
        """The next chunk; empty at the end."""
        line = await self._reader.readuntil(b"\n")
        size = int(line.partition(b";")[0], 16)
        data = await self._reader.readexactly(size + 2)
        return data[:-2]
