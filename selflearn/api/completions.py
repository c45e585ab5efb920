"""``POST /v1/completions``: raw prompts without a chat template, as OpenAI's interface had them first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from selflearn.api.answering import DONE, AnswerResponse, event
from selflearn.api.bodies import read_json
from selflearn.api.chat import frame, usage
from selflearn.api.errors import Problem
from selflearn.api.exchange import Exchange, Piece, admit
from selflearn.api.keys import caller_of
from selflearn.api.logprobs import legacy
from selflearn.api.models import find_version
from selflearn.api.plans import plan_completion
from selflearn.api.schemas import CompletionRequest
from selflearn.api.services import Services
from selflearn.api.state import request_id_of, services_of
from selflearn.models.vocabulary import vocabulary_of
from selflearn.serving import TokenLogprobs


async def completions(request: Request) -> Response:
    """Continues prompts as they stand. Each choice is an interaction, whose row is durable before the first byte."""
    services = services_of(request)
    wanted = await read_json(request, CompletionRequest, services.api.max_body_bytes)
    version = find_version(services, wanted.model)
    plan = await plan_completion(services, caller_of(request), wanted, request_id_of(request), request.headers)
    exchange = await admit(services, plan, version)
    return AnswerResponse(exchange, CompletionShape(services, exchange))


class CompletionShape:
    """Words an exchange as a legacy completion, whose chunks look like the whole."""

    def __init__(self, services: Services, exchange: Exchange) -> None:
        self._exchange = exchange
        self._vocabulary = vocabulary_of(services.tokenizer)
        self._frame = {**frame(services, exchange), "object": "text_completion"}
        self._wanted = exchange.plan.asks[0].sampling.logprobs
        self._offsets = [0] * len(exchange.choices)

    def whole(self) -> dict[str, Any]:
        choices = [
            self._choice(index, choice.text, choice.logprobs, choice.finish_reason)
            for index, choice in enumerate(self._exchange.choices)
        ]
        return {**self._frame, "choices": choices, "usage": usage(self._exchange)}

    def opening(self) -> bytes:
        return b""

    def pieces(self, pieces: list[Piece]) -> bytes:
        return b"".join(map(self._piece, pieces))

    def closing(self) -> bytes:
        if not self._exchange.plan.with_usage:
            return DONE
        return event({**self._frame, "choices": [], "usage": usage(self._exchange)}) + DONE

    def failure(self, problem: Problem) -> bytes:
        return event(problem.body())

    def _piece(self, piece: Piece) -> bytes:
        counted = {"usage": None} if self._exchange.plan.with_usage else {}
        choice = self._choice(piece.choice, piece.text, piece.logprobs, piece.finish_reason)
        self._offsets[piece.choice] += len(piece.text)
        return event({**self._frame, "choices": [choice], **counted})

    def _choice(
        self, index: int, text: str, logprobs: Sequence[TokenLogprobs], finish_reason: str | None
    ) -> dict[str, Any]:
        offset, wanted = self._offsets[index], self._wanted
        shape = None if wanted is None else legacy(self._vocabulary, logprobs, wanted, offset)
        return {"index": index, "text": text, "logprobs": shape, "finish_reason": finish_reason}
