"""One answer as text: what a generation streams in tokens, decoded piece by piece."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from selflearn.serving.engine import Generation, TokenLogprobs, TokenRequest
from selflearn.serving.text import Detokenizer

#: Why a version answers: it is what is served, it is the canary, or the client asked for it by number.
Track = Literal["stable", "canary", "pinned"]


@dataclass(frozen=True, slots=True)
class TextChunk:
    """New text. ``completion_tokens`` counts all tokens so far; ``finish_reason`` is set in the last chunk alone.

    ``logprobs`` has an entry for each token whose text this is, if the request asked for them; stop tokens have none.
    """

    text: str
    completion_tokens: int
    finish_reason: str | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()


class Answer:
    """One answer, wholly from one version: ``async with answer: async for chunk in answer: ...``.

    It must be closed (the ``async with`` does), which calls ``release`` once. Leaving early cancells the request in
    the engine.
    """

    def __init__(
        self,
        generation: Generation,
        request: TokenRequest,
        detokenizer: Detokenizer,
        release: Callable[[], None],
        track: Track,
    ) -> None:
        self._chunks = _chunks(generation, request, detokenizer)
        self._release = release
        self._closed = False
        self.version = generation.version
        self.track = track
        self.prompt_tokens = len(request.prompt_ids)

    def __aiter__(self) -> Answer:
        return self

    def __anext__(self) -> Awaitable[TextChunk]:
        return self._chunks.__anext__()

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the answer and frees its place; harmless when it is over."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._chunks.aclose()
        finally:
            self._release()


async def _chunks(
    generation: Generation, request: TokenRequest, detokenizer: Detokenizer
) -> AsyncGenerator[TextChunk, None]:
    tokens = 0
    stream = generation.stream(request)
    try:
        async for chunk in stream:
            tokens += len(chunk.token_ids)
            text = detokenizer.push(chunk.token_ids, chunk.logprobs)
            reason = chunk.finish_reason
            if reason is not None:
                text += detokenizer.finish()
            if detokenizer.stopped:
                reason = "stop"
            if text or reason is not None:
                yield TextChunk(text, tokens, reason, detokenizer.take_logprobs())
            if reason is not None:
                return
    finally:
        await stream.aclose()
