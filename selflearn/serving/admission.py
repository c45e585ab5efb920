"""First come, first served places in a generation.

A request is let in only when the cache has room for all that it may ever write. So the engine never runs out of cache
in the middle of an answer, never has to throw a request out, and never has two requests that wait for each other.
"""

from __future__ import annotations

import asyncio
from collections import deque

from selflearn.errors import EngineError


class Admission:
    """``blocks`` of cache and ``places`` for requests, given out in order of arrival. Belongs to one event loop."""

    def __init__(self, blocks: int, places: int) -> None:
        self.blocks = blocks
        self.places = places
        self._free_blocks = blocks
        self._free_places = places
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._closed = False

    @property
    def waiting(self) -> int:
        """Requests without a place."""
        return sum(not future.done() for _, future in self._queue)

    async def acquire(self, cost: int) -> None:
        """Waits for a place and ``cost`` blocks. Raises ``EngineError`` when the generation closes meanwhile."""
        if self._closed:
            raise EngineError("This version is no longer served. Send the request again.")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((cost, future))
        self._admit()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(cost)  # let in and cancelled in the same turn of the event loop
            else:
                self._admit()  # the head of the queue may have been this one
            raise

    def release(self, cost: int) -> None:
        """Gives a place and ``cost`` blocks back."""
        self._free_blocks += cost
        self._free_places += 1
        self._admit()

    def close(self) -> None:
        """Fails everyone who still waits."""
        self._closed = True
        while self._queue:
            _, future = self._queue.popleft()
            if not future.done():
                future.set_exception(EngineError("This version stopped before the request began. Send it again."))

    def _admit(self) -> None:
        while self._queue:
            cost, future = self._queue[0]
            if future.done():  # cancelled while it waited
                self._queue.popleft()
                continue
            if self._free_places < 1 or self._free_blocks < cost:
                return
            self._queue.popleft()
            self._free_blocks -= cost
            self._free_places -= 1
            future.set_result(None)
