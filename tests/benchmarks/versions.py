"""Versions to measure with: real adapters, registered as promoted, each of which writes its own letter alone.

An answer that two versions wrote shows it in its text, whatever its headers say. Such an adapter has the size and the
layers of a learned one, so it costs as much to serve. Models of the Llama family only.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selflearn.cli.load import question
from selflearn.config import LearningSettings
from selflearn.models.adapter import attach_new, factors, lora_layers, probe_logits, save_adapter, scale
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.chat import encode_prompt, encode_text, probe_ids
from selflearn.models.views import view_of
from selflearn.serving.transformers_engine import PROBE_FILE
from selflearn.versions import ensure_learner, seal, version_directory, work_directory, write_manifest
from tests.stores import LEARNER, Bench, open_bench
from tests.versions.candidates import manifest_of

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PROMPTS = 8
REPEATED = 64  # tokens of an answer that the adapter is made on
RIDGE = 0.1
WHITENING = 0.01
LOUDNESS = 20.0  # times what the model itself says
EXAMPLES = 12  # what an update needs


def letter(version: int) -> str:
    """What a marked version writes."""
    return LETTERS[version - 1]


def promote_marked(model: Path, state: Path, count: int, *, dtype: str, device: str) -> None:
    """Promotes versions 1 to ``count`` one after the other in a new state directory; the last one is served then."""
    base = load_base(model, device=device, dtype=dtype)
    bench = open_bench(state)
    try:
        bench.store.write(
            lambda connection: ensure_learner(connection, LEARNER, base_model=base.name, base_sha256=base.sha256)
        )
        for _ in range(count):
            _promote_next(bench, state, base)
    finally:
        bench.store.close()


def _promote_next(bench: Bench, state: Path, base: LoadedBase) -> None:
    for _ in range(EXAMPLES):
        number = next(bench.numbers)
        bench.correct(f"question {number}", f"answer {number}")
    version = bench.begin_update()
    candidate = work_directory(state, version) / "candidate"
    make_marked(base, letter(version), candidate)
    manifest = dataclasses.replace(manifest_of(bench, version), base_model=base.name, base_sha256=base.sha256)
    sha256 = write_manifest(candidate, manifest)
    seal(candidate, version_directory(state, version))
    bench.promote(version, sha256)


def make_marked(base: LoadedBase, text: str, directory: Path) -> None:
    """Writes an adapter whose answers are ``text`` again and again, and its probe.

    All layers have their random A and a zero B, but for the last: that one adds, at every position, the direction in
    which the output head sees the token of ``text``, much louder than what the model itself says.
    """
    (token,) = encode_text(base.tokenizer, text)
    model = view_of(base.model)
    learning = LearningSettings()
    attach_new(model, rank=learning.rank, alpha=learning.alpha, seed=token)
    layer = list(lora_layers(model).values())[-1]
    always, loudness = _always(model, layer, base.tokenizer, token)
    factor_a, factor_b = factors(layer)
    with torch.no_grad():
        factor_a[0].copy_(always)
        factor_b[:, 0].copy_(_direction(base.model, token) * loudness / scale(layer))
    save_adapter(model, directory)
    save_file({"logits": probe_logits(model, probe_ids(base.tokenizer))}, str(directory / PROBE_FILE))
    (directory / "training.jsonl").write_text("")


def _texts() -> Iterator[str]:
    """Questions that are asked, and texts that have little in common with them."""
    random = Random(0)
    for number in range(PROMPTS):
        yield question(number)
        words = ("".join(random.choices(string.printable, k=random.randrange(1, 9))) for _ in range(2 * number))
        yield f"What is the use of port {random.randrange(65536)}? {' '.join(words)}"


@torch.no_grad()
def _always(model: PreTrainedModel, layer: Any, tokenizer: PreTrainedTokenizerBase, token: int) -> tuple[Tensor, float]:
    """A row a [d_in] with a·x near 1 for every input x of the layer, and how loud its output has to be.

    Found by ridge regression over the positions of some prompts, each followed by an answer of ``token`` alone.
    """
    inputs: list[Tensor] = []
    loudest: list[float] = []
    final_norm: Any = model.base_model.norm
    hooks = [
        layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0][0].float())),
        final_norm.register_forward_pre_hook(
            lambda _, given: loudest.append(float(given[0][0].float().norm(dim=1).median()))
        ),
    ]
    for text in _texts():
        prompt = encode_prompt(tokenizer, [{"role": "user", "content": text}])
        model(input_ids=torch.tensor([prompt + [token] * REPEATED], device=model.device), use_cache=False)
    for hook in hooks:
        hook.remove()
    seen = torch.cat(inputs)
    square = seen.T @ seen
    damped = square + RIDGE * square.diagonal().mean() * torch.eye(len(square), device=square.device)
    return torch.linalg.solve(damped, seen.sum(0)), LOUDNESS * max(loudest)


@torch.no_grad()
def _direction(model: PreTrainedModel, token: int) -> Tensor:
    """The unit direction [d] of the last hidden state that the head takes for ``token`` and for no other."""
    norm: Any = model.base_model.norm
    head: Any = model.get_output_embeddings()
    seen = head.weight.float() * norm.weight.float()
    square = seen.T @ seen
    damped = square + WHITENING * square.diagonal().mean() * torch.eye(len(square), device=square.device)
    direction: Tensor = torch.linalg.solve(damped, seen[token])
    unit: Tensor = direction / direction.norm()
    return unit
