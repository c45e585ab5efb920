"""Which tokens go through the model next.

Running sequences each decode one token a step; what is left of the step's token budget reads prompts, piece by piece,
so that a long prompt does not hold up the others for long. First come, first served. When the cache is full, the
sequence that began last gives its blocks back and starts over later, with its own tokens as its prompt.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from selflearn.errors import EngineError
from selflearn.serving.blocks import BlockPool, Key, first_key, next_key
from selflearn.serving.cache import BLOCK_TOKENS
from selflearn.serving.engine import TokenChunk

if TYPE_CHECKING:
    from selflearn.serving.sampling import RowSampler


@dataclass(frozen=True, slots=True, eq=False)
class Mailbox:
    """Where a request's chunks arrive, in the event loop that waits for them."""

    loop: asyncio.AbstractEventLoop
    letters: asyncio.Queue[TokenChunk | EngineError]


@dataclass(slots=True, eq=False)
class Sequence:
    """One request in the engine. ``owner`` is the generation it belongs to; ``row`` chooses its tokens.

    ``computed`` tokens have their keys and values in ``blocks``; when that is all but the last one, it decodes.
    """

    owner: int
    tokens: list[int]
    prompt_length: int
    max_new_tokens: int
    stop_ids: frozenset[int]
    row: RowSampler | None = None
    mailbox: Mailbox | None = None
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    key: Key = (0, b"")

    @property
    def new_tokens(self) -> int:
        return len(self.tokens) - self.prompt_length

    def finish_reason(self) -> str | None:
        """'stop' or 'length' once its last token ended it."""
        if self.new_tokens and (self.tokens[-1] in self.stop_ids or (self.row is not None and self.row.finished)):
            return "stop"
        return "length" if self.new_tokens >= self.max_new_tokens else None


@dataclass(frozen=True, slots=True)
class Piece:
    """``count`` tokens of a sequence, from ``start`` on, that go through the model in one step."""

    sequence: Sequence
    start: int
    count: int

    @property
    def completes(self) -> bool:
        """Whether the model's output at its last token is the sequence's next one."""
        return self.start + self.count == len(self.sequence.tokens)


class Scheduler:
    """All sequences of one engine. Belongs to the engine's thread."""

    def __init__(self, pool: BlockPool, *, places: int, step_tokens: int) -> None:
        self._pool = pool
        self._places = places
        self._step_tokens = max(step_tokens, places)
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # in the order in which they began
        self.fresh_blocks: list[int] = []  # handed out since the last step: their content is somebody else's

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def drop(self, sequence: Sequence) -> None:
        """Takes a sequence out, whatever its state; harmless when it is out already."""
        if sequence in self._running:
            self._running.remove(sequence)
            self._release(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def of(self, owner: int) -> list[Sequence]:
        return [sequence for sequence in (*self._running, *self._waiting) if sequence.owner == owner]

    def waiting_of(self, owner: int) -> int:
        return sum(sequence.owner == owner for sequence in tuple(self._waiting))

    def all(self) -> list[Sequence]:
        return [*self._running, *self._waiting]

    def step(self) -> list[Piece]:
        """The pieces of the next step; empty only when there is nothing to do."""
        decoding = [sequence for sequence in self._running if sequence.computed == len(sequence.tokens) - 1]
        for sequence in decoding:
            if sequence in self._running:
                self._make_room(sequence, len(sequence.tokens))
        pieces = [Piece(sequence, sequence.computed, 1) for sequence in decoding if sequence in self._running]
        return pieces + self._prompts(self._step_tokens - len(pieces))

    def advance(self, piece: Piece, token: int | None) -> None:
        """Notes that a piece went through the model and, where it completes its sequence, the token that follows."""
        sequence = piece.sequence
        known = sequence.computed // BLOCK_TOKENS
        sequence.computed += piece.count
        for number in range(known, sequence.computed // BLOCK_TOKENS):
            sequence.key = next_key(sequence.key, sequence.tokens[number * BLOCK_TOKENS : (number + 1) * BLOCK_TOKENS])
            self._pool.learn(sequence.blocks[number], sequence.key)
        if token is not None:
            sequence.tokens.append(token)

    def _prompts(self, budget: int) -> list[Piece]:
        pieces: list[Piece] = []
        for sequence in [entry for entry in self._running if entry.computed < len(entry.tokens) - 1]:
            budget = self._read(sequence, budget, pieces)
        while budget > 0 and self._waiting and len(self._running) < self._places:
            sequence = self._waiting[0]
            if not self._begin(sequence):
                break
            self._waiting.popleft()
            self._running.append(sequence)
            budget = self._read(sequence, budget, pieces)
        return pieces

    def _read(self, sequence: Sequence, budget: int, pieces: list[Piece]) -> int:
        count = min(budget, len(sequence.tokens) - sequence.computed)
        if count > 0:
            pieces.append(Piece(sequence, sequence.computed, count))
        return budget - max(0, count)

    def _begin(self, sequence: Sequence) -> bool:
        """Gives a waiting sequence the blocks for its prompt, as far as possible such as are known already."""
        shared = self._pool.match(sequence.owner, sequence.tokens)
        needed = _blocks_for(len(sequence.tokens)) - len(shared)
        if needed > self._pool.free:
            self._pool.release(shared)
            return False
        sequence.computed = len(shared) * BLOCK_TOKENS
        sequence.key = first_key(sequence.owner)
        for number in range(len(shared)):
            sequence.key = next_key(sequence.key, sequence.tokens[number * BLOCK_TOKENS : (number + 1) * BLOCK_TOKENS])
        sequence.blocks = [*shared, *self._take(needed)]
        return True

    def _make_room(self, sequence: Sequence, tokens: int) -> None:
        """Blocks for ``tokens`` tokens, at the cost of those who began later; it may be the one that gives way."""
        needed = _blocks_for(tokens) - len(sequence.blocks)
        while needed > self._pool.free:
            last = self._running[-1]
            self._running.pop()
            self._release(last)
            self._waiting.appendleft(last)
            if last is sequence:
                return
        sequence.blocks.extend(self._take(needed))

    def _take(self, count: int) -> list[int]:
        taken = self._pool.take(count)
        self.fresh_blocks.extend(taken)
        return taken

    def _release(self, sequence: Sequence) -> None:
        self._pool.release(sequence.blocks)
        sequence.blocks, sequence.computed = [], 0


def _blocks_for(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)
