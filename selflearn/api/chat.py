"""``POST /v1/chat/completions``, whole and streamed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from selflearn.api.answering import DONE, AnswerResponse, event, fingerprint, to_json
from selflearn.api.bodies import read_json
from selflearn.api.errors import Problem
from selflearn.api.exchange import Choice, Exchange, Piece, admit
from selflearn.api.keys import caller_of
from selflearn.api.logprobs import entries
from selflearn.api.models import find_version
from selflearn.api.plans import plan_chat
from selflearn.api.schemas import ChatRequest
from selflearn.api.services import Services
from selflearn.api.state import request_id_of, services_of
from selflearn.api.tools import ToolCall
from selflearn.models.vocabulary import vocabulary_of
from selflearn.serving import TokenLogprobs


async def chat_completions(request: Request) -> Response:
    """Answers a chat. The interaction's row is durable before the first byte leaves."""
    services = services_of(request)
    wanted = await read_json(request, ChatRequest, services.api.max_body_bytes)
    version = find_version(services, wanted.model)
    plan = await plan_chat(services, caller_of(request), wanted, request_id_of(request), request.headers)
    exchange = await admit(services, plan, version)
    return AnswerResponse(exchange, ChatShape(services, exchange))


class ChatShape:
    """Words an exchange as a chat completion, or as its chunks."""

    def __init__(self, services: Services, exchange: Exchange) -> None:
        self._exchange = exchange
        self._vocabulary = vocabulary_of(services.tokenizer)
        self._frame = frame(services, exchange)
        self._with_logprobs = exchange.plan.asks[0].sampling.logprobs is not None
        # A chunk of text is the most common event by far: only its index and its text are written anew.
        head = to_json({**self._frame, "object": "chat.completion.chunk"}).removesuffix("}")
        tail = ',"usage":null' if exchange.plan.with_usage else ""
        self._head = f'data: {head},"choices":[{{"index":'
        self._tail = f',"logprobs":null,"finish_reason":null}}]{tail}}}\n\n'
        self._called = [0] * len(exchange.choices)

    def whole(self) -> dict[str, Any]:
        choices = [self._choice(index, choice) for index, choice in enumerate(self._exchange.choices)]
        return {**self._frame, "object": "chat.completion", "choices": choices, "usage": usage(self._exchange)}

    def opening(self) -> bytes:
        return b"".join(self._chunk(index, {"role": "assistant", "content": ""}) for index in range(len(self._called)))

    def pieces(self, pieces: list[Piece]) -> bytes:
        return b"".join(map(self._piece, pieces))

    def closing(self) -> bytes:
        if not self._exchange.plan.with_usage:
            return DONE
        last = {**self._frame, "object": "chat.completion.chunk", "choices": [], "usage": usage(self._exchange)}
        return event(last) + DONE

    def failure(self, problem: Problem) -> bytes:
        return event(problem.body())

    def _piece(self, piece: Piece) -> bytes:
        events = b""
        if piece.logprobs or (self._with_logprobs and piece.text):
            events += self._chunk(piece.choice, {"content": piece.text}, logprobs=piece.logprobs)
        elif piece.text:
            text = f'{self._head}{piece.choice},"delta":{{"content":{to_json(piece.text)}}}{self._tail}'
            events += text.encode()
        for call in piece.calls:
            events += self._call(piece.choice, call)
        if piece.finish_reason is not None:
            events += self._chunk(piece.choice, {}, finish_reason=piece.finish_reason)
        return events

    def _call(self, index: int, call: ToolCall) -> bytes:
        """A call in two chunks: who is called, and with what."""
        number, self._called[index] = self._called[index], self._called[index] + 1
        named = {"index": number, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        given = {"index": number, "function": {"arguments": call.arguments}}
        return self._chunk(index, {"tool_calls": [named]}) + self._chunk(index, {"tool_calls": [given]})

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        logprobs: Sequence[TokenLogprobs] | None = None,
        finish_reason: str | None = None,
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": None if logprobs is None else self._logprobs(logprobs),
            "finish_reason": finish_reason,
        }
        counted = {"usage": None} if self._exchange.plan.with_usage else {}
        return event({**self._frame, "object": "chat.completion.chunk", "choices": [choice], **counted})

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.calls:
            message["content"] = choice.text or None
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in choice.calls
            ]
        logprobs = self._logprobs(choice.logprobs) if self._with_logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish_reason}

    def _logprobs(self, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
        return {"content": entries(self._vocabulary, logprobs), "refusal": None}


def frame(services: Services, exchange: Exchange) -> dict[str, Any]:
    """The fields that a completion and each of its chunks share; ``model`` names the exact version."""
    return {
        "id": exchange.plan.interaction_id,
        "created": int(exchange.plan.created),
        "model": f"selflearn@{exchange.version}",
        "system_fingerprint": fingerprint(services, exchange.version),
    }


def usage(exchange: Exchange) -> dict[str, int]:
    """The tokens of an exchange so far, over all choices."""
    prompt, completion = exchange.plan.prompt_tokens, exchange.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
