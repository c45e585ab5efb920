"""The order of work: first come, first served; nobody starves, and no cache is written by two."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from selflearn.serving.blocks import BlockPool
from selflearn.serving.cache import BLOCK_TOKENS
from selflearn.serving.scheduler import Piece, Scheduler, Sequence

BLOCKS = 9  # eight that can be taken
CAPACITY = (BLOCKS - 1) * BLOCK_TOKENS


def sequence(owner: int, prompt: list[int], new: int) -> Sequence:
    return Sequence(owner, list(prompt), len(prompt), new, frozenset())


def next_token(before: list[int]) -> int:
    return (sum(before) * 7 + len(before)) % 5


def run(scheduler: Scheduler, content: dict[int, tuple[int, int, int]]) -> None:
    """One step; ``content`` is what each place of the cache holds: (owner, position, token)."""
    pieces = scheduler.step()
    assert pieces
    assert sum(piece.count for piece in pieces) <= 24
    for piece in pieces:
        _compute(piece, content)
    for piece in pieces:
        scheduler.advance(piece, next_token(piece.sequence.tokens) if piece.completes else None)
        if piece.sequence.finish_reason() is not None:
            scheduler.drop(piece.sequence)


def _compute(piece: Piece, content: dict[int, tuple[int, int, int]]) -> None:
    """Writes the piece's places, then reads all that its last token may see."""
    own = piece.sequence
    end = piece.start + piece.count
    places = [own.blocks[n // BLOCK_TOKENS] * BLOCK_TOKENS + n % BLOCK_TOKENS for n in range(end)]
    for position in range(piece.start, end):
        content[places[position]] = (own.owner, position, own.tokens[position])
    assert [content[place] for place in places] == [(own.owner, n, own.tokens[n]) for n in range(end)]


requests = st.lists(
    st.tuples(st.integers(1, 2), st.integers(0, 2), st.integers(1, 100), st.integers(1, 28), st.integers(0, 6)),
    min_size=1,
    max_size=12,
)


@given(requests, st.booleans())
def test_everybody_finishes_with_the_answer_of_one_alone(
    wanted: list[tuple[int, int, int, int, int]], share: bool
) -> None:
    pool = BlockPool(BLOCKS, share_prefixes=share)
    scheduler = Scheduler(pool, places=4, step_tokens=24)
    content: dict[int, tuple[int, int, int]] = {}
    everyone = []
    for owner, token, length, new, steps in wanted:
        everyone.append(sequence(owner, [token] * length, new))
        scheduler.add(everyone[-1])
        for _ in range(steps):
            if scheduler.busy:
                run(scheduler, content)
    for _ in range(3000):
        if not scheduler.busy:
            break
        run(scheduler, content)
    assert not scheduler.busy
    assert pool.free == BLOCKS - 1
    for found, (_, token, length, new, _) in zip(everyone, wanted, strict=True):
        alone = [token] * length
        for _ in range(new):
            alone.append(next_token(alone))
        assert found.tokens == alone


def test_a_long_prompt_leaves_room_for_those_who_decode() -> None:
    scheduler = Scheduler(BlockPool(BLOCKS, share_prefixes=True), places=4, step_tokens=24)
    quick, slow = sequence(1, [1] * 4, 10), sequence(1, [2] * 90, 2)
    scheduler.add(quick)
    run(scheduler, {})
    scheduler.add(slow)
    pieces = scheduler.step()
    assert [(piece.sequence, piece.count) for piece in pieces] == [(quick, 1), (slow, 23)]


def test_the_one_that_began_last_gives_way() -> None:
    scheduler = Scheduler(BlockPool(5, share_prefixes=False), places=4, step_tokens=24)
    first, last = sequence(1, [1] * 31, 30), sequence(1, [2] * 31, 30)
    scheduler.add(first)
    scheduler.add(last)
    content: dict[int, tuple[int, int, int]] = {}
    while not scheduler.waiting_of(1) or last not in scheduler.of(1)[1:] or not last.new_tokens:
        run(scheduler, content)
    assert scheduler.waiting_of(1) == 1
    assert not last.blocks
    assert last.new_tokens > 0
    assert first.new_tokens > last.new_tokens


def test_what_was_dropped_gives_its_blocks_back() -> None:
    pool = BlockPool(BLOCKS, share_prefixes=False)
    scheduler = Scheduler(pool, places=1, step_tokens=64)
    running, waiting = sequence(1, [1] * 20, 5), sequence(1, [2] * 20, 5)
    scheduler.add(running)
    scheduler.add(waiting)
    scheduler.step()
    assert pool.free == BLOCKS - 3
    for each in (running, waiting, running):
        scheduler.drop(each)
    assert not scheduler.busy
    assert pool.free == BLOCKS - 1
