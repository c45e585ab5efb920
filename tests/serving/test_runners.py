"""What the engine computes is what transformers computes, for models of several families, in both ways to run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from selflearn.models.adapter import attach_new, attach_saved, factors, lora_layers, save_adapter
from selflearn.models.views import view_of
from selflearn.serving.cache import BLOCK_TOKENS, BlockCache
from selflearn.serving.decoder import FusedDecoder, supports
from selflearn.serving.runners import FusedRunner, ModuleRunner, Runner
from selflearn.serving.scheduler import Piece, Sequence

CPU = torch.device("cpu")
VOCABULARY = 97
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=48, n_layer=2, n_head=4, n_positions=256, initializer_range=0.2),
}
WAYS = [(family, way) for family in CONFIGS for way in ("fused", "modules") if (family, way) != ("gpt2", "fused")]


def make_model(family: str) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model: Any = AutoModelForCausalLM.from_config(CONFIGS[family])
        for parameter in model.parameters():  # biases and norms begin as constants, which would hide mistakes
            if parameter.dim() == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
    model.eval().requires_grad_(False)
    return cast("PreTrainedModel", model)


def make_runner(model: PreTrainedModel, way: str) -> Runner:
    return FusedRunner(FusedDecoder(model)) if way == "fused" else ModuleRunner(model)


def write_adapter(model: PreTrainedModel, directory: Path, seed: int) -> Path:
    view = view_of(model)
    attach_new(view, rank=3, alpha=6.0, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in lora_layers(view).values():
        factors(layer)[1].data.normal_(0.0, 0.3, generator=generator)
    save_adapter(view, directory)
    return directory


def expected_logits(model: PreTrainedModel, directory: Path | None, ids: list[int]) -> Tensor:
    view: Any = view_of(model)
    if directory is not None:
        attach_saved(view, directory)
    with torch.no_grad():
        logits: Tensor = view(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits


@pytest.mark.parametrize(("family", "way"), WAYS)
def test_mixed_steps_give_the_logits_of_the_whole_model(family: str, way: str, tmp_path: Path) -> None:
    """Three versions; prompts in pieces beside sequences that decode; blocks in no order."""
    model = make_model(family)
    directories = [None, write_adapter(model, tmp_path / "1", 1), write_adapter(model, tmp_path / "2", 2)]
    runner = make_runner(model, way)
    for owner, directory in enumerate(directories):
        runner.add(owner, directory)
    assert runner.holds(1, tmp_path / "1")
    assert not runner.holds(1, tmp_path / "2")
    cache = BlockCache(runner.cache_shape, 64, CPU)
    generator = torch.Generator().manual_seed(5)
    sequences = []
    blocks = (torch.randperm(63, generator=generator) + 1).tolist()
    for number, length in enumerate((40, 7, 33, 64, 17, 40)):
        ids = torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()
        own = [blocks.pop() for _ in range(-(-length // BLOCK_TOKENS))]
        sequences.append(Sequence(number % 3, ids, length, 1, frozenset(), blocks=own))
    for cuts in ((0, 10), (10, 11), (11, 30), (30, 31), (31, 64)):
        pieces = []
        for sequence in sequences:
            end = min(cuts[1], len(sequence.tokens))
            if end > cuts[0]:
                pieces.append(Piece(sequence, cuts[0], end - cuts[0]))
        with torch.inference_mode():
            logits, completing = runner.run(pieces, cache)
        assert len(logits) == len(completing) == sum(piece.completes for piece in pieces)
        for row, piece in zip(logits, completing, strict=True):
            sequence = piece.sequence
            wanted = expected_logits(model, directories[sequence.owner], sequence.tokens)[-1]
            torch.testing.assert_close(row, wanted, atol=2e-5, rtol=1e-4)


def test_the_lean_decoder_takes_what_it_can_compute_and_nothing_else() -> None:
    assert {family: supports(make_model(family)) for family in CONFIGS} == {
        "llama": True,
        "qwen2": True,
        "qwen3": True,
        "gpt2": False,
    }
    sliding = make_model("qwen2")
    sliding.config.use_sliding_window = True
    assert not supports(sliding)


def test_a_model_that_is_taken_keeps_no_second_copy() -> None:
    model = make_model("llama")
    total = sum(parameter.numel() for parameter in model.parameters())
    FusedDecoder(model, take=True)
    left = sum(parameter.numel() for parameter in model.parameters())
    assert left < total / 3


def test_a_nan_in_the_cache_of_another_does_not_spread(tmp_path: Path) -> None:
    """A block that changes hands is zeroed: masked or not, a NaN would reach the next one's answer."""
    model = make_model("llama")
    runner = make_runner(model, "fused")
    runner.add(0, None)
    cache = BlockCache(runner.cache_shape, 4, CPU)
    for keys, values in cache.layers:
        keys.fill_(torch.nan)
        values.fill_(torch.nan)
    cache.clear([1, 2])
    ids = list(range(20))
    with torch.inference_mode():
        logits, _ = runner.run([Piece(Sequence(0, ids, 20, 1, frozenset(), blocks=[1, 2]), 0, 20)], cache)
    torch.testing.assert_close(logits[0], expected_logits(model, None, ids)[-1], atol=2e-5, rtol=1e-4)
