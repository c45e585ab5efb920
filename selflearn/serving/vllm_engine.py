"""The vLLM engine: a vLLM server holds the base, and each version is an adapter in it under a name never used again.

A name that came back would find the cache that vLLM kept of the weights that bore it before. The base is served as an
adapter as well, one that changes nothing: beside requests with an adapter, vLLM on the CPU gives one without any the
adapter in its last slot (vllm-project/vllm#49656).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx

from selflearn.errors import EngineError, EngineUnavailable, SelflearnError, VersionDamaged
from selflearn.serving.engine import TokenChunk, TokenRequest
from selflearn.serving.limits import check_fits
from selflearn.serving.vllm_client import COMPLETIONS, completion_body, read_event, refusal, told
from selflearn.serving.vllm_proof import prove, read_probe
from selflearn.serving.vllm_server import VLLMServer

PROBE_FILE = "probe.safetensors"
DONE = b"[DONE]"
LEAVE_SECONDS = 2.0  # how soon requests that were failed are gone

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What the server calls a version, and the most tokens that it takes for one request."""

    name: str
    capacity: int


class VLLMEngine:
    """Opens versions in ``server``. ``recorded_base`` is the base in the layout of a version."""

    def __init__(self, server: VLLMServer, probe_ids: Sequence[int], recorded_base: Path, *, places: int) -> None:
        self.server = server
        self.places = places
        self._probe_ids = tuple(probe_ids)
        self._recorded_base = recorded_base
        self._base = read_probe(recorded_base / PROBE_FILE, "The base")
        self._generations: set[VLLMGeneration] = set()
        self._changing = threading.Lock()  # what is loaded: the watching thread changes it as well
        server.subscribe(self._restore)

    @property
    def vocabulary(self) -> int:
        return self._base.vocabulary

    def open_generation(self, version: int, adapter_directory: Path | None) -> VLLMGeneration:
        """See :class:`selflearn.serving.engine.Engine`."""
        if adapter_directory is None and version != 0:
            raise VersionDamaged(f"Version {version} has no adapter directory; only version 0, the base, has none.")
        self.server.expect_up()
        with self._changing:
            directory = adapter_directory or self._recorded_base
            generation = VLLMGeneration(self, version, directory, self._load(version, directory))
            self._generations.add(generation)
        return generation

    def pulse(self) -> Future[None]:
        """See :class:`selflearn.serving.engine.Engine`: at once, for the server has a keeper of its own."""
        alive: Future[None] = Future()
        alive.set_result(None)
        return alive

    def close(self) -> None:
        """Ends the watch over the server, and the server if it is our own. Blocking."""
        self.server.close()

    def forget(self, generation: VLLMGeneration) -> None:
        """Unloads a closed generation. Blocking."""
        with self._changing:
            self._generations.discard(generation)
            if self.server.up:
                self._unload(generation.name)

    def _load(self, version: int, directory: Path) -> _Loaded:
        """Loads, warms and proves a version."""
        client, what = self.server.client, f"Version {version}"
        name, recorded = f"selflearn-v{version:06d}-{secrets.token_hex(4)}", read_probe(directory / PROBE_FILE, what)
        capacity = self._capacity()
        client.load(name, directory, version)
        try:
            found = client.next_logprobs(name, self._probe_ids)
            prove(found, recorded, what, base=self._base if version else None)
        except SelflearnError:
            self._unload(name)
            raise
        return _Loaded(name, capacity)

    def _capacity(self) -> int:
        models = self.server.client.models()
        for model in models.values():
            if model.get("parent") is None:  # the base; adapters have it as theirs
                return int(model["max_model_len"])
        raise EngineError(f"vLLM at {self.server.address} serves no base model, only {', '.join(models)}.")

    def _unload(self, name: str) -> None:
        try:
            self.server.client.unload(name)
        except EngineError as error:
            logger.warning("an adapter stays loaded: %s", error)

    def _restore(self) -> None:
        """Loads again what a server that was away has lost. Raises ``EngineUnavailable`` if it went away once more."""
        with self._changing:
            names = self.server.client.models()
            for generation in list(self._generations):
                if generation.name in names:
                    continue
                try:
                    generation.move(self._load(generation.version, generation.directory))
                except EngineUnavailable:
                    raise
                except SelflearnError as error:  # the others come back without it
                    logger.error("version %d cannot be loaded again: %s", generation.version, error)
                    generation.fail(str(error))


