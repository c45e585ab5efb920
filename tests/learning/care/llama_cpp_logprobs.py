"""What llama.cpp computes: run as a program of its own, so that its native code does not share the tests' process.

Reads ``{"model", "adapter", "prompt"}`` (paths and token ids) as JSON from stdin and prints {token id: log-probability}
of the likeliest next tokens.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import xllamacpp

TOKENS = 20


def next_tokens(model: str, adapter: str | None, prompt: list[int]) -> dict[int, float]:
    """The log-probabilities (nats) of the ``TOKENS`` likeliest tokens after ``prompt``."""
    parameters: Any = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.n_ctx, parameters.n_parallel, parameters.n_gpu_layers = 128, 1, 0
    parameters.cpuparams.n_threads = 1
    parameters.verbosity, parameters.warmup = -1, False
    if adapter is not None:
        parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
    server: Any = xllamacpp.Server(parameters)
    answer = server.handle_completions({"prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": TOKENS})
    found = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return {int(entry["id"]): float(entry["logprob"]) for entry in found}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(next_tokens(**json.load(sys.stdin))) + "\n")
