"""From settings to a vLLM server: the command line of our own, or the address of somebody else's."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selflearn.config import ServingSettings
from selflearn.errors import ConfigurationError, ModelError
from selflearn.serving.vllm_client import Address
from selflearn.serving.vllm_server import Launch, VLLMServer

BASE_NAME = "selflearn-base"
RESIDENT_ADAPTERS = 5  # the base, served now, served before, a canary, and one that is being opened
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM offers
BLOCK_TOKENS = 128  # vLLM's largest unit of cache
SOCKET_PATH_BYTES = 100  # the kernel takes 107
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",  # the model is a directory
}


def make_server(serving: ServingSettings, model: Path, state: Path, *, context: int, rank: int) -> VLLMServer:
    """The server that the settings name, not started yet. ``rank`` is the highest of all adapters it will load."""
    if serving.vllm_url:
        return VLLMServer(_remote(serving), start_seconds=serving.vllm_start_seconds)
    address = Address(socket=_socket_path(state), key=secrets.token_hex(16))
    launch = Launch(
        command=(*_program(serving), *serve_arguments(serving, model, address, context=context, rank=rank)),
        environment=_environment(serving, address),
        log=state / "vllm.log",
    )
    return VLLMServer(address, launch, start_seconds=serving.vllm_start_seconds)


def serve_arguments(serving: ServingSettings, model: Path, address: Address, *, context: int, rank: int) -> list[str]:
    """What stands behind ``vllm``; the operator's own arguments come last, where they override ours."""
    length = min(context, serving.cache_tokens)
    arguments = {
        "--uds": str(address.socket),
        "--served-model-name": BASE_NAME,
        "--dtype": serving.dtype,
        "--max-model-len": str(length),
        "--max-num-seqs": str(serving.max_concurrent_requests),
        "--max-loras": str(RESIDENT_ADAPTERS),
        "--max-lora-rank": str(_offered_rank(rank)),
        "--generation-config": "vllm",  # the model's own sampling defaults stay out
        "--structured-outputs-config": '{"backend": "guidance"}',  # the one that reads Lark grammars
    }
    if (size := cache_bytes(model, serving.cache_tokens, BYTES[serving.dtype])) is not None:
        arguments["--kv-cache-memory-bytes"] = str(size)
    if serving.step_tokens:
        arguments["--max-num-batched-tokens"] = str(max(serving.step_tokens, serving.max_concurrent_requests))
    switches = ["--enable-lora", "--disable-uvicorn-access-log"]
    if not serving.prefix_cache:
        switches.append("--no-enable-prefix-caching")
    pairs = [word for pair in arguments.items() for word in pair]
    return ["serve", str(model.resolve()), *pairs, *switches, *shlex.split(serving.vllm_arguments)]


def highest_rank(state: Path, rank: int) -> int:
    """``rank``, or that of an older version with a higher one: a server that was started for less cannot load it."""
    ranks = [rank]
    for file in (state / "versions").glob("v*/adapter_config.json"):
        try:
            ranks.append(int(json.loads(file.read_text("utf-8"))["r"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a damaged version is not loaded anyway
    return max(ranks)


def _remote(serving: ServingSettings) -> Address:
    key = None
    if serving.vllm_key_file is not None:
        try:
            key = serving.vllm_key_file.read_text("utf-8").strip()
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"serving.vllm_key_file cannot be read: {error}. It must be a file with the API key of the server at "
                f"{serving.vllm_url}."
            ) from error
    return Address(serving.vllm_url.rstrip("/").removesuffix("/v1"), key=key)


def _program(serving: ServingSettings) -> list[str]:
    words = shlex.split(serving.vllm_command)
    if not words or shutil.which(words[0]) is None:
        raise ConfigurationError(
            f"serving.vllm_command is {serving.vllm_command!r}, and there is no such program. Install vLLM in an "
            "environment of its own and name it: /path/to/environment/bin/vllm. Or set serving.vllm_url."
        )
    return words


def _environment(serving: ServingSettings, address: Address) -> dict[str, str]:
    """That of the daemon, without what is meant for its own Python, and with what only the daemon decides."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    threads = (
        {"OMP_NUM_THREADS": str(serving.threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"} if serving.threads else {}
    )
    return {**kept, **threads, **ENVIRONMENT, "VLLM_API_KEY": str(address.key)}


def _socket_path(state: Path) -> Path:
    """In the state directory, or in one of our own under the system's for temporary files where that is too deep."""
    path = state.resolve() / "vllm.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return path
    return Path(tempfile.mkdtemp(prefix="selflearn-")) / "vllm.sock"


def _offered_rank(rank: int) -> int:
    return next((offered for offered in RANKS if offered >= rank), RANKS[-1])


def cache_bytes(model: Path, tokens: int, value_bytes: int) -> int | None:
    """Bytes of ``tokens`` of cache for keys and values, in whole blocks and one to spare; None if nothing tells it."""
    file = model / "config.json"
    try:
        config: Mapping[str, Any] = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"The model file {file} cannot be read: {error}. Give another model.") from error
    config = config.get("text_config") or config
    try:
        heads = int(config.get("num_key_value_heads") or config["num_attention_heads"])
        width = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
        layers = int(config["num_hidden_layers"])
    except (KeyError, TypeError, ValueError):
        return None
    blocks = -(-tokens // BLOCK_TOKENS) + 1
    return 2 * layers * heads * width * value_bytes * blocks * BLOCK_TOKENS
