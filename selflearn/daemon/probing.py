"""Asks the served version the same prompts again and again, as any client would, to see whether it is still the same.

Nothing of it is recorded, counted as activity, or asked while somebody waits.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, Final

from selflearn.errors import SelflearnError
from selflearn.judging.anchor_probe import Departure, Said, departure
from selflearn.models.chat import encode_prompt
from selflearn.serving import Sampling, TokenRequest, Traffic
from selflearn.serving.engine import Generation

#: What is asked: short prompts of different kinds.
PROMPTS: Final = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "What is 7 times 8?",
    "Translate to German: good morning.",
)
TOKENS: Final = 16
#: So many versions' first answers are kept.
REMEMBERED: Final = 8
_SAMPLING: Final = Sampling(temperature=0.0, logprobs=2)

logger = logging.getLogger(__name__)


class AnchorProbe:
    """Remembers what each version answered first. Belongs to the event loop; one :meth:`look` at a time."""

    def __init__(self, traffic: Traffic, tokenizer: Any, *, tolerance: float, prompts: Sequence[str] = PROMPTS) -> None:
        """``tolerance`` in nats, see :data:`~selflearn.judging.anchor_probe.TOLERANCES`."""
        self._traffic, self._tolerance = traffic, tolerance
        self._prompts = [tuple(encode_prompt(tokenizer, [{"role": "user", "content": text}])) for text in prompts]
        self._first: dict[int, list[Said]] = {}
        self._numbers = itertools.count()

    def knows(self, version: int) -> bool:
        """Whether there is a first answer to compare with."""
        return version in self._first

    async def look(self) -> Departure | None:
        """Asks the served version; its first answers are kept, later ones compared. None also if it cannot be asked.

        A departure counts only if the version says the same again.
        """
        generation = self._traffic.current
        if generation is None or self._traffic.waiting:
            return None
        found = await self._compare(generation)
        return None if found is None else await self._compare(generation)

    async def _compare(self, generation: Generation) -> Departure | None:
        try:
            said = [await self._ask(generation, prompt) for prompt in self._prompts]
        except SelflearnError as error:  # an engine that is away or full is no damage
            logger.info("the anchor probe could not ask: %s", error)
            return None
        first = self._first.setdefault(generation.version, said)
        while len(self._first) > REMEMBERED:
            del self._first[next(version for version in self._first if version != generation.version)]
        return departure(first, said, self._tolerance)

    async def _ask(self, generation: Generation, prompt: tuple[int, ...]) -> Said:
        request = TokenRequest(f"anchor-probe-{next(self._numbers)}", prompt, TOKENS, _SAMPLING)
        generation.check(request)
        tokens: list[int] = []
        leads: list[float] = []
        async with aclosing(generation.stream(request)) as stream:
            async for chunk in stream:
                for entry in chunk.logprobs:
                    tokens.append(entry.token_id)
                    leads.append(_lead([logprob for _, logprob in entry.top]))
        return Said(tuple(tokens), tuple(leads))


def _lead(logprobs: Sequence[float]) -> float:
    return logprobs[0] - logprobs[1] if len(logprobs) > 1 else math.inf
