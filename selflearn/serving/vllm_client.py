"""What is said to a vLLM server and what it answers, in the words of vLLM 0.32."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from selflearn.errors import BadRequest, EngineError, EngineUnavailable, VersionDamaged
from selflearn.serving.engine import Constraint, TokenChunk, TokenLogprobs, TokenRequest

COMPLETIONS = "/v1/completions"
MODELS = "/v1/models"
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
TOP_LOGPROBS = 20  # what a server gives unless it was told otherwise
ANSWER_SECONDS = 300.0  # the first tokens of a server can take half a minute
HEALTH_SECONDS = 5.0

_TOKEN = "token_id:"  # noqa: S105  # how vLLM writes a token that is not to be decoded
_CONSTRAINTS = {"json_schema": "json", "regex": "regex", "lark": "grammar"}
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64)
_TIMEOUT = httpx.Timeout(None, connect=HEALTH_SECONDS)  # an answer may wait for its place as long as its client does


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: at ``url``, or on a unix socket. ``key`` is the API key that it asks for, if any."""

    url: str = "http://vllm"
    socket: Path | None = None
    key: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return str(self.socket) if self.socket else self.url

    def client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self.socket)) if self.socket else None
        return httpx.Client(
            base_url=self.url, headers=self._headers, timeout=ANSWER_SECONDS, transport=transport, trust_env=False
        )

    def streaming_client(self) -> httpx.AsyncClient:
        """One for many answers at once, each of which may take any time. It belongs to the loop that uses it first."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket), limits=_LIMITS) if self.socket else None
        return httpx.AsyncClient(
            base_url=self.url,
            headers=self._headers,
            timeout=_TIMEOUT,
            transport=transport,
            limits=_LIMITS,
            trust_env=False,
        )

    @property
    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"} if self.key else {}


class Client:
    """What the engine asks outside of answers. Blocking, and safe in any thread.

    Every method raises ``EngineUnavailable`` when the server does not answer.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._http = address.client()

    def healthy(self) -> bool:
        """Whether the server and the engine behind it say that they work."""
        if self.address.socket is not None and not _listens(self.address.socket):
            return False  # asked first, because httpcore forgets to close a connection that was refused
        try:
            return self._http.get("/health", timeout=HEALTH_SECONDS).status_code == 200
        except httpx.HTTPError:
            return False

    def models(self) -> dict[str, dict[str, Any]]:
        """What the server can be asked for, by name: the base (its parent is None) and the adapters."""
        response = self._ask("GET", MODELS)
        if response.status_code != 200:
            raise EngineError(f"vLLM does not tell its models: {told(response)}. Check its address and its key.")
        return {str(model["id"]): model for model in response.json()["data"]}

    def load(self, name: str, directory: Path, version: int) -> None:
        """Raises ``VersionDamaged`` with what vLLM said when it cannot load the adapter."""
        response = self._ask("POST", LOAD, {"lora_name": name, "lora_path": str(directory.resolve())})
        if response.status_code == 200:
            return
        self._expect_health()
        raise VersionDamaged(f"Version {version} cannot be loaded; vLLM said: {told(response)}. Verify its files.")

    def unload(self, name: str) -> None:
        response = self._ask("POST", UNLOAD, {"lora_name": name})
        if response.status_code != 200:
            raise EngineError(f"vLLM did not unload {name}: {told(response)}.")

    def next_logprobs(self, model: str, ids: tuple[int, ...]) -> dict[int, float]:
        """Log-probabilities of the most probable next tokens, by their ids."""
        body = {
            "model": model,
            "prompt": list(ids),
            "max_tokens": 1,
            "temperature": 0.0,
            "ignore_eos": True,
            "logprobs": TOP_LOGPROBS,
            "return_tokens_as_token_ids": True,
        }
        response = self._ask("POST", COMPLETIONS, body)
        if response.status_code != 200:
            self._expect_health()
            raise EngineError(f"vLLM failed on the first token of {model}: {told(response)}.")
        (top,) = response.json()["choices"][0]["logprobs"]["top_logprobs"]
        return dict(_alternatives(top))

    def close(self) -> None:
        self._http.close()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            return self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise EngineUnavailable(f"vLLM at {self.address} does not answer: {error!r}. Try again later.") from error

    def _expect_health(self) -> None:
        """A server that just broke answers 500 to everything; what was asked is then not to blame."""
        if not self.healthy():
            raise EngineUnavailable(f"vLLM at {self.address} is not healthy. Try again later, and look at its log.")


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def completion_body(model: str, request: TokenRequest, unique: str) -> dict[str, Any]:
    """The request to ``/v1/completions``; ``unique`` names it in vLLM and must never be used again."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(request.prompt_ids),
        "max_tokens": request.max_new_tokens,
        "request_id": unique,
        "stream": True,
        "return_token_ids": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        # The model's own generation config must not decide these, or where an answer ends.
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": list(request.stop_ids),
        # A constraint that is fulfilled leaves the end of sequence as the only token, again and again.
        "ignore_eos": sampling.constraint is None,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if sampling.logprobs is not None:
        body |= {"logprobs": sampling.logprobs, "return_tokens_as_token_ids": True}
    if sampling.constraint is not None:
        body["structured_outputs"] = _structured(sampling.constraint)
    return body


def read_event(data: bytes, request: TokenRequest) -> TokenChunk | None:
    """The chunk in one event of the stream; None for one without tokens.

    Raises ``BadRequest`` or ``EngineError`` with what vLLM said when the event tells an error.
    """
    event = json.loads(data)
    if "error" in event:
        raise refusal(int(event["error"].get("code") or 500), str(event["error"].get("message")))
    if not event["choices"]:
        return None
    (choice,) = event["choices"]
    tokens = tuple(choice["token_ids"])
    reason = choice["finish_reason"]
    if reason not in (None, "stop", "length"):
        raise EngineError(f"vLLM ended the answer with {reason!r}. Send the request again.")
    if not tokens and reason is None:
        return None
    return TokenChunk(tokens, reason, _logprobs(choice["logprobs"], tokens, request.sampling.logprobs))


def refusal(status: int, message: str) -> BadRequest | EngineError:
    """What a status other than 200 means: 400 is the client's fault, all else is not."""
    if status == 400:
        return BadRequest(f"The engine refuses this request: {message}", code="invalid_request")
    return EngineError(f"vLLM failed: {message}. Send the request again.")


def told(response: httpx.Response) -> str:
    """The message in an error response, or what there is of it."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}, {response.text[:200]!r}"


def _structured(constraint: Constraint) -> dict[str, str]:
    return {_CONSTRAINTS[constraint.kind]: constraint.value}


def _logprobs(
    found: Mapping[str, Any] | None, tokens: tuple[int, ...], wanted: int | None
) -> tuple[TokenLogprobs, ...]:
    if found is None or wanted is None:
        return ()
    rows = zip(tokens, found["token_logprobs"], found["top_logprobs"], strict=True)
    return tuple(TokenLogprobs(token, logprob, _alternatives(top)[:wanted]) for token, logprob, top in rows)


def _alternatives(top: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    """Best first. vLLM adds the chosen token where it is not among the best."""
    pairs = [(int(name.removeprefix(_TOKEN)), logprob) for name, logprob in top.items()]
    return tuple(sorted(pairs, key=lambda pair: -pair[1]))
