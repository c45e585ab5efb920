"""From a chat request to what is going to be generated: prompt tokens, limits, provenance."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers

from selflearn.api.schemas import ChatRequest, refuse_unsupported
from selflearn.api.services import Services
from selflearn.errors import BadRequest
from selflearn.models.chat import encode_prompt

LOCAL = "local"
CONVERSATION_HEADER = "x-selflearn-conversation"
MAX_CONVERSATION = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked chat request. ``created`` is unix seconds; lengths are in tokens."""

    interaction_id: str
    created: float
    conversation: str
    source: str
    messages: tuple[dict[str, str], ...]
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    temperature: float
    top_p: float
    stops: tuple[str, ...]
    stream: bool
    with_usage: bool

    @property
    def parameters(self) -> dict[str, Any]:
        """What is recorded with the interaction, enough to ask the same again."""
        return {
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stop": list(self.stops),
            "stream": self.stream,
        }


async def plan_chat(services: Services, chat: ChatRequest, headers: Headers) -> Plan:
    """Checks a chat request against this server and encodes its prompt; raises ``BadRequest``."""
    refuse_unsupported(chat)
    messages = tuple(message.plain() for message in chat.messages)
    source = chat.user or LOCAL
    conversation = _conversation(headers.get(CONVERSATION_HEADER), messages, source)
    # Tokenizing a prompt of megabytes takes seconds, in which others must be served.
    prompt_ids = tuple(await run_in_threadpool(encode_prompt, services.tokenizer, messages))
    serving = services.serving
    return Plan(
        interaction_id=f"chatcmpl-{uuid.uuid4().hex}",
        created=services.now(),
        conversation=conversation,
        source=source,
        messages=messages,
        prompt_ids=prompt_ids,
        max_new_tokens=_room(services, chat, len(prompt_ids)),
        temperature=serving.default_temperature if chat.temperature is None else chat.temperature,
        top_p=1.0 if chat.top_p is None else chat.top_p,
        stops=chat.stops,
        stream=bool(chat.stream),
        with_usage=chat.with_usage,
    )


def _conversation(header: str | None, messages: tuple[dict[str, str], ...], source: str) -> str:
    """The client's name for the conversation, or one that all turns of a conversation share: its first question."""
    if header is None:
        first = next((message["content"] for message in messages if message["role"] == "user"), "")
        return hashlib.sha256(f"{source}\0{first}".encode()).hexdigest()[:32]
    if not 0 < len(header) <= MAX_CONVERSATION or not header.isprintable():
        message = (
            f"{CONVERSATION_HEADER} has {len(header)} characters; expected 1 to {MAX_CONVERSATION} printable ones."
        )
        raise BadRequest(message, param=CONVERSATION_HEADER, code="invalid_value")
    return header


def _room(services: Services, chat: ChatRequest, prompt_tokens: int) -> int:
    """Returns how many tokens may be generated; raises ``BadRequest`` when prompt and answer do not fit."""
    limit = min(services.context_length, services.serving.cache_tokens)
    room, asked = limit - prompt_tokens, chat.asked_tokens
    if room < 1:
        message = (
            f"The messages have {prompt_tokens} tokens; this model's context is {limit} tokens, of which the answer "
            "needs at least 1. Shorten the messages."
        )
        raise BadRequest(message, param="messages", code="context_length_exceeded")
    if asked is None:
        return min(services.serving.default_max_tokens, room)
    if asked > room:
        name = "max_completion_tokens" if chat.max_completion_tokens is not None else "max_tokens"
        message = (
            f"{name} is {asked} and the messages have {prompt_tokens} tokens; together at most {limit} are possible. "
            f"Ask for at most {room}."
        )
        raise BadRequest(message, param=name, code="context_length_exceeded")
    return asked