class VLLMGeneration:
    """One version in service; see :class:`selflearn.serving.engine.Generation`.

    It stays alive while the server is away: it comes back with it, and refuses requests until then.
    """

    def __init__(self, engine: VLLMEngine, version: int, directory: Path, loaded: _Loaded) -> None:
        self.directory = directory
        self._engine = engine
        self._version = version
        self._loaded = loaded
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._ended: str | None = None  # why, once it is over
        self._closed = False
        self._http = engine.server.address.streaming_client()
        self._reading: set[asyncio.Timeout] = set()  # one for each answer that waits for vLLM

    @property
    def version(self) -> int:
        return self._version

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return max(0, self._running - self.places)

    @property
    def places(self) -> int:
        return self._engine.places

    @property
    def alive(self) -> bool:
        return self._ended is None

    @property
    def capacity(self) -> int:
        """Most tokens of one request, prompt and answer together."""
        return self._loaded.capacity

    @property
    def name(self) -> str:
        """What the server calls it now."""
        return self._loaded.name

    def move(self, loaded: _Loaded) -> None:
        """Goes on under another name: the server lost the one before."""
        self._loaded = loaded

    def fail(self, problem: str) -> None:
        """Every request fails from now on."""
        self._ended = problem

    def check(self, request: TokenRequest) -> None:
        """Raises ``BadRequest`` for a request that can never be served, ``EngineError`` when not alive.

        While the server is away, the latter is ``EngineUnavailable``.
        """
        self._expect_alive()
        self._engine.server.expect_up()
        check_fits(request, vocabulary=self._engine.vocabulary, capacity=self.capacity)

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        """The answer, chunk by chunk; see :class:`selflearn.serving.engine.Generation`."""
        self.check(request)
        self._running += 1
        self._idle.clear()
        try:
            async with contextlib.aclosing(self._generate(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            self._running -= 1
            if self._running == 0:
                self._idle.set()

    async def close(self, drain_seconds: float) -> None:
        """Lets requests finish for at most ``drain_seconds``, fails the rest, and unloads the version."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                await self._idle.wait()
        if self._closed:
            return
        self._closed, self._ended = True, "it has been closed"
        now = asyncio.get_running_loop().time()
        for scope in self._reading:
            scope.reschedule(now)
        with contextlib.suppress(TimeoutError):  # an answer that nobody reads does not notice
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._idle.wait()
        await self._http.aclose()
        await asyncio.to_thread(self._engine.forget, self)

    async def _generate(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        unique = f"{request.request_id}-{secrets.token_hex(4)}"
        response = await self._post(completion_body(self.name, request, unique))
        try:
            async with contextlib.aclosing(self._events(response)) as events:
                async for event in events:
                    chunk = read_event(event, request)
                    if chunk is not None:
                        yield chunk
                    if chunk is not None and chunk.finish_reason is not None:
                        return
            raise self._lost("ended the answer in the middle")
        finally:
            await response.aclose()  # in the middle of an answer, this is what cancels it

    async def _post(self, body: dict[str, object]) -> httpx.Response:
        asked = self._http.build_request("POST", COMPLETIONS, json=body)
        response = await self._read(lambda: self._http.send(asked, stream=True))
        if response.status_code == 200:
            return response
        try:
            await self._read(response.aread)
        finally:
            await response.aclose()
        if response.status_code == 404:  # it does not know this version (any more): somebody started it anew
            raise self._lost(f"said: {told(response)}")
        raise refusal(response.status_code, told(response))

    async def _events(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The data of each server-sent event, up to the last."""
        pieces, rest = response.aiter_raw(), b""
        while piece := await self._read(lambda: anext(pieces, b"")):
            *events, rest = (rest + piece).split(b"\n\n")
            for event in events:
                data = event.removeprefix(b"data:").strip()
                if data and data != DONE:
                    yield data

    async def _read(self, step: Callable[[], Awaitable[Result]]) -> Result:
        """Waits for the server until it answers, breaks, or this generation is closed."""
        self._expect_alive()
        try:
            async with asyncio.timeout(None) as scope:
                self._reading.add(scope)
                try:
                    return await step()
                finally:
                    self._reading.discard(scope)
        except TimeoutError:
            raise self._failure() from None
        except httpx.HTTPError as error:
            raise self._lost(f"broke off: {error!r}") from error

    def _lost(self, what: str) -> EngineError:
        self._engine.server.suspect()
        return EngineUnavailable(f"vLLM {what}. Send the request again in some seconds.")

    def _expect_alive(self) -> None:
        if self._ended is not None:
            raise self._failure()

    def _failure(self) -> EngineError:
        return EngineError(f"Version {self._version} is not served any more: {self._ended}. Send the request again.")
