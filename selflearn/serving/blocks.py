"""Which block of the cache belongs to whom, and which full blocks can be used again for the same beginning.

A full block is known by everything that stands before its end: the owner (a version being served), and all tokens from
the first one on. When nobody uses it any more it stays known until its room is needed, the least recently used first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from selflearn.serving.cache import BLOCK_TOKENS

#: Owner, and a digest of all tokens up to the end of the block.
Key = tuple[int, bytes]


@dataclass(slots=True)
class _Block:
    users: int = 0
    key: Key | None = None


class BlockPool:
    """Blocks 1 to ``blocks`` - 1, counted by users; block 0 is never given out. Knows no tensors."""

    def __init__(self, blocks: int, *, share_prefixes: bool) -> None:
        self._blocks = [_Block() for _ in range(blocks)]
        self._share = share_prefixes
        self._unknown = list(range(blocks - 1, 0, -1))  # free, and of no further use
        self._known: OrderedDict[int, None] = OrderedDict()  # free, but still known; the least recently used first
        self._by_key: dict[Key, int] = {}

    @property
    def free(self) -> int:
        """Blocks that can be taken right now."""
        return len(self._unknown) + len(self._known)

    def take(self, count: int) -> list[int]:
        """``count`` blocks of unknown content, each with one user; the caller made sure that they are free."""
        taken = []
        for _ in range(count):
            number = self._unknown.pop() if self._unknown else self._forget_oldest()
            self._blocks[number].users = 1
            taken.append(number)
        return taken

    def match(self, owner: int, tokens: Sequence[int]) -> list[int]:
        """The known full blocks that ``tokens`` begins with, now used once more. At least one token stays uncovered."""
        found: list[int] = []
        if not self._share:
            return found
        for key in _keys(owner, tokens[: len(tokens) - 1]):
            number = self._by_key.get(key)
            if number is None:
                break
            self._known.pop(number, None)
            self._blocks[number].users += 1
            found.append(number)
        return found

    def learn(self, number: int, key: Key) -> None:
        """Makes the content of a full block known, unless another block is known for it already."""
        if self._share and key not in self._by_key:
            self._by_key[key] = number
            self._blocks[number].key = key

    def release(self, numbers: Sequence[int]) -> None:
        """One user less for each; the end of a sequence is given up before its beginning."""
        for number in reversed(numbers):
            block = self._blocks[number]
            block.users -= 1
            if block.users == 0:
                if block.key is None:
                    self._unknown.append(number)
                else:
                    self._known[number] = None

    def forget_owner(self, owner: int) -> None:
        """Makes nothing known of an owner whose version is no longer served."""
        for key in [key for key in self._by_key if key[0] == owner]:
            number = self._by_key.pop(key)
            self._blocks[number].key = None
            if number in self._known:
                del self._known[number]
                self._unknown.append(number)

    def _forget_oldest(self) -> int:
        number, _ = self._known.popitem(last=False)
        block = self._blocks[number]
        if block.key is not None:
            del self._by_key[block.key]
            block.key = None
        return number


def next_key(before: Key, tokens: Sequence[int]) -> Key:
    """The key of the full block that holds ``tokens`` and follows on the block of ``before``."""
    owner, digest = before
    return owner, hashlib.sha256(digest + array("q", tokens).tobytes()).digest()


def first_key(owner: int) -> Key:
    """What the first block of a sequence follows on."""
    return owner, b""


def _keys(owner: int, tokens: Sequence[int]) -> Iterator[Key]:
    key = first_key(owner)
    for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        key = next_key(key, tokens[start : start + BLOCK_TOKENS])
        yield key
