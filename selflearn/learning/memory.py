"""Memory that ran out: how to recognise it, whoever was refused."""

from __future__ import annotations

from typing import Final

import torch

#: How allocators say it that have no exception of their own: torch's on the CPU, CUDA's libraries, C++.
_WORDS: Final = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "_STATUS_ALLOC_FAILED",
    "bad_alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that an allocation was refused, on a GPU or a CPU.

    Its traceback holds the tensors of the frames that it went through: only when the exception is gone is their memory
    free for a smaller attempt.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
