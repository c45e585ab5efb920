"""The thread that runs the model: takes requests, does one step after another, hands out tokens.

Everything that the model, the cache and the scheduler hold is touched by this thread alone; other threads put commands
into its inbox. Tokens leave once a step, in one call into the event loop, however many requests there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from selflearn.errors import EngineError
from selflearn.serving.blocks import BlockPool
from selflearn.serving.cache import BlockCache
from selflearn.serving.engine import TokenChunk
from selflearn.serving.runners import Runner, probe, probe_difference
from selflearn.serving.sampling import RowSampler, Sampled, sample
from selflearn.serving.scheduler import Mailbox, Piece, Scheduler, Sequence

FAILURES_IN_A_ROW = 3  # steps that fail one after the other: the device itself is broken

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """``blocks`` of cache, ``places`` for sequences at once, the most tokens of one step, and CPU threads."""

    blocks: int
    places: int
    step_tokens: int
    threads: int
    share_prefixes: bool = True


class EngineLoop:
    """Runs sequences of any number of versions. Starts with its construction, ends with :meth:`stop`."""

    def __init__(self, runner: Runner, device: torch.device, options: LoopOptions) -> None:
        self.runner = runner
        self.options = options
        self._device = device
        self._pool = BlockPool(options.blocks, share_prefixes=options.share_prefixes)
        self._scheduler = Scheduler(self._pool, places=options.places, step_tokens=options.step_tokens)
        self._cache = BlockCache(runner.cache_shape, options.blocks, device)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._owners = itertools.count(1)
        self._stopping = False
        self._failures = 0
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._stopping and self.failure is None

    def call(self, work: Callable[[], Result]) -> Future[Result]:
        """Runs ``work`` between two steps, in the engine's thread."""
        future: Future[Result] = Future()

        def command() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        self._inbox.put(command)
        if not self.alive:
            future.cancel()
        return future

    def open(self, adapter_directory: Path | None) -> int:
        """Loads a version and returns the number of its owner. Blocking; raises ``ModelError``."""
        owner = next(self._owners)
        self.runner.add(owner, adapter_directory)
        return owner

    def submit(self, sequence: Sequence) -> bool:
        """Takes a sequence; from here on its mailbox gets tokens up to its end, or an error. False when it is over."""
        self._inbox.put(lambda: self._scheduler.add(sequence))
        return self.alive

    def cancel(self, sequence: Sequence) -> None:
        self._inbox.put(lambda: self._scheduler.drop(sequence))

    def waiting(self, owner: int) -> int:
        """Sequences of an owner without a place. A snapshot, from any thread."""
        return self._scheduler.waiting_of(owner)

    def close(self, owner: int) -> Future[None]:
        """Fails what is left of an owner's sequences and lets go of its version."""
        return self.call(lambda: self._close(owner))

    def probe(self, owner: int, ids: list[int], recorded: Tensor | None) -> float:
        """How far the logits after ``ids`` are from those ``recorded``; 0 if none were. Blocking.

        All of it in the engine's thread: OpenMP gives each thread that computes a team of its own, and as soon as
        there are more of them than cores, waiting for each other gets slow for good.
        """

        def work() -> float:
            found = probe(self.runner, owner, ids, self._device)
            return 0.0 if recorded is None else probe_difference(found, recorded)

        return self.call(work).result()

    def stop(self) -> None:
        """Ends the thread at once, failing what is in it. Blocking."""
        self._stopping = True
        self._inbox.put(lambda: None)
        self._thread.join()

    def _run(self) -> None:
        torch.set_num_threads(self.options.threads)
        try:
            with torch.inference_mode():
                while not self._stopping and self.failure is None:
                    self._take_commands()
                    if self._scheduler.busy and not self._stopping:
                        self._guarded_step()
        except BaseException as error:
            self.failure = f"broke: {error}"
            raise
        finally:
            self._stopping = True  # whoever comes after the last look into the inbox sees it
            self._take_commands()
            self._fail(self._scheduler.all(), self.failure or "has been stopped")

    def _take_commands(self) -> None:
        """All commands there are; waits for one when there is nothing else to do."""
        idle = not self._scheduler.busy and not self._stopping and self.failure is None
        try:
            command = self._inbox.get(block=idle)
            while True:
                command()
                command = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _guarded_step(self) -> None:
        pieces = self._scheduler.step()
        try:
            self._step(pieces)
            self._failures = 0
        except Exception as error:
            logger.exception("a step of the engine failed")
            self._failures += 1
            self._fail([piece.sequence for piece in pieces], f"failed while it answered ({error})")
            if self._failures >= FAILURES_IN_A_ROW:
                self.failure = f"failed {self._failures} steps in a row, the last with: {error}"

    def _step(self, pieces: list[Piece]) -> None:
        logits, completing = self._compute(pieces)
        chosen = sample(logits, [_row(piece) for piece in completing])
        tokens = {id(piece): token for piece, token in zip(completing, chosen, strict=True)}
        results: list[tuple[Sequence, TokenChunk | EngineError]] = []
        for piece in pieces:
            token = tokens.get(id(piece))
            self._scheduler.advance(piece, None if token is None else token.token_id)
            if token is not None:
                results.append((piece.sequence, self._result(piece.sequence, token)))
        _hand_out(results)

    def _compute(self, pieces: list[Piece]) -> tuple[Tensor, list[Piece]]:
        self._cache.clear(self._scheduler.fresh_blocks)
        self._scheduler.fresh_blocks.clear()
        return self.runner.run(pieces, self._cache)

    def _result(self, sequence: Sequence, chosen: Sampled) -> TokenChunk | EngineError:
        if chosen.failure is not None:
            self._scheduler.drop(sequence)
            return EngineError(f"The answer cannot go on in its format: {chosen.failure}. Simplify the schema.")
        reason = sequence.finish_reason()
        if reason is not None:
            self._scheduler.drop(sequence)
        return TokenChunk((chosen.token_id,), reason, () if chosen.logprobs is None else (chosen.logprobs,))

    def _close(self, owner: int) -> None:
        self._fail(self._scheduler.of(owner), "is no longer served")
        self._pool.forget_owner(owner)
        self.runner.remove(owner)

    def _fail(self, sequences: list[Sequence], why: str) -> None:
        for sequence in sequences:
            self._scheduler.drop(sequence)
        _hand_out([(sequence, EngineError(f"The engine {why}. Send the request again.")) for sequence in sequences])


def _row(piece: Piece) -> RowSampler:
    if piece.sequence.row is None:
        raise ValueError("a sequence without a sampler was submitted")
    return piece.sequence.row


def _hand_out(results: list[tuple[Sequence, TokenChunk | EngineError]]) -> None:
    """One call into each event loop, however many sequences got something."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Mailbox, TokenChunk | EngineError]]] = {}
    for sequence, result in results:
        if sequence.mailbox is not None:
            by_loop.setdefault(sequence.mailbox.loop, []).append((sequence.mailbox, result))
    for loop, letters in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the event loop is gone, and whoever waited with it
            loop.call_soon_threadsafe(_put_all, letters)


def _put_all(letters: list[tuple[Mailbox, TokenChunk | EngineError]]) -> None:
    for mailbox, result in letters:
        mailbox.letters.put_nowait(result)
