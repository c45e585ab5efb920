"""What an engine is: it opens generations, and a generation streams tokens from exactly one version."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer must look like. ``value`` is a JSON schema, a regular expression or a Lark grammar, by ``kind``.

    A Lark grammar is one of llguidance's, in which ``%json {...}`` stands for a JSON schema.
    """

    kind: Literal["json_schema", "regex", "lark"]
    value: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How each token is chosen. Temperature 0 is the exact argmax.

    ``logprobs`` asks for the log-probability of each token and of so many alternatives; None for none at all. They are
    those of the model itself, before temperature, penalties and constraint. The penalties are OpenAI's: subtracted
    from the logits of tokens of the answer so far, once (presence) and per occurrence (frequency).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What to generate. ``stop_ids`` end the answer and are its last token."""

    request_id: str
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling = Sampling()
    stop_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural log-probability of one generated token, and of the most probable ones in its place, best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """New tokens (a stop token included). ``finish_reason`` is 'stop' or 'length' in the last chunk, else None.

    ``logprobs`` has one entry per token if the request asked for them, else none.
    """

    token_ids: tuple[int, ...]
    finish_reason: str | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()


class Generation(Protocol):
    """One version being served. Its methods belong to the event loop, except where an engine says otherwise."""

    @property
    def version(self) -> int:
        """The version that every one of its tokens comes from; 0 is the base."""
        ...

    @property
    def running(self) -> int:
        """Requests that are in it now, waiting ones included."""
        ...

    @property
    def waiting(self) -> int:
        """Those of the running that have no place yet."""
        ...

    @property
    def places(self) -> int:
        """How many requests it can decode at once."""
        ...

    @property
    def alive(self) -> bool:
        """False once its loop died or it was closed: every request fails from then on."""
        ...

    def check(self, request: TokenRequest) -> None:
        """Raises ``BadRequest`` for a request that can never be served, ``EngineError`` when not alive."""
        ...

    def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk, None]:
        """The answer, chunk by chunk. Closing it, or cancelling the task in it, frees the request's place.

        Raises ``BadRequest`` as ``check`` does and ``EngineError`` when generation failed.
        """
        ...

    async def close(self, drain_seconds: float) -> None:
        """Lets requests finish for at most ``drain_seconds``, fails the rest, and gives the memory back."""
        ...


class Engine(Protocol):
    """Opens versions for serving."""

    def open_generation(self, version: int, adapter_directory: Path | None) -> Generation:
        """Loads, warms and proves a version; None is the base alone. Blocking: run it in a thread.

        Raises ``ProofFailed`` when the loaded weights are not the saved ones, ``VersionDamaged`` when they cannot be
        loaded, ``EngineError`` when the engine itself does not start.
        """
        ...

    def pulse(self) -> Future[None]:
        """A sign of life: done once the engine has come by. Cancelled if it is not there to do so. From any thread."""
        ...
