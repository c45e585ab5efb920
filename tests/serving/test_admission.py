from __future__ import annotations

import asyncio

import pytest

from selflearn.errors import EngineError
from selflearn.serving.admission import Admission


async def _waiter(admission: Admission, cost: int) -> asyncio.Task[None]:
    task = asyncio.create_task(admission.acquire(cost))
    await asyncio.sleep(0)
    return task


async def test_places_and_blocks_are_bounds() -> None:
    admission = Admission(blocks=10, places=2)
    await admission.acquire(4)
    await admission.acquire(4)
    third = await _waiter(admission, 1)
    assert admission.waiting == 1
    admission.release(4)
    await third
    big = await _waiter(admission, 6)
    assert not big.done()
    admission.release(4)
    await asyncio.sleep(0)
    assert big.done()


async def test_first_come_first_served_even_if_a_later_one_would_fit() -> None:
    admission = Admission(blocks=10, places=8)
    await admission.acquire(6)
    big, small = await _waiter(admission, 10), await _waiter(admission, 1)
    assert not small.done()
    admission.release(6)
    await big
    assert not small.done()
    admission.release(10)
    await small


async def test_a_cancelled_waiter_lets_the_next_one_in() -> None:
    admission = Admission(blocks=10, places=8)
    await admission.acquire(6)
    big, small = await _waiter(admission, 10), await _waiter(admission, 1)
    big.cancel()
    await small
    assert admission.waiting == 0
    assert big.cancelled()


async def test_cancelled_in_the_moment_of_admission_gives_the_place_back() -> None:
    admission = Admission(blocks=1, places=1)
    await admission.acquire(1)
    lucky = await _waiter(admission, 1)
    admission.release(1)
    lucky.cancel()
    await asyncio.gather(lucky, return_exceptions=True)
    await asyncio.wait_for(admission.acquire(1), 1.0)


async def test_closing_fails_those_who_wait() -> None:
    admission = Admission(blocks=1, places=1)
    await admission.acquire(1)
    waiting = await _waiter(admission, 1)
    admission.close()
    with pytest.raises(EngineError, match="before the request began"):
        await waiting
    with pytest.raises(EngineError, match="no longer served"):
        await admission.acquire(1)
