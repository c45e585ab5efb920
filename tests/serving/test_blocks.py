"""The pool of cache blocks: nothing is given out twice, and equal beginnings are found again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from selflearn.serving.blocks import BlockPool, Key, first_key, next_key
from selflearn.serving.cache import BLOCK_TOKENS


def learn_all(pool: BlockPool, owner: int, tokens: list[int], blocks: list[int]) -> None:
    key: Key = first_key(owner)
    for number in range(len(tokens) // BLOCK_TOKENS):
        key = next_key(key, tokens[number * BLOCK_TOKENS : (number + 1) * BLOCK_TOKENS])
        pool.learn(blocks[number], key)


def test_a_beginning_that_was_computed_is_found_again() -> None:
    pool = BlockPool(8, share_prefixes=True)
    tokens = list(range(3 * BLOCK_TOKENS))
    blocks = pool.take(3)
    learn_all(pool, 1, tokens, blocks)
    pool.release(blocks)
    assert pool.match(1, [*tokens, 7]) == blocks
    assert pool.free == 4


def test_the_last_token_is_always_computed_anew() -> None:
    pool = BlockPool(8, share_prefixes=True)
    tokens = list(range(2 * BLOCK_TOKENS))
    blocks = pool.take(2)
    learn_all(pool, 1, tokens, blocks)
    assert pool.match(1, tokens) == blocks[:1]


def test_another_version_or_another_beginning_shares_nothing() -> None:
    pool = BlockPool(8, share_prefixes=True)
    tokens = list(range(2 * BLOCK_TOKENS))
    blocks = pool.take(2)
    learn_all(pool, 1, tokens, blocks)
    assert pool.match(2, [*tokens, 7]) == []
    assert pool.match(1, [99, *tokens[1:], 7]) == []


def test_a_version_that_went_leaves_nothing_known() -> None:
    pool = BlockPool(4, share_prefixes=True)
    tokens = list(range(3 * BLOCK_TOKENS))
    blocks = pool.take(3)
    learn_all(pool, 1, tokens, blocks)
    pool.release(blocks)
    pool.forget_owner(1)
    assert pool.match(1, [*tokens, 7]) == []
    assert sorted(pool.take(3)) == [1, 2, 3]


def test_without_sharing_nothing_is_found() -> None:
    pool = BlockPool(4, share_prefixes=False)
    tokens = list(range(BLOCK_TOKENS))
    blocks = pool.take(1)
    learn_all(pool, 1, tokens, blocks)
    assert pool.match(1, [*tokens, 7]) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40), st.booleans()), max_size=60))
def test_no_block_has_two_contents(steps: list[tuple[int, int, bool]]) -> None:
    """Sequences of few different tokens come and go; a block in use is never given to somebody else."""
    pool = BlockPool(12, share_prefixes=True)
    live: list[tuple[list[int], list[int]]] = []
    for token, length, leave in steps:
        tokens = [token] * length
        shared = pool.match(1, tokens)
        needed = -(-length // BLOCK_TOKENS) - len(shared)
        if needed > pool.free:
            pool.release(shared)
        else:
            own = pool.take(needed)
            in_use = {number for _, blocks in live for number in blocks}
            assert not in_use & set(own)
            assert 0 not in own
            learn_all(pool, 1, tokens, [*shared, *own])
            live.append((tokens, [*shared, *own]))
        if leave and live:
            pool.release(live.pop(0)[1])
    for _, blocks in live:
        pool.release(blocks)
    assert pool.free == 11
