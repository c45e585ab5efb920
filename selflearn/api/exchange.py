"""One question and its answer in the making: the durable row, the text, the end however it comes."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator
from concurrent.futures import Future

from selflearn.api.plans import Plan
from selflearn.api.services import Services
from selflearn.errors import StateError
from selflearn.experience import begin_interaction, finish_interaction
from selflearn.experience.recording import FinalState
from selflearn.serving import Answer, TokenRequest

_log = logging.getLogger(__name__)


class Exchange:
    """From admission to the row's final state. Made by :func:`admit`; must be closed.

    ``recorded`` says whether the interaction has a row. The row's state becomes completed, failed (an error), or
    cancelled (the client left, or the daemon stopped); then it has what was generated so far.
    """

    def __init__(self, services: Services, plan: Plan, answer: Answer) -> None:
        self.plan = plan
        self.version = answer.version
        self.recorded = False
        self.completion_tokens = 0
        self.finish_reason: str | None = None
        self._services = services
        self._answer = answer
        self._parts: list[str] = []
        self._finished = False
        self._started = asyncio.get_running_loop().time()
        self._first_token: float | None = None

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._parts)

    async def begin(self) -> None:
        """Makes the interaction's row durable. If the store cannot write, the answer goes on without one."""
        plan, services = self.plan, self._services
        try:
            pending = begin_interaction(
                services.store,
                interaction_id=plan.interaction_id,
                learner=services.learner,
                conversation=plan.conversation,
                source=plan.source,
                version=self.version,
                messages=list(plan.messages),
                parameters=plan.parameters,
                prompt_tokens=len(plan.prompt_ids),
                now=lambda: plan.created,
            )
            await asyncio.wrap_future(pending)
        except (StateError, sqlite3.Error) as error:
            _log.error("interaction not recorded: %s", error, extra={"fields": {"interaction": plan.interaction_id}})
            return
        self.recorded = True
        services.metrics.interactions.inc()

    async def aclose(self) -> None:
        """Frees the engine's place; harmless when the answer is over."""
        await self._answer.aclose()
        self._finish("cancelled")  # only if nothing read the answer to any end

    async def pieces(self) -> AsyncGenerator[str]:
        """Yields the answer's text piece by piece; the row is durable in its final state when this ends.

        Raises ``TimeoutError`` past api.request_timeout_seconds.
        """
        deadline = self._started + self._services.api.request_timeout_seconds
        loop = asyncio.get_running_loop()
        try:
            while self.finish_reason is None:
                async with asyncio.timeout_at(deadline):
                    chunk = await anext(self._answer)
                self._first_token = self._first_token or loop.time()
                self.completion_tokens, self.finish_reason = chunk.completion_tokens, chunk.finish_reason
                if chunk.text:
                    self._parts.append(chunk.text)
                    yield chunk.text
        except asyncio.CancelledError:
            self._finish("cancelled")
            raise
        except Exception:
            await self._durable(self._finish("failed"))
            raise
        await self._durable(self._finish("completed"))

    def _finish(self, state: FinalState) -> Future[None] | None:
        """Queues the row's final state, once, and counts the answer."""
        if self._finished:
            return None
        self._finished = True
        total = asyncio.get_running_loop().time() - self._started
        self._services.metrics.observe_answer(
            prompt_tokens=len(self.plan.prompt_ids),
            completion_tokens=self.completion_tokens,
            first_token_seconds=None if self._first_token is None else self._first_token - self._started,
            total_seconds=total,
        )
        fields = {"interaction": self.plan.interaction_id, "version": self.version, "state": state}
        _log.debug("answer ended", extra={"fields": {**fields, "tokens": self.completion_tokens, "seconds": total}})
        if not self.recorded:
            return None
        return finish_interaction(
            self._services.store,
            self.plan.interaction_id,
            answer=self.text,
            state=state,
            finish_reason=self.finish_reason,
            completion_tokens=self.completion_tokens,
            now=self._services.now,
        )

    async def _durable(self, pending: Future[None] | None) -> None:
        if pending is None:
            return
        try:
            await asyncio.wrap_future(pending)
        except (StateError, sqlite3.Error) as error:
            self.recorded = False
            _log.error("answer not recorded: %s", error, extra={"fields": {"interaction": self.plan.interaction_id}})


async def admit(services: Services, plan: Plan, version: int | None) -> Exchange:
    """Lets a planned request in and makes its row durable; ``version`` None is what is served now.

    Raises what ``Traffic.chat`` raises. From here on the request counts as running until the exchange is closed.
    """
    request = TokenRequest(
        request_id=plan.interaction_id,
        prompt_ids=plan.prompt_ids,
        max_new_tokens=plan.max_new_tokens,
        temperature=plan.temperature,
        top_p=plan.top_p,
        stop_ids=services.stop_ids,
    )
    exchange = Exchange(services, plan, await services.traffic.chat(request, version=version, stop=plan.stops))
    try:
        await exchange.begin()
    except BaseException:
        await exchange.aclose()
        raise
    return exchange
