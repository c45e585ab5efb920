"""A response in the making, worded as the Responses API's events or as one object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selflearn.api.answering import to_json
from selflearn.api.errors import Problem
from selflearn.api.exchange import Exchange, Piece
from selflearn.api.logprobs import entries
from selflearn.api.responses_objects import (
    Facts,
    message_item,
    output_of,
    response_object,
    text_part,
    usage_of,
)
from selflearn.api.services import Services
from selflearn.models.vocabulary import vocabulary_of
from selflearn.serving import TokenLogprobs


class ResponseShape:
    """Words an exchange of one choice. Its text comes as it is generated; its calls come after it, one by one."""

    def __init__(self, services: Services, exchange: Exchange, facts: Facts) -> None:
        self._exchange = exchange
        self._choice = exchange.choices[0]
        self._facts = facts
        self._vocabulary = vocabulary_of(services.tokenizer)
        self._now = services.now
        self._number = 0  # of the next event
        self._speaking = False  # the message's item is open
        self._logprobs: list[dict[str, Any]] = []  # of the text so far
        self._pending: list[TokenLogprobs] = []  # of tokens whose text is held back, because it may be a call
        self._shown, self._covered = 0, 0  # bytes of text, and of the tokens told with it
        # A piece of text is the most common event by far: only its number and its text are written anew.
        item = to_json(message_item(facts.id, "in_progress", ())["id"])
        self._delta = f'"type":"response.output_text.delta","item_id":{item},"output_index":0,"content_index":0'

    def whole(self) -> dict[str, Any]:
        self._release(self._choice.text, self._choice.logprobs)
        self._logprobs += self._rest()
        return self._ended()

    def opening(self) -> bytes:
        response = response_object(self._facts, "in_progress")
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def pieces(self, pieces: list[Piece]) -> bytes:
        return b"".join(map(self._piece, pieces))

    def closing(self) -> bytes:
        rest = self._rest()
        self._logprobs += rest
        response, events = self._ended(), b""
        for index, item in enumerate(response["output"]):
            if item["type"] == "function_call":
                events += self._called(index, item)
                continue
            events += b"" if self._speaking else self._speak()
            events += self._delta_event("", rest) if rest else b""
            events += self._spoken(item)
        return events + self._event(f"response.{response['status']}", response=response)

    def failure(self, problem: Problem) -> bytes:
        code = "rate_limit_exceeded" if problem.status == 429 else "server_error"
        error = {"code": code, "message": problem.message}
        output = self._output(whole=False) if self._speaking else []
        failed = response_object(self._facts, "failed", output=output, error=error, completed=self._now())
        return self._event("response.failed", response=failed)

    # The parts of the stream

    def _piece(self, piece: Piece) -> bytes:
        told = self._release(piece.text, piece.logprobs)
        if not piece.text:
            return b""
        opened = b"" if self._speaking else self._speak()
        return opened + self._delta_event(piece.text, told)

    def _speak(self) -> bytes:
        self._speaking = True
        item = message_item(self._facts.id, "in_progress", ())
        return self._event("response.output_item.added", output_index=0, item=item) + self._event(
            "response.content_part.added", item_id=item["id"], output_index=0, content_index=0, part=text_part("", ())
        )

    def _delta_event(self, text: str, logprobs: Sequence[Mapping[str, Any]]) -> bytes:
        told = to_json(logprobs) if logprobs else "[]"
        data = f'{{{self._delta},"logprobs":{told},"sequence_number":{self._number},"delta":{to_json(text)}}}'
        self._number += 1
        return f"event: response.output_text.delta\ndata: {data}\n\n".encode()

    def _spoken(self, item: Mapping[str, Any]) -> bytes:
        """The events that end the message."""
        part, place = item["content"][0], {"item_id": item["id"], "output_index": 0, "content_index": 0}
        return b"".join(
            (
                self._event("response.output_text.done", **place, text=part["text"], logprobs=part["logprobs"]),
                self._event("response.content_part.done", **place, part=part),
                self._event("response.output_item.done", output_index=0, item=item),
            )
        )

    def _called(self, index: int, item: Mapping[str, Any]) -> bytes:
        """A call is whole before it is told, so its events come together."""
        blank = {**item, "status": "in_progress", "arguments": ""}
        place, arguments = {"item_id": item["id"], "output_index": index}, item["arguments"]
        return b"".join(
            (
                self._event("response.output_item.added", output_index=index, item=blank),
                self._event("response.function_call_arguments.delta", **place, delta=arguments),
                self._event("response.function_call_arguments.done", **place, name=item["name"], arguments=arguments),
                self._event("response.output_item.done", output_index=index, item=item),
            )
        )

    def _event(self, kind: str, **data: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return f"event: {kind}\ndata: {to_json({'type': kind, 'sequence_number': number, **data})}\n\n".encode()

    # The answer so far

    def _release(self, text: str, logprobs: Sequence[TokenLogprobs]) -> list[dict[str, Any]]:
        """The entries of the tokens whose text this is; the others wait until it is clear whether they are a call's."""
        if not logprobs and not self._pending:
            return []
        self._shown += len(text.encode())
        self._pending += logprobs
        count = 0
        while count < len(self._pending) and self._covered < self._shown:
            self._covered += len(self._vocabulary.token(self._pending[count].token_id)[1])
            count += 1
        told, self._pending = entries(self._vocabulary, self._pending[:count]), self._pending[count:]
        self._logprobs += told
        return told

    def _rest(self) -> list[dict[str, Any]]:
        """The entries that still wait at the end: the message's, unless there are calls, which have none."""
        return [] if self._choice.calls else entries(self._vocabulary, self._pending)

    def _ended(self) -> dict[str, Any]:
        whole = self._choice.finish_reason != "length"
        return response_object(
            self._facts,
            "completed" if whole else "incomplete",
            output=self._output(whole=whole),
            usage=usage_of(self._exchange.plan.prompt_tokens, self._exchange.completion_tokens),
            completed=self._now(),
        )

    def _output(self, *, whole: bool) -> list[dict[str, Any]]:
        return output_of(self._facts.id, self._choice.text, self._choice.calls, self._logprobs, whole=whole)
