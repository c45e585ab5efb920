"""What is said to vLLM and understood of it, and how it is started; tests/vllm has the real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save_file

from selflearn.config import ServingSettings
from selflearn.errors import BadRequest, ConfigurationError, EngineError, ProofFailed
from selflearn.serving import Constraint, Sampling, TokenChunk, TokenLogprobs, TokenRequest
from selflearn.serving.vllm_client import Address, completion_body, read_event, refusal, told
from selflearn.serving.vllm_launch import highest_rank, make_server, serve_arguments
from selflearn.serving.vllm_proof import Probe, prove, read_probe

CONFIG = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64}


def request(**sampling: Any) -> TokenRequest:
    return TokenRequest("request", (5, 6), 9, Sampling(**sampling), (2,))


def event(**choice: Any) -> bytes:
    whole = {"index": 0, "text": "", "token_ids": [7], "finish_reason": None, "logprobs": None, **choice}
    return json.dumps({"choices": [whole]}).encode()


def test_a_request_says_all_that_decides_an_answer() -> None:
    body = completion_body("selflearn-v000007-ab", request(temperature=0.0), "request-1")
    assert body == {
        "model": "selflearn-v000007-ab",
        "prompt": [5, 6],
        "max_tokens": 9,
        "request_id": "request-1",
        "stream": True,
        "return_token_ids": True,
        "temperature": 0.0,
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": [2],
        "ignore_eos": True,
    }
    constraint = Constraint("lark", "start: /a/")
    asked = request(seed=3, logit_bias=((7, -1.5),), logprobs=0, constraint=constraint, presence_penalty=1.0)
    more = completion_body("base", asked, "request-2")
    assert {name: value for name, value in more.items() if body.get(name) != value} == {
        "model": "base",
        "request_id": "request-2",
        "temperature": 1.0,
        "presence_penalty": 1.0,
        "ignore_eos": False,
        "seed": 3,
        "logit_bias": {"7": -1.5},
        "logprobs": 0,
        "return_tokens_as_token_ids": True,
        "structured_outputs": {"grammar": "start: /a/"},
    }


def test_events_become_chunks() -> None:
    assert read_event(event(token_ids=[7, 8]), request()) == TokenChunk((7, 8))
    assert read_event(event(finish_reason="length"), request()) == TokenChunk((7,), "length")
    assert read_event(event(token_ids=[]), request()) is None
    assert read_event(event(token_ids=[], finish_reason="stop"), request()) == TokenChunk((), "stop")
    assert read_event(b'{"choices": [], "usage": {}}', request()) is None
    # The chosen token comes first, whether or not it is among the best.
    top = {"token_id:7": -3.0, "token_id:4": -0.5, "token_id:9": -1.0}
    found = read_event(event(logprobs={"token_logprobs": [-3.0], "top_logprobs": [top]}), request(logprobs=2))
    assert found == TokenChunk((7,), None, (TokenLogprobs(7, -3.0, ((4, -0.5), (9, -1.0))),))


def test_errors_say_what_vllm_said() -> None:
    with pytest.raises(BadRequest, match="Invalid type: nope"):
        read_event(b'{"error": {"message": "Invalid type: nope", "code": 400}}', request())
    with pytest.raises(EngineError, match="out of memory"):
        read_event(b'{"error": {"message": "out of memory", "code": 500}}', request())
    with pytest.raises(EngineError, match="'abort'"):
        read_event(event(finish_reason="abort"), request())
    assert type(refusal(400, "no")) is BadRequest
    assert type(refusal(401, "no")) is EngineError
    assert told(httpx.Response(404, json={"error": {"message": "unknown"}})) == "unknown"
    assert told(httpx.Response(401, json={"error": "Unauthorized"})) == 'status 401, \'{"error":"Unauthorized"}\''
    assert told(httpx.Response(502, text="bad gateway")) == "status 502, 'bad gateway'"


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(Address(key="secret"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def arguments(model: Path, rank: int = 16, **settings: Any) -> list[str]:
    serving = ServingSettings(engine="vllm", **settings)
    return serve_arguments(serving, model, Address(socket=Path("/run/vllm.sock")), context=2048, rank=rank)


def value(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_our_own_server_gets_what_the_settings_say(model: Path) -> None:
    words = arguments(model, cache_tokens=1000, max_concurrent_requests=7, vllm_arguments="--dtype 'float 8'")
    assert words[:2] == ["serve", str(model)]
    assert words[-2:] == ["--dtype", "float 8"]
    assert value(words, "--uds") == "/run/vllm.sock"
    assert value(words, "--max-model-len") == "1000"
    assert value(words, "--max-num-seqs") == "7"
    assert value(words, "--kv-cache-memory-bytes") == str(9 * 128 * 2 * 2 * 2 * 16 * 2)
    assert "--max-num-batched-tokens" not in words
    assert "--no-enable-prefix-caching" not in words
    words = arguments(model, cache_tokens=4096, step_tokens=4, prefix_cache=False)
    assert value(words, "--max-model-len") == "2048"
    assert value(words, "--max-num-batched-tokens") == "32"
    assert "--no-enable-prefix-caching" in words


@pytest.mark.parametrize(("rank", "offered"), [(1, 8), (16, 16), (17, 32), (300, 320), (512, 512)])
def test_ranks_are_those_that_vllm_offers(model: Path, rank: int, offered: int) -> None:
    assert value(arguments(model, rank), "--max-lora-rank") == str(offered)


def test_a_model_whose_cache_cannot_be_counted_is_left_to_vllm(model: Path) -> None:
    (model / "config.json").write_text(json.dumps({"text_config": CONFIG}))
    assert "--kv-cache-memory-bytes" in arguments(model)
    (model / "config.json").write_text("{}")
    assert "--kv-cache-memory-bytes" not in arguments(model)


def test_an_older_version_may_have_a_higher_rank(tmp_path: Path) -> None:
    assert highest_rank(tmp_path, 16) == 16
    for number, text in enumerate(('{"r": 64}', "damaged", "{}")):
        directory = tmp_path / "versions" / f"v{number:06d}"
        directory.mkdir(parents=True)
        (directory / "adapter_config.json").write_text(text)
    assert highest_rank(tmp_path, 16) == 64
    assert highest_rank(tmp_path, 128) == 128


def test_a_server_is_ours_or_somebody_elses(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/of/the/daemon")
    own = make_server(ServingSettings(vllm_command="echo 1", threads=3), model, model, context=64, rank=8)
    launch = own._launch
    assert launch is not None
    assert launch.command[:3] == ("echo", "1", "serve")
    assert "PYTHONPATH" not in launch.environment
    assert launch.environment["OMP_NUM_THREADS"] == "3"
    assert launch.environment["VLLM_API_KEY"] == own.address.key
    assert launch.environment["VLLM_NO_USAGE_STATS"] == "1"
    own.close()
    (model / "key").write_text("word\n")
    named = ServingSettings(vllm_url="http://10.0.0.1:8001/v1/", vllm_key_file=model / "key")
    other = make_server(named, model, model, context=64, rank=8)
    assert (other.address.url, other.address.key, other._launch) == ("http://10.0.0.1:8001", "word", None)
    other.close()


def test_a_socket_path_that_is_too_long_is_not_used(model: Path) -> None:
    deep = model / ("a" * 60) / ("b" * 60)
    server = make_server(ServingSettings(vllm_command="echo"), model, deep, context=64, rank=8)
    assert server.address.socket is not None
    assert len(str(server.address.socket)) < 100
    server.address.socket.parent.rmdir()
    server.close()


def test_what_cannot_be_used_is_named(model: Path) -> None:
    for command in ("no-such-program", ""):
        with pytest.raises(ConfigurationError, match=r"serving\.vllm_command"):
            make_server(ServingSettings(vllm_command=command), model, model, context=64, rank=8)
    with pytest.raises(ConfigurationError, match=r"serving\.vllm_key_file cannot be read"):
        make_server(
            ServingSettings(vllm_url="http://x", vllm_key_file=model / "none"), model, model, context=64, rank=8
        )


@pytest.fixture
def probe(tmp_path: Path) -> Callable[[float], Probe]:
    """A probe of 1000 logits with a spread of 3; its argument moves half of them that many spreads away."""
    logits = np.random.default_rng(1).normal(0.0, 3.0, 1000).astype(np.float32)

    def make(way: float) -> Probe:
        moved = logits + np.where(np.arange(1000) % 2, 3.0 * way, 0.0).astype(np.float32)
        save_file({"logits": moved}, tmp_path / "probe.safetensors")
        return read_probe(tmp_path / "probe.safetensors", "Version 7")

    return make


def best(probe: Probe, noise: float = 0.0) -> dict[int, float]:
    """What a server would show of it, off by ``noise`` spreads."""
    off = np.random.default_rng(2).normal(0.0, noise * probe.spread, 20) if noise else np.zeros(20)
    tokens = np.argsort(-probe.logprobs)[:20]
    return {int(token): float(probe.logprobs[token] + error) for token, error in zip(tokens, off, strict=True)}


def test_a_proof_stands_the_noise_of_bf16_and_no_more(probe: Callable[[float], Probe]) -> None:
    recorded = probe(0.0)
    assert recorded.vocabulary == 1000
    assert recorded.spread == pytest.approx(3.0, rel=0.1)
    assert np.exp(recorded.logprobs).sum() == pytest.approx(1.0)
    prove(best(recorded, 0.05), recorded, "Version 7")
    with pytest.raises(ProofFailed, match="Version 7 does not answer as recorded"):
        prove(best(recorded, 0.2), recorded, "Version 7")
    with pytest.raises(ProofFailed, match="another vocabulary"):
        prove({1000: -1.0}, recorded, "Version 7")


def test_an_adapter_that_is_left_out_does_not_pass(probe: Callable[[float], Probe]) -> None:
    base, near, nearer = probe(0.0), probe(0.15), probe(0.02)
    prove(best(base), near, "Version 7")  # near enough to pass, if it were not for the base
    with pytest.raises(ProofFailed, match="answers like the base"):
        prove(best(base, 0.02), near, "Version 7", base=base)
    prove(best(near, 0.02), near, "Version 7", base=base)
    prove(best(base, 0.02), nearer, "Version 7", base=base)  # cannot be told apart


def test_a_probe_that_cannot_be_read_proves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ProofFailed, match=r"Version 7 has no readable probe\.safetensors"):
        read_probe(tmp_path / "probe.safetensors", "Version 7")
    (tmp_path / "probe.safetensors").write_bytes(b"nothing")
    with pytest.raises(ProofFailed, match="proves nothing"):
        read_probe(tmp_path / "probe.safetensors", "Version 7")
