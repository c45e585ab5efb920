"""The embedded engine: a transformers model in this process, with batching, cache and sampling of our own.

Versions share the base's weights, the cache and every step; each has its own adapter and its own generation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from selflearn.errors import EngineError, ModelError, ProofFailed, VersionDamaged
from selflearn.models.adapter import probe_logits
from selflearn.models.base import LoadedBase, context_length, load_base
from selflearn.models.chat import probe_ids
from selflearn.serving.cache import BLOCK_TOKENS
from selflearn.serving.decoder import FusedDecoder, supports
from selflearn.serving.engine import TokenChunk, TokenRequest
from selflearn.serving.limits import check_fits
from selflearn.serving.loop import EngineLoop, LoopOptions
from selflearn.serving.runners import FusedRunner, ModuleRunner, Runner, probe, probe_difference
from selflearn.serving.sampling import RowSampler
from selflearn.serving.scheduler import Mailbox, Sequence

if TYPE_CHECKING:
    from selflearn.serving.grammar import Grammars, Matcher

PROBE_FILE = "probe.safetensors"
CPU_STEP_TOKENS = 256
GPU_STEP_TOKENS = 2048

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Sizes of the engine. ``cache_tokens`` bounds prompt plus answer, over all requests at once.

    A long prompt is read in steps of ``step_tokens`` (0: what suits the device). ``threads``
    are those of the CPU (0: as many as this process may use). ``fused`` lets models of the Llama
    family run in the lean decoder; with ``take_weights`` the base is empty afterwards, which saves a copy of it.
    ``probe_tolerance`` is the most that probe logits may be off, root mean square over
    the standard deviation of what was recorded.
    """

    cache_tokens: int = 16384
    max_concurrent_requests: int = 32
    step_tokens: int = 0
    threads: int = 0
    prefix_cache: bool = True
    fused: bool = True
    take_weights: bool = False
    probe_tolerance: float = 0.1

    @property
    def blocks(self) -> int:
        """One more than the tokens need: block 0 is nobody's."""
        return -(-self.cache_tokens // BLOCK_TOKENS) + 1

    @property
    def capacity(self) -> int:
        """Tokens of cache, whole blocks."""
        return (self.blocks - 1) * BLOCK_TOKENS


class TransformersEngine:
    """Opens generations that share ``base``'s weights. A model that runs in the lean decoder is emptied into it."""

    def __init__(self, base: LoadedBase, options: EngineOptions | None = None) -> None:
        self.base = base
        self.options = options or EngineOptions()
        self.context = context_length(base.model)
        self._probe = probe_ids(base.tokenizer)
        self._runner = _make_runner(base, self.options)
        self._starting = threading.Lock()
        self._loop: EngineLoop | None = None

    @cached_property
    def grammars(self) -> Grammars:
        """What constraints are compiled with; brought in by the first request that has one."""
        from selflearn.serving.grammar import Grammars

        return Grammars(self.base.tokenizer, vocabulary_size(self.base))

    def open_generation(self, version: int, adapter_directory: Path | None) -> TransformersGeneration:
        """See :class:`selflearn.serving.engine.Engine`."""
        if adapter_directory is None and version != 0:
            raise VersionDamaged(f"Version {version} has no adapter directory; only version 0, the base, has none.")
        loop = self._running_loop()
        try:
            owner = loop.open(adapter_directory)
        except ModelError as error:
            raise VersionDamaged(f"Version {version} cannot be loaded. {error}") from error
        try:
            self._prove(loop, owner, version, adapter_directory)
        except BaseException:
            loop.close(owner)
            raise
        return TransformersGeneration(version, owner, loop, self)

    def pulse(self) -> Future[None]:
        """See :class:`selflearn.serving.engine.Engine`: its thread comes by between two steps."""
        loop = self._loop
        if loop is not None:
            return loop.call(lambda: None)
        none: Future[None] = Future()
        none.cancel()
        return none

    def close(self) -> None:
        """Ends the engine's thread; what is in it fails. Blocking."""
        with self._starting:
            if self._loop is not None:
                self._loop.stop()

    def _running_loop(self) -> EngineLoop:
        """The loop that runs, or a new one in the place of one that broke."""
        with self._starting:
            if self._loop is None or not self._loop.alive:
                self._loop = EngineLoop(self._runner, self.base.device, _loop_options(self.base, self.options))
            return self._loop

    def _prove(self, loop: EngineLoop, owner: int, version: int, adapter_directory: Path | None) -> None:
        """Warms a version up; raises ``ProofFailed`` unless it is the saved one and answers as the worker recorded."""
        recorded = None if adapter_directory is None else _recorded_probe(adapter_directory, version)
        if adapter_directory is not None and not self._runner.holds(owner, adapter_directory):
            raise ProofFailed(f"Version {version} in memory is not the saved one. Verify its files.")
        try:
            difference = loop.probe(owner, self._probe, recorded)
        except Exception as error:
            raise EngineError(f"Version {version} failed on its first tokens: {error}.") from error
        if not difference <= self.options.probe_tolerance:  # also when it is NaN
            raise ProofFailed(
                f"Version {version} does not answer as recorded: its probe logits are off by {difference:.3f} of their "
                f"spread, at most {self.options.probe_tolerance} is expected. Check that the base model is the one it "
                "was trained on."
            )


def vocabulary_size(base: LoadedBase) -> int:
    """Number of logits; some models have more of them than their tokenizer has tokens."""
    return int(base.model.config.get_text_config().vocab_size)


def _make_runner(base: LoadedBase, options: EngineOptions) -> Runner:
    """The lean decoder where it computes what the model computes, else the model itself."""
    if not (options.fused and supports(base.model)):
        return ModuleRunner(base.model)
    ids = probe_ids(base.tokenizer)
    expected = probe_logits(base.model, ids)
    runner = FusedRunner(FusedDecoder(base.model, take=options.take_weights))
    runner.add(0, None)
    difference = probe_difference(probe(runner, 0, ids, base.device), expected)
    runner.remove(0)
    if difference <= options.probe_tolerance:
        return runner
    logger.warning("the lean decoder is off by %.3f on this model; it runs as transformers wrote it", difference)
    whole = (
        load_base(base.path, device=str(base.device), dtype=str(base.model.dtype).removeprefix("torch."))
        if options.take_weights
        else base
    )
    return ModuleRunner(whole.model)


def _loop_options(base: LoadedBase, options: EngineOptions) -> LoopOptions:
    step_tokens = options.step_tokens or (CPU_STEP_TOKENS if base.device.type == "cpu" else GPU_STEP_TOKENS)
    threads = options.threads or len(os.sched_getaffinity(0))
    return LoopOptions(options.blocks, options.max_concurrent_requests, step_tokens, threads, options.prefix_cache)


def _recorded_probe(directory: Path, version: int) -> Tensor:
    file = directory / PROBE_FILE
    try:
        return load_file(str(file))["logits"].float()
    except (OSError, SafetensorError, KeyError) as error:
        raise ProofFailed(f"Version {version} has no readable {PROBE_FILE}, so it proves nothing: {error}.") from error


class TransformersGeneration:
    """One version in service; see :class:`selflearn.serving.engine.Generation`."""

    def __init__(self, version: int, owner: int, loop: EngineLoop, engine: TransformersEngine) -> None:
        self._version = version
        self._owner = owner
        self._loop = loop
        self._engine = engine
        self._vocabulary = vocabulary_size(engine.base)
        self._random = random.Random()
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    @property
    def version(self) -> int:
        return self._version

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return self._loop.waiting(self._owner)

    @property
    def places(self) -> int:
        return self._engine.options.max_concurrent_requests

    @property
    def alive(self) -> bool:
        return not self._closed and self._loop.alive

    @property
    def capacity(self) -> int:
        """Most tokens of one request, prompt and answer together."""
        return min(self._engine.context, self._engine.options.capacity)

    def check(self, request: TokenRequest) -> None:
        """Raises ``BadRequest`` for a request that can never be served, ``EngineError`` when not alive."""
        if not self.alive:
            raise self._failure("is not running")
        check_fits(request, vocabulary=self._vocabulary, capacity=self.capacity)

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        """The answer, chunk by chunk; see :class:`selflearn.serving.engine.Generation`."""
        self.check(request)
        self._enter()
        try:
            sequence, mailbox = await self._sequence(request)
            if not self._loop.submit(sequence):
                raise self._failure("is not running")
            finished = False
            try:
                while not finished:
                    letter = await mailbox.letters.get()
                    finished = isinstance(letter, EngineError) or letter.finish_reason is not None
                    if isinstance(letter, EngineError):
                        raise letter
                    yield letter
            finally:
                if not finished:
                    self._loop.cancel(sequence)
        finally:
            self._leave()

    async def close(self, drain_seconds: float) -> None:
        """Lets requests finish for at most ``drain_seconds``, fails the rest, and gives the memory back."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                await self._idle.wait()
        if self._closed:
            return
        self._closed = True
        closing = self._loop.close(self._owner)
        if not closing.cancelled():  # a loop that is over has failed its sequences itself
            await asyncio.wrap_future(closing)

    async def _sequence(self, request: TokenRequest) -> tuple[Sequence, Mailbox]:
        mailbox = Mailbox(asyncio.get_running_loop(), asyncio.Queue())
        row = RowSampler(request.sampling, self._vocabulary, self._random, await self._matcher(request))
        sequence = Sequence(
            owner=self._owner,
            tokens=list(request.prompt_ids),
            prompt_length=len(request.prompt_ids),
            max_new_tokens=request.max_new_tokens,
            stop_ids=frozenset(request.stop_ids),
            row=row,
            mailbox=mailbox,
        )
        return sequence, mailbox

    async def _matcher(self, request: TokenRequest) -> Matcher | None:
        if request.sampling.constraint is None:
            return None
        grammar = await asyncio.to_thread(self._engine.grammars.compile, request.sampling.constraint)
        return grammar.matcher(request.stop_ids)

    def _enter(self) -> None:
        self._running += 1
        self._idle.clear()

    def _leave(self) -> None:
        self._running -= 1
        if self._running == 0:
            self._idle.set()

    def _failure(self, what: str) -> EngineError:
        reason = f" It {self._loop.failure}." if self._loop.failure else ""
        return EngineError(f"The engine of version {self._version} {what}.{reason} Send the request again.")
