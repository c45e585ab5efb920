"""A base in fewer bits: close to the whole one, trainable, and told apart wherever something of a base is kept."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from transformers import GPT2Config, GPT2LMHeadModel

from selflearn.config import LearningSettings
from selflearn.errors import ModelError
from selflearn.learning import anchors
from selflearn.learning.importance import estimate
from selflearn.learning.penalties import Factors
from selflearn.learning.reference import reference_of
from selflearn.models.adapter import attach_new, base_weight, lora_layers
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.forward import TokenSequence, collate, response_losses
from selflearn.models.quantization import LIBRARIES, Quantization, quantize

SEQUENCES = [TokenSequence(tuple(range(start, start + 12)), 8) for start in (5, 40, 90, 200)]


@pytest.fixture(params=[kind for kind in get_args(Quantization) if kind != "none"])
def kind(request: pytest.FixtureRequest) -> Quantization:
    found: Quantization = request.param
    if find_spec(LIBRARIES[found]) is None:
        pytest.skip(f"{LIBRARIES[found]} is not installed: the extra 'quantized'")
    return found


@pytest.fixture
def quantized(tiny_model: Path, kind: Quantization) -> LoadedBase:
    return load_base(tiny_model, device="cpu", dtype="bfloat16", quantization=kind)


@pytest.fixture
def whole(tiny_model: Path) -> LoadedBase:
    return load_base(tiny_model, device="cpu", dtype="bfloat16")


def adapted(base: LoadedBase) -> LoadedBase:
    attach_new(base.model, rank=4, alpha=8.0, seed=0)
    return base


def test_it_computes_nearly_what_the_whole_base_computes(quantized: LoadedBase, whole: LoadedBase) -> None:
    batch = collate(SEQUENCES, whole.device)
    found, expected = (response_losses(base.model, batch) for base in (quantized, whole))
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)


def test_its_weights_can_be_read(quantized: LoadedBase, whole: LoadedBase) -> None:
    adapted(quantized), adapted(whole)
    exact = {name: base_weight(layer) for name, layer in lora_layers(whole.model).items()}
    for name, layer in lora_layers(quantized.model).items():
        weight = base_weight(layer)
        assert weight.shape == exact[name].shape
        assert 0.0 < float((weight.float() - exact[name].float()).norm() / exact[name].float().norm()) < 0.15


def test_an_adapter_learns_on_it(quantized: LoadedBase) -> None:
    model = adapted(quantized).model
    batch = collate(SEQUENCES, quantized.device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    with torch.no_grad():
        response_losses(model, batch)  # measuring first must not change what comes after
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = response_losses(model, batch).sum() / batch.mask.sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert len(optimizer.param_groups[0]["params"]) == 2 * len(lora_layers(model)), "nothing of the base trains"


def test_its_importance_can_be_measured(quantized: LoadedBase) -> None:
    model = adapted(quantized).model
    found = estimate(model, SEQUENCES, device=quantized.device, generator=torch.Generator().manual_seed(0))
    assert set(found) == set(lora_layers(model))
    assert all(isinstance(factors, Factors) and bool((factors.output > 0).any()) for factors in found.values())


def test_what_is_kept_of_a_base_is_kept_apart(
    quantized: LoadedBase, whole: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [next(row for row in anchors.anchor_prompts() if row["use"] == use) for use in ("train", "judge")]
    monkeypatch.setattr(anchors, "anchor_prompts", lambda: few)  # a minute less
    reference_of(whole, tmp_path)
    kept = set(tmp_path.iterdir())
    reference_of(quantized, tmp_path)
    assert len(set(tmp_path.iterdir()) - kept) == len(kept) == 2


def test_a_model_without_linear_layers_is_refused(kind: Quantization) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=64))
    with pytest.raises(ModelError, match="no linear layers"):
        quantize(model, kind)


@pytest.mark.parametrize("kind", LIBRARIES)
def test_a_missing_library_is_refused_with_the_extra(kind: Quantization) -> None:
    if find_spec(LIBRARIES[kind]) is not None:
        assert LearningSettings(quantization=kind).quantization == kind
    else:
        with pytest.raises(ValidationError, match=r"selflearn\[quantized\]"):
            LearningSettings(quantization=kind)
