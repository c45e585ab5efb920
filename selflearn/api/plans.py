"""From a request to what is going to be generated: prompt tokens, limits, provenance."""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers

from selflearn.api.keys import Caller
from selflearn.api.schemas import (
    MAX_CONVERSATION,
    ChatRequest,
    CompletionRequest,
    SamplingBody,
    refuse_unsupported,
)
from selflearn.api.services import Services
from selflearn.api.shapes import constraint_of, offered_tools
from selflearn.errors import BadRequest
from selflearn.models.chat import encode_prompt, encode_text
from selflearn.models.tools import with_tools
from selflearn.serving import Sampling

CONVERSATION_HEADER = "x-selflearn-conversation"
CHAT_PREFIX = "chatcmpl-"
COMPLETION_PREFIX = "cmpl-"
COMPLETION_TOKENS = 16  # how long OpenAI's completions are when the client names no length
QUICK_CHARACTERS = 4096  # tokenized within a millisecond
# Recorded with an interaction as they were asked for, if they were.
_RECORDED_IF_ASKED = {"n", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs"}
_RECORDED_OF_CHATS = {"response_format", "tools", "tool_choice", "parallel_tool_calls", "metadata"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """One choice that is going to be generated: an interaction with a row of its own. Lengths are in tokens."""

    interaction_id: str
    messages: tuple[dict[str, Any], ...]
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked request with its choices, at least one.

    ``created`` is unix seconds. ``prompt_tokens`` counts a prompt that several choices share once. ``tools`` are the
    names of what the answer may call; without any, calls in it are not looked for. Without ``parallel_calls`` an answer
    ends with its first call. ``parameters`` are recorded with every choice: with them the same can be asked again.
    """

    request_id: str
    created: float
    conversation: str
    caller: Caller
    user: str | None
    asks: tuple[Ask, ...]
    prompt_tokens: int
    stops: tuple[str, ...] = ()
    stream: bool = False
    with_usage: bool = False
    tools: frozenset[str] = frozenset()
    parallel_calls: bool = True
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def interaction_id(self) -> str:
        """The id of the whole, and of its first choice."""
        return self.asks[0].interaction_id


async def plan_chat(
    services: Services,
    caller: Caller,
    chat: ChatRequest,
    request_id: str,
    headers: Headers,
    *,
    id_prefix: str = CHAT_PREFIX,
    parameters: Mapping[str, Any] | None = None,
) -> Plan:
    """Checks a chat request against this server and encodes its prompt; raises ``BadRequest``.

    ``parameters`` are recorded with the interaction, beside (or instead of) those that the request has.
    """
    _check(services, chat)
    messages = tuple(message.plain() for message in chat.messages)
    tools = offered_tools(chat)
    size = sum(len(message["content"] or "") for message in messages)
    carried = with_tools(messages, list(tools.values()))
    prompt_ids = tuple(await _aside(size, lambda: encode_prompt(services.tokenizer, carried)))
    length = _length(services, chat, len(prompt_ids), "messages", services.serving.default_max_tokens)
    sampling = dataclasses.replace(_sampling(services, chat), constraint=constraint_of(chat))
    asks = [
        Ask(name, messages, prompt_ids, length, _seeded(sampling, number))
        for number, name in enumerate(_ids(id_prefix, chat.n or 1))
    ]
    own = {"endpoint": "chat", **chat.model_dump(include=_RECORDED_OF_CHATS, exclude_none=True, by_alias=True)}
    plan = _plan(services, caller, chat, request_id, headers, asks, {**own, **(parameters or {})})
    return dataclasses.replace(plan, tools=frozenset(tools), parallel_calls=chat.parallel_tool_calls is not False)


async def plan_completion(
    services: Services, caller: Caller, body: CompletionRequest, request_id: str, headers: Headers
) -> Plan:
    """Checks a request for completions and encodes its prompts, without a chat template; raises ``BadRequest``.

    The choices of the first prompt come first.
    """
    _check(services, body)
    prompts, choices = body.prompts, body.n or 1
    _check_choices(services, len(prompts) * choices, "n" if len(prompts) == 1 else "prompt")
    sampling, ids, asks = _sampling(services, body), _ids(COMPLETION_PREFIX, len(prompts) * choices), list[Ask]()
    for prompt in prompts:
        text, prompt_ids = await _encoded(services, prompt)
        messages = ({"role": "user", "content": text},)
        length = _length(services, body, len(prompt_ids), "prompt", COMPLETION_TOKENS)
        for number in range(choices):
            asks.append(Ask(ids[len(asks)], messages, prompt_ids, length, _seeded(sampling, number)))
    return _plan(services, caller, body, request_id, headers, asks, {"endpoint": "completions"})


def _plan(
    services: Services,
    caller: Caller,
    body: SamplingBody,
    request_id: str,
    headers: Headers,
    asks: Sequence[Ask],
    parameters: Mapping[str, Any],
) -> Plan:
    """What is the same for all endpoints: where the request comes from, how it is answered, what is recorded."""
    return Plan(
        request_id=request_id,
        created=services.now(),
        conversation=_conversation(headers.get(CONVERSATION_HEADER), asks[0].messages, f"{caller.name}/{body.user}"),
        caller=caller,
        user=body.user,
        asks=tuple(asks),
        prompt_tokens=sum(len(ids) for ids in {id(ask.prompt_ids): ask.prompt_ids for ask in asks}.values()),
        stops=body.stops,
        stream=bool(body.stream),
        with_usage=body.with_usage,
        parameters={**_recorded(body, asks[0], request_id), **parameters},
    )


def _check(services: Services, body: SamplingBody) -> None:
    """Raises ``BadRequest`` for what this server does not do, or not so much of."""
    refuse_unsupported(body)
    _check_choices(services, body.n or 1, "n")
    vocabulary = len(services.tokenizer)
    for token, _ in body.biases:
        if token >= vocabulary:
            message = f"logit_bias names token {token}; this model has tokens 0 to {vocabulary - 1}."
            raise BadRequest(message, param="logit_bias", code="invalid_value")
    if body.stream_options is not None and not body.stream:
        message = "stream_options is for streams only. Set stream to true, or leave stream_options out."
        raise BadRequest(message, param="stream_options", code="invalid_value")


def _check_choices(services: Services, choices: int, param: str) -> None:
    most = services.api.max_choices
    if choices > most:
        message = f"{choices} choices were asked for; at most {most} are possible (api.max_choices). Ask for fewer."
        raise BadRequest(message, param=param, code="invalid_value")


def _sampling(services: Services, body: SamplingBody) -> Sampling:
    return Sampling(
        temperature=services.serving.default_temperature if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=body.biases,
        logprobs=body.asked_logprobs,
    )


def _seeded(sampling: Sampling, number: int) -> Sampling:
    """The sampling of choice ``number``: with a seed, every choice has one of its own."""
    if sampling.seed is None or number == 0:
        return sampling
    return dataclasses.replace(sampling, seed=sampling.seed + number)


def _ids(prefix: str, choices: int) -> list[str]:
    """The ids of the choices' interactions; the first is that of the whole."""
    first = f"{prefix}{uuid.uuid4().hex}"
    return [first, *(f"{first}-{number}" for number in range(1, choices))]


async def _aside(characters: int, encode: Callable[[], T]) -> T:
    """Runs ``encode`` here if it is quick. For a prompt of megabytes it takes seconds, in which others are served."""
    return encode() if characters <= QUICK_CHARACTERS else await run_in_threadpool(encode)


async def _encoded(services: Services, prompt: str | list[int]) -> tuple[str, tuple[int, ...]]:
    """A raw prompt as text and as token ids."""
    tokenizer = services.tokenizer
    if isinstance(prompt, str):
        ids = await _aside(len(prompt), lambda: encode_text(tokenizer, prompt))
        return prompt, tuple(ids)
    if max(prompt) >= len(tokenizer):
        message = f"The prompt has token {max(prompt)}; this model has tokens 0 to {len(tokenizer) - 1}."
        raise BadRequest(message, param="prompt", code="invalid_value")
    text = await _aside(len(prompt), lambda: tokenizer.decode(prompt, clean_up_tokenization_spaces=False))
    return str(text), tuple(prompt)


def _length(services: Services, body: SamplingBody, prompt_tokens: int, source: str, default: int) -> int:
    """Returns how many tokens may be generated; raises ``BadRequest`` when prompt and answer do not fit.

    ``source`` is the parameter that the prompt came in.
    """
    if prompt_tokens < 1:
        raise BadRequest(f"{source} is empty; the model needs at least one token.", param=source, code="invalid_value")
    limit = min(services.context_length, services.serving.cache_tokens)
    most_prompt = min(services.api.max_prompt_tokens or limit, limit)
    room, (name, asked) = limit - prompt_tokens, body.asked_tokens
    if room < 1 or prompt_tokens > most_prompt:
        message = (
            f"The prompt has {prompt_tokens} tokens; at most {min(most_prompt, limit - 1)} are possible, because the "
            f"context is {limit} tokens and api.max_prompt_tokens is {services.api.max_prompt_tokens}. Shorten it."
        )
        raise BadRequest(message, param=source, code="context_length_exceeded")
    if asked is None:
        return min(default, room)
    if asked > room:
        message = (
            f"{name} is {asked} and the prompt has {prompt_tokens} tokens; together at most {limit} are possible. "
            f"Ask for at most {room}."
        )
        raise BadRequest(message, param=name, code="context_length_exceeded")
    return asked


def _conversation(header: str | None, messages: Sequence[Mapping[str, Any]], who: str) -> str:
    """The client's name for the conversation, or one that all turns of a conversation share: its first question."""
    if header is None:
        first = next((message["content"] for message in messages if message["role"] == "user"), "")
        return hashlib.sha256(f"{who}\0{first}".encode()).hexdigest()[:32]
    if not 0 < len(header) <= MAX_CONVERSATION or not header.isprintable():
        message = (
            f"{CONVERSATION_HEADER} has {len(header)} characters; expected 1 to {MAX_CONVERSATION} printable ones."
        )
        raise BadRequest(message, param=CONVERSATION_HEADER, code="invalid_value")
    return header


def _recorded(body: SamplingBody, ask: Ask, request_id: str) -> dict[str, Any]:
    """What every interaction records of its request: what was used, and what was asked for beyond the usual."""
    asked = body.model_dump(include=_RECORDED_IF_ASKED, exclude_none=True)
    return {
        "request_id": request_id,
        "max_tokens": ask.max_new_tokens,
        "temperature": ask.sampling.temperature,
        "top_p": ask.sampling.top_p,
        "stop": list(body.stops),
        "stream": bool(body.stream),
        **asked,
    }
