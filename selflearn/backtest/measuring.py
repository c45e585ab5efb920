"""Measures what versions know of what was taught, in a process of its own, which takes the model with it when it ends.

This side of it needs no torch.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from selflearn.errors import SelflearnError, WorkerFailed


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt (chat messages) and the answer whose loss is measured."""

    messages: Sequence[Mapping[str, Any]]
    target: str


@dataclass(frozen=True, slots=True)
class Question:
    """Which versions to measure on which columns of texts.

    ``versions`` are adapter directories (None: the base) with the numbers of their columns. Texts longer than
    ``max_length`` tokens are left out.
    """

    model: Path
    device: str
    dtype: str
    threads: int
    max_length: int
    columns: tuple[tuple[Text, ...], ...]
    versions: tuple[tuple[Path | None, tuple[int, ...]], ...]


#: For each version the mean loss on each column, in nats per token; None where it was not asked for, or is no number.
Losses = list[list[float | None]]


def measure(question: Question) -> Losses:
    """Asks a process of its own; it ends with this one. Raises :class:`WorkerFailed`, or what it raised."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sending, question), daemon=True)
    process.start()
    sending.close()
    try:
        answer = receiving.recv()
    except EOFError:
        process.join()
        raise WorkerFailed(
            f"The process that measures the versions ended with code {process.exitcode} and without an answer. Is "
            "there enough memory for the model? --measured 0 leaves this out."
        ) from None
    finally:
        process.kill()
        process.join()
        receiving.close()
    if isinstance(answer, BaseException):
        raise answer
    losses: Losses = answer
    return losses


def _answer(sending: Connection, question: Question) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the other side's to handle
    from selflearn.backtest.losses import losses_of

    try:
        sending.send(losses_of(question))
    except SelflearnError as error:
        sending.send(error)
