"""The embedded engine: transformers' continuous batching on views of one base model in this process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import queue
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from selflearn.errors import BadRequest, EngineError, ModelError, ProofFailed, VersionDamaged
from selflearn.models.adapter import adapter_state, attach_saved, load_adapter_state, probe_logits
from selflearn.models.base import LoadedBase, context_length
from selflearn.models.chat import probe_ids, stop_ids
from selflearn.models.views import view_of
from selflearn.serving.admission import Admission
from selflearn.serving.continuous import GREEDY_BELOW, ResultRouter, make_manager, start_manager, stop_manager
from selflearn.serving.engine import TokenChunk, TokenRequest

logger = logging.getLogger(__name__)

PROBE_FILE = "probe.safetensors"
HEARTBEAT_SECONDS = 1.0  # how soon a request notices that the loop is dead
STOP_SECONDS = 60.0  # a single step of the loop takes less, on any machine that can serve at all


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Sizes of one generation. ``cache_tokens`` bounds prompt plus answer, over all requests at once."""

    cache_tokens: int = 16384
    max_concurrent_requests: int = 32
    page_size: int = 32
    max_batch_tokens: int = 0  # most tokens in one forward pass; 0 takes what suits the device
    probe_tolerance: float = 0.05  # largest difference of probe logits, as a share of their spread
    warm_timeout_seconds: float = 300.0

    @property
    def blocks(self) -> int:
        return -(-self.cache_tokens // self.page_size)


class TransformersEngine:
    """Opens generations that share ``base``'s weights; each has its own adapter, cache and batching loop."""

    def __init__(self, base: LoadedBase, options: EngineOptions | None = None) -> None:
        self.base = base
        self.options = options or EngineOptions()
        self.stop_ids = stop_ids(base.tokenizer, base.model)

    def open_generation(self, version: int, adapter_directory: Path | None) -> TransformersGeneration:
        """See :class:`selflearn.serving.engine.Engine`."""
        model = view_of(self.base.model)
        if adapter_directory is not None:
            try:
                attach_saved(model, adapter_directory, trainable=False)
            except ModelError as error:
                raise VersionDamaged(f"Version {version} cannot be loaded. {error}") from error
            self.prove(model, version, adapter_directory)
        elif version != 0:
            raise VersionDamaged(f"Version {version} has no adapter directory; only version 0, the base, has none.")
        generation = TransformersGeneration(version, model, self.options, self.stop_ids)
        try:
            generation.start(probe_ids(self.base.tokenizer)[:16])
        except BaseException:
            generation.stop()
            raise
        return generation

    def prove(self, model: PreTrainedModel, version: int, directory: Path) -> None:
        """Raises ``ProofFailed`` unless the adapter in memory is the saved one and answers as was recorded."""
        saved = load_adapter_state(directory)
        for name, tensor in adapter_state(model).items():
            if not torch.equal(tensor.cpu(), saved[name]):
                raise ProofFailed(
                    f"Version {version} in memory is not the saved one: {name} differs. Verify its files."
                )
        recorded = _recorded_probe(directory, version)
        found = probe_logits(model, probe_ids(self.base.tokenizer))
        difference = probe_difference(found, recorded)
        if not difference <= self.options.probe_tolerance:  # also when it is NaN
            raise ProofFailed(
                f"Version {version} does not answer as recorded: its probe logits are off by {difference:.3f} of their "
                f"spread, at most {self.options.probe_tolerance} is expected. Check that the base model is the one it "
                "was trained on."
            )


def probe_difference(found: Tensor, recorded: Tensor) -> float:
    """Largest absolute difference over the standard deviation of ``recorded``; infinite for another shape."""
    if found.shape != recorded.shape:
        return float("inf")
    return float((found - recorded).abs().max() / recorded.std().clamp_min(1e-6))


def _recorded_probe(directory: Path, version: int) -> Tensor:
    file = directory / PROBE_FILE
    try:
        return load_file(str(file))["logits"].float()
    except (OSError, SafetensorError, KeyError) as error:
        raise ProofFailed(f"Version {version} has no readable {PROBE_FILE}, so it proves nothing: {error}.") from error


class TransformersGeneration:
    """One version in service; see :class:`selflearn.serving.engine.Generation`."""

    def __init__(self, version: int, model: PreTrainedModel, options: EngineOptions, stops: tuple[int, ...]) -> None:
        self._version = version
        self._options = options
        self._admission = Admission(options.blocks, options.max_concurrent_requests)
        self._context = context_length(model)
        self._vocabulary = int(model.config.get_text_config().vocab_size)
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._numbers = itertools.count()
        self._manager: Any
        self._router: ResultRouter
        self._manager, self._router = make_manager(model, stops, _batching_options(model, options))

    @property
    def version(self) -> int:
        return self._version

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return self._admission.waiting

    @property
    def places(self) -> int:
        return self._admission.places

    @property
    def alive(self) -> bool:
        return not self._closed and bool(self._manager.is_running())

    @property
    def capacity(self) -> int:
        """Most tokens of one request, prompt and answer together."""
        return min(self._context, self._options.blocks * self._options.page_size)

    def start(self, warm_ids: list[int]) -> None:
        """Starts the loop and proves with two tokens that it turns. Blocking; the first steps allocate the cache."""
        start_manager(self._manager)
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._router.register("warm", results.put)
        self._manager.add_request(list(warm_ids), request_id="warm", max_new_tokens=2, temperature=0.0, top_p=1.0)
        deadline = time.monotonic() + self._options.warm_timeout_seconds
        try:
            while True:
                try:
                    output = results.get(timeout=HEARTBEAT_SECONDS)
                    break
                except queue.Empty:
                    if not self._manager.is_running() or time.monotonic() > deadline:
                        raise self._failure("did not start") from None
        finally:
            self._router.forget("warm")
        if output.error is not None or len(output.generated_tokens) < 1:
            raise self._failure(f"failed on its first tokens ({output.error})")

    def check(self, request: TokenRequest) -> None:
        """Raises ``BadRequest`` for a request that can never be served, ``EngineError`` when not alive."""
        if not self.alive:
            raise self._failure("is not running")
        if not request.prompt_ids or request.max_new_tokens < 1:
            found = f"{len(request.prompt_ids)} prompt tokens and max_tokens {request.max_new_tokens}"
            param = "max_tokens" if request.prompt_ids else "messages"
            raise BadRequest(f"Found {found}; both must be at least 1.", param=param, code="invalid_request")
        if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < self._vocabulary:
            message = f"A token id lies outside the vocabulary of {self._vocabulary}."
            raise BadRequest(message, param="messages", code="bad_token")
        total = len(request.prompt_ids) + request.max_new_tokens
        if total > self.capacity:
            raise BadRequest(
                f"The prompt has {len(request.prompt_ids)} tokens and max_tokens is {request.max_new_tokens}, together "
                f"{total}; at most {self.capacity} fit. Shorten the messages or lower max_tokens.",
                param="messages",
                code="context_length_exceeded",
            )

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        """The answer, chunk by chunk; see :class:`selflearn.serving.engine.Generation`."""
        self.check(request)
        tokens = len(request.prompt_ids) + request.max_new_tokens
        cost = -(-tokens // self._options.page_size)
        self._enter()
        try:
            await self._admission.acquire(cost)
            try:
                chunks = self._generate(request)
                try:
                    async for chunk in chunks:
                        yield chunk
                finally:
                    await chunks.aclose()
            finally:
                self._admission.release(cost)
        finally:
            self._leave()

    async def close(self, drain_seconds: float) -> None:
        """Lets requests finish for at most ``drain_seconds``, fails the rest, and gives the memory back."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                await self._idle.wait()
        self._closed = True
        self._admission.close()
        await asyncio.to_thread(self.stop)

    def stop(self) -> None:
        """Ends the loop at once and lets go of the model. Blocking; harmless when it is done."""
        self._closed = True
        manager, self._manager = self._manager, _Stopped()
        if isinstance(manager, _Stopped):
            return
        if not stop_manager(manager, STOP_SECONDS):
            logger.error("the loop of version %d did not end within %.0f s", self._version, STOP_SECONDS)

    def _enter(self) -> None:
        self._running += 1
        self._idle.clear()

    def _leave(self) -> None:
        self._running -= 1
        if self._running == 0:
            self._idle.set()

    async def _generate(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        loop = asyncio.get_running_loop()
        results: asyncio.Queue[Any] = asyncio.Queue()
        name = f"{request.request_id}#{next(self._numbers)}"  # the engine must never see the same name twice

        def deliver(output: Any) -> None:
            try:
                loop.call_soon_threadsafe(results.put_nowait, output)
            except RuntimeError:  # the event loop is gone, and whoever waited with it
                self._router.forget(name)

        self._router.register(name, deliver)
        finished = False
        try:
            self._submit(name, request)
            seen = 0
            while not finished:
                output = await self._next(results)
                if output.error is not None:
                    finished = True
                    raise self._failure(f"failed while it answered ({output.error})")
                finished = output.is_finished()
                new = tuple(output.generated_tokens[seen:])
                seen += len(new)
                yield TokenChunk(new, _finish_reason(output, request) if finished else None)
        finally:
            self._router.forget(name)
            if not finished:
                self._manager.cancel_request(name)

    def _submit(self, name: str, request: TokenRequest) -> None:
        greedy = request.temperature < GREEDY_BELOW
        accepted = self._manager.add_request(
            list(request.prompt_ids),
            request_id=name,
            max_new_tokens=request.max_new_tokens,
            streaming=True,
            eos_token_id=list(request.stop_ids) or [-1],
            temperature=0.0 if greedy else float(request.temperature),
            top_p=1.0 if greedy else float(request.top_p),
        )
        if accepted is None:
            raise self._failure("takes no more requests")

    async def _next(self, results: asyncio.Queue[Any]) -> Any:
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):  # wait_for can swallow a cancellation
                    return await results.get()
            except TimeoutError:
                if results.empty() and not self._manager.is_running():
                    raise self._failure("died while it answered") from None

    def _failure(self, what: str) -> EngineError:
        status = getattr(self._manager, "background_thread_status", None)
        cause = getattr(status, "fatal_error", None)
        reason = f" The cause was: {cause}." if cause else ""
        return EngineError(f"The engine of version {self._version} {what}.{reason} Send the request again.")


class _Stopped:
    """Stands where the manager was, so that nothing keeps its memory."""

    def is_running(self) -> bool:
        return False

    def cancel_request(self, name: str) -> None:
        del name

    def add_request(self, *arguments: Any, **options: Any) -> None:
        del arguments, options


def _finish_reason(output: Any, request: TokenRequest) -> str:
    tokens = output.generated_tokens
    return "stop" if tokens and tokens[-1] in request.stop_ids else "length"


def _batching_options(model: PreTrainedModel, options: EngineOptions) -> dict[str, Any]:
    on_cpu = model.device.type == "cpu"
    batch_tokens = options.max_batch_tokens or (256 if on_cpu else 2048)
    return {
        "page_size": options.page_size,
        "num_blocks": options.blocks,
        # A long prompt is read in pieces of this size, so that it does not hold up the others for long.
        "max_batch_tokens": max(batch_tokens, options.max_concurrent_requests),
        "max_requests_per_batch": options.max_concurrent_requests,
        "max_memory_percent": 0.95,
        "max_blocks_per_request": 0,
        # Admission reserves the whole of each request, so nothing has to be held back for running ones.
        "safety_margin": 0.0,
        # Without shared prefixes, the same prompt takes the same steps and gives the same bits.
        "allow_block_sharing": False,
        # Never fetches kernels from the network behind the operator's back.
        "auto_switch_to_flash": False,
    }
