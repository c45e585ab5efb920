"""Memory that ran out is told from every other error, with errors that allocators really raise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from selflearn.learning.memory import is_out_of_memory

TOO_MUCH = 2**46  # bytes


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        (lambda: torch.empty(TOO_MUCH, dtype=torch.uint8), True),
        (lambda: bytearray(TOO_MUCH), True),
        (lambda: torch.ones(2) @ torch.ones(3), False),
        (lambda: [][0], False),
    ],
)
def test_who_was_refused_memory(attempt: Callable[[], object], expected: bool) -> None:
    with pytest.raises((RuntimeError, MemoryError, IndexError)) as raised:
        attempt()
    assert is_out_of_memory(raised.value) is expected


def test_what_gpus_say() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
