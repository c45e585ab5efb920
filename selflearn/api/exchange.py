"""One request and its answers in the making: the durable rows, the text, the end however it comes."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from selflearn.api.plans import Ask, Plan
from selflearn.api.services import Services
from selflearn.api.tools import CallSplitter, ToolCall
from selflearn.errors import EngineError, NotFound, StateError
from selflearn.experience import FeedbackReceipt, begin_interaction, finish_interaction, observe, observes
from selflearn.experience.recording import FinalState
from selflearn.serving import Answer, TextChunk, TokenLogprobs, TokenRequest

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Piece:
    """New parts of one choice. ``finish_reason`` is set in a choice's last piece alone: stop, length or tool_calls.

    ``text`` is what people see: without tool calls, which come in ``calls`` once they are whole. ``logprobs`` has an
    entry per token, also for those of a call, if the request asked for them.
    """

    choice: int
    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: str | None = None
    calls: tuple[ToolCall, ...] = ()


@dataclass(slots=True, eq=False)
class Choice:
    """One choice so far. ``raw`` is what the model wrote, tool calls included: that is recorded as the answer."""

    ask: Ask
    answer: Answer
    splitter: CallSplitter | None
    parallel_calls: bool
    begun: Future[None]  # its row's first state, durable
    ended: Future[None] | None = None  # its row's final state, durable
    raw: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    completion_tokens: int = 0
    finish_reason: str | None = None
    first_token: float | None = None  # by the event loop's clock

    @property
    def text(self) -> str:
        """What people see."""
        return "".join(self.shown)

    def take(self, index: int, chunk: TextChunk) -> Piece:
        """Adds a chunk and returns what is new."""
        text, calls = (chunk.text, ()) if self.splitter is None else self._split(self.splitter, chunk)
        only_call = bool(calls) and not self.parallel_calls  # the answer ends with it
        if only_call:
            calls = calls[:1]
        self.raw.append(chunk.text)
        self.shown.append(text)
        self.calls += calls
        self.logprobs += chunk.logprobs
        self.completion_tokens = chunk.completion_tokens
        stopped = chunk.finish_reason == "stop" or only_call
        self.finish_reason = "tool_calls" if self.calls and stopped else chunk.finish_reason
        return Piece(index, text, chunk.logprobs, self.finish_reason, calls)

    @staticmethod
    def _split(splitter: CallSplitter, chunk: TextChunk) -> tuple[str, tuple[ToolCall, ...]]:
        text, calls = splitter.push(chunk.text)
        if chunk.finish_reason is None:
            return text, calls
        last, more = splitter.finish()
        return text + last, (*calls, *more)


class Exchange:
    """From admission to the rows' final states. Made by :func:`admit`; must be closed.

    The answers are generated from admission on, whether or not somebody reads. A row's state becomes completed, failed
    (an error), or cancelled (the client left, or the daemon stopped); then it has what was generated so far.
    ``recorded`` says whether every choice has a row, as far as is known; it is certain when the answers are over.
    """

    def __init__(self, services: Services, plan: Plan, answers: Iterable[Answer]) -> None:
        self.plan = plan
        self.recorded = True
        self._services = services
        self.choices = [self._begin(ask, answer) for ask, answer in zip(plan.asks, answers, strict=True)]
        self.version = self.choices[0].answer.version
        self._started = asyncio.get_running_loop().time()
        self._ready: list[Piece] = []
        self._news = asyncio.Event()
        self._failure: Exception | None = None
        self._open = True
        self._ticket = services.activity.begin()
        self._readers = [asyncio.create_task(self._read(index, each)) for index, each in enumerate(self.choices)]

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far, over all choices."""
        return sum(choice.completion_tokens for choice in self.choices)

    @property
    def first_token_seconds(self) -> float | None:
        """From admission to the first token of all; None while there is none."""
        times = [choice.first_token for choice in self.choices if choice.first_token is not None]
        return min(times) - self._started if times else None

    async def batches(self) -> AsyncGenerator[list[Piece]]:
        """Yields what is new, as many pieces at once as there are. The rows are durable before the first.

        When this ends, they are durable in their final state. Raises ``TimeoutError`` past
        api.request_timeout_seconds, ``BadRequest`` for what the engine cannot do, ``EngineError`` when it failed.
        """
        async with self._durable():
            while self._ready or self._failure or any(choice.finish_reason is None for choice in self.choices):
                await self._news.wait()
                self._news.clear()
                pieces, self._ready = self._ready, []
                if pieces:
                    yield pieces
                if self._failure is not None:
                    raise self._failure

    async def finish(self) -> None:
        """Waits until every choice is whole; what it says is in ``choices``. Otherwise as :meth:`batches`."""
        async with self._durable():
            await asyncio.wait(self._readers, return_when=asyncio.FIRST_EXCEPTION)
            if self._failure is not None:
                raise self._failure

    async def aclose(self) -> None:
        """Stops what is still being generated and frees its place; harmless when all is over."""
        if not self._open:
            return
        self._open = False
        try:
            for reader in self._readers:
                reader.cancel()
            await asyncio.gather(*self._readers, return_exceptions=True)
            for choice in self.choices:
                await choice.answer.aclose()  # a reader that was cancelled before it began did not
        finally:
            self._end_all("cancelled")  # only those that came to no other end
            self._services.activity.end(self._ticket)
        await self._observe()

    async def _read(self, index: int, choice: Choice) -> None:
        """Takes one answer from the engine as it comes; what is new waits for whoever sends it."""
        loop = asyncio.get_running_loop()
        deadline = self._started + self._services.api.request_timeout_seconds
        try:
            async with asyncio.timeout_at(deadline), choice.answer:
                async for chunk in choice.answer:
                    if choice.first_token is None:
                        choice.first_token = loop.time()
                        self._services.activity.first_token(self._ticket)
                    self._ready.append(choice.take(index, chunk))
                    if choice.finish_reason is not None:
                        self._end(choice, "completed")
                    self._news.set()
                    if choice.finish_reason is not None:
                        break
                else:
                    raise EngineError("The engine ended an answer without a reason. Send the request again.")
        except Exception as error:
            self._failure = self._failure or error
            self._news.set()
            raise

    async def _observe(self) -> None:
        """Reads what the request says about earlier answers, now that nobody waits for its own."""
        services, first = self._services, self.choices[0]
        if not observes(services.experience):
            return

        def read() -> list[FeedbackReceipt]:
            first.begun.result()  # its row is there
            return observe(
                services.store, services.learner, first.ask.interaction_id, services.experience, now=services.now
            )

        try:
            receipts = await run_in_threadpool(read)
        except Exception as error:  # the answer is given; a signal that was not read is no failure of it
            fields = {"interaction": first.ask.interaction_id}
            _log.warning("implicit signals were not read: %s", error, extra={"fields": fields})
            return
        for receipt in receipts:
            services.metrics.observe_feedback(receipt.kind, receipt.status, negative=receipt.negative)

    # The rows. The database writes while the engine generates; its writer keeps their order.

    def _begin(self, ask: Ask, answer: Answer) -> Choice:
        plan, services = self.plan, self._services
        begun = begin_interaction(
            services.store,
            interaction_id=ask.interaction_id,
            learner=services.learner,
            conversation=plan.conversation,
            source=plan.caller.name,
            user=plan.user,
            role=plan.caller.role,
            version=answer.version,
            messages=ask.messages,
            parameters=plan.parameters,
            prompt_tokens=len(ask.prompt_ids),
            settings=services.experience,
            now=lambda: plan.created,
        )
        begun.add_done_callback(self._count_row)
        return Choice(ask, answer, CallSplitter(plan.tools) if plan.tools else None, plan.parallel_calls, begun)

    def _count_row(self, begun: Future[None]) -> None:
        if begun.exception() is None:
            self._services.metrics.interactions.inc()

    def _end_all(self, state: FinalState) -> None:
        for choice in self.choices:
            self._end(choice, state)

    def _end(self, choice: Choice, state: FinalState) -> None:
        """Queues a row's final state, once, and counts the answer."""
        if choice.ended is not None:
            return
        choice.ended = finish_interaction(
            self._services.store,
            choice.ask.interaction_id,
            answer="".join(choice.raw),
            state=state,
            finish_reason=choice.finish_reason,
            completion_tokens=choice.completion_tokens,
            settings=self._services.experience,
            now=self._services.now,
        )
        total = asyncio.get_running_loop().time() - self._started
        self._services.metrics.observe_answer(
            track=self.choices[0].answer.track,
            state=state,
            prompt_tokens=self.plan.prompt_tokens if choice is self.choices[0] else 0,
            completion_tokens=choice.completion_tokens,
            first_token_seconds=None if choice.first_token is None else choice.first_token - self._started,
            total_seconds=total,
        )
        fields = {"interaction": choice.ask.interaction_id, "version": self.version, "state": state}
        _log.debug("answer ended", extra={"fields": {**fields, "tokens": choice.completion_tokens, "seconds": total}})

    @asynccontextmanager
    async def _durable(self) -> AsyncIterator[None]:
        """Around an answer: nothing before its rows are durable, and afterwards they are in their final state.

        If the store cannot write, the answer goes on without them.
        """
        await self._written()
        try:
            yield
        except Exception:
            self._end_all("failed")
            await self._written()
            raise
        await self._written()

    async def _written(self) -> None:
        """Waits until what was queued so far is durable, or known not to be."""
        for choice in self.choices:
            for pending in (choice.begun, choice.ended):
                if pending is None:
                    continue
                try:
                    await asyncio.wrap_future(pending)
                except (StateError, NotFound, sqlite3.Error) as error:
                    self._not_recorded(choice, error)
                    break

    def _not_recorded(self, choice: Choice, error: Exception) -> None:
        fields = {"interaction": choice.ask.interaction_id}
        if self.recorded:
            _log.error("interaction not recorded: %s", error, extra={"fields": fields})
        self.recorded = False


async def admit(services: Services, plan: Plan, version: int | None) -> Exchange:
    """Lets a planned request in and starts it; ``version`` None is what is served now. All choices get the same.

    Raises what ``Traffic.chat`` raises. From here on the request counts as running until the exchange is closed.
    """
    answers: list[Answer] = []
    try:
        for ask in plan.asks:
            request = TokenRequest(
                ask.interaction_id, ask.prompt_ids, ask.max_new_tokens, ask.sampling, services.stop_ids
            )
            answers.append(
                await services.traffic.chat(request, version=version, conversation=plan.conversation, stop=plan.stops)
            )
            version = answers[0].version
        return Exchange(services, plan, answers)
    except BaseException:
        for answer in answers:
            await answer.aclose()
        raise
