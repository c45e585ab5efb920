"""Connections that give up on clients that never finish what they began: a request's head, or reading an answer.

uvicorn limits the time between requests, but neither of these. Both limits cost nothing while the client keeps up:
a timer runs only while the client is the one that is waited for.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from selflearn.config import ApiSettings

GOODBYE_SECONDS = 1.0
_log = logging.getLogger(__name__)


def server_config(app: Starlette, **options: Any) -> uvicorn.Config:
    """How uvicorn serves ``app``, which has services; ``options`` are uvicorn's."""
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        **options,
    )


class Connection(H11Protocol):
    """One connection. Requests must arrive within api.read_timeout_seconds; the time for a body is counted elsewhere.

    A client that leaves what is sent unread for api.send_timeout_seconds is cut off; to the rest of the daemon it then
    is one that disconnected.
    """

    _late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_late()
        self._stop_unread()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._watch_request()  # answered before the body was read, the rest of which is thrown away

    def send_400_response(self, msg: str) -> None:
        super().send_400_response(msg)
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None:  # its body broke off into nonsense: whoever answers it has nobody to answer any more
            cycle.disconnected = True
            cycle.message_event.set()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self._api.send_timeout_seconds, self._give_up, "reads no answer")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_unread()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing() and self.transport.get_extra_info("sslcontext") is not None:
            # an idle client does not say goodbye; asyncio would wait half a minute for it
            self.loop.call_later(GOODBYE_SECONDS, self.transport.abort)

    def _watch_request(self) -> None:
        """Lets the time run while a request is arriving and none is being answered."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None and not cycle.response_complete:
            self._stop_late()
        elif self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(self._api.read_timeout_seconds, self._give_up, "sends no whole request")

    def _give_up(self, why: str) -> None:
        fields = {"client": self.client[0] if self.client else "unknown"}
        _log.info("a client %s and is cut off", why, extra={"fields": fields})
        self.transport.abort()

    @property
    def _api(self) -> ApiSettings:
        """The limits that are in force now."""
        return cast("ApiSettings", cast("Starlette", self.config.app).state.services.api)

    def _stop_late(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _stop_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
