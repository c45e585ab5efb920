from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from selflearn.errors import ModelError
from selflearn.models.adapter import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    adapter_state,
    attach_new,
    attach_saved,
    base_weight,
    disabled,
    factors,
    lora_layers,
    probe_logits,
    save_adapter,
    scale,
)
from selflearn.models.views import view_of
from tests.architectures import tiny_model

PROBE = [5, 17, 3, 60, 41]


@pytest.fixture(params=["llama", "qwen2", "gpt2"])
def base(request: pytest.FixtureRequest) -> PreTrainedModel:
    model = tiny_model(request.param)
    model.to(torch.bfloat16)  # type: ignore[arg-type, unused-ignore]
    model.requires_grad_(False)
    return model


def _adapted(base: PreTrainedModel, seed: int = 1) -> PreTrainedModel:
    """A view with an adapter that does something: B is drawn too."""
    model = view_of(base)
    attach_new(model, rank=4, alpha=8.0, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in lora_layers(model).values():
        factors(layer)[1].data.normal_(0.0, 0.1, generator=generator)
    return model


def test_every_linear_layer_but_the_head_is_adapted(base: PreTrainedModel) -> None:
    model = _adapted(base)
    assert isinstance(model, type(base))
    layers = lora_layers(model)
    expected = {"llama": 14, "qwen2": 14, "gpt2": 8}[base.config.model_type]
    assert len(layers) == expected
    assert not any("lm_head" in name for name in layers)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trainable) == 2 * expected == len(adapter_state(model))
    assert all(parameter.dtype == torch.float32 for parameter in trainable)


def test_a_new_adapter_changes_nothing_and_hangs_on_its_seed_alone(base: PreTrainedModel) -> None:
    first, second, other = view_of(base), view_of(base), view_of(base)
    attach_new(first, rank=4, alpha=8.0, seed=7)
    torch.rand(3)
    before = torch.get_rng_state()
    attach_new(second, rank=4, alpha=8.0, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    attach_new(other, rank=4, alpha=8.0, seed=8)
    mine, theirs = adapter_state(first), adapter_state(second)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert any(not torch.equal(mine[name], tensor) for name, tensor in adapter_state(other).items())
    assert torch.equal(probe_logits(first, PROBE), probe_logits(base, PROBE))


def test_the_layer_computes_what_its_factors_say(base: PreTrainedModel) -> None:
    model = _adapted(base)
    for layer in lora_layers(model).values():
        factor_a, factor_b = factors(layer)
        weight = base_weight(layer)
        assert weight.shape == (factor_b.shape[0], factor_a.shape[1])
        inputs = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
        module: nn.Module = layer.get_base_layer()
        expected = module(inputs).float() + scale(layer) * inputs.float() @ factor_a.T @ factor_b.T
        adapted: Any = layer
        assert torch.allclose(adapted(inputs).float(), expected, rtol=0.02, atol=0.02)


def test_save_and_load_are_bit_equal(base: PreTrainedModel, tmp_path: Path) -> None:
    model = _adapted(base)
    save_adapter(model, tmp_path / "one")
    save_adapter(model, tmp_path / "two")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    again = view_of(base)
    attach_saved(again, tmp_path / "one")
    mine, theirs = adapter_state(model), adapter_state(again)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert torch.equal(probe_logits(model, PROBE), probe_logits(again, PROBE))
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_other_tools_can_load_it(base: PreTrainedModel, tmp_path: Path) -> None:
    model = _adapted(base)
    save_adapter(model, tmp_path)
    theirs: Any = PeftModel.from_pretrained(view_of(base), str(tmp_path))
    assert torch.equal(probe_logits(theirs, PROBE), probe_logits(model, PROBE))


def test_training_goes_on_from_a_saved_adapter(base: PreTrainedModel, tmp_path: Path) -> None:
    save_adapter(_adapted(base), tmp_path)
    model = view_of(base)
    attach_saved(model, tmp_path, trainable=True)
    assert sum(parameter.requires_grad for parameter in model.parameters()) == len(adapter_state(model))
    save_adapter(model, tmp_path / "again")
    assert (tmp_path / "again" / WEIGHTS_FILE).read_bytes() == (tmp_path / WEIGHTS_FILE).read_bytes()
    assert (tmp_path / "again" / CONFIG_FILE).read_bytes() == (tmp_path / CONFIG_FILE).read_bytes()


@pytest.mark.parametrize("trainable", [True, False])
def test_disabled_is_the_base_and_leaves_no_trace(base: PreTrainedModel, trainable: bool) -> None:
    model = _adapted(base)
    for tensor in adapter_state(model).values():
        tensor.requires_grad_(False)
    for layer in lora_layers(model).values():
        for factor in factors(layer):
            factor.requires_grad_(trainable)
    adapted = probe_logits(model, PROBE)
    with disabled(model):
        assert torch.equal(probe_logits(model, PROBE), probe_logits(base, PROBE))
    assert torch.equal(probe_logits(model, PROBE), adapted)
    assert not torch.equal(adapted, probe_logits(base, PROBE))
    flags = {factor.requires_grad for layer in lora_layers(model).values() for factor in factors(layer)}
    assert flags == {trainable}


def test_a_damaged_adapter_is_refused(base: PreTrainedModel, tmp_path: Path) -> None:
    save_adapter(_adapted(base), tmp_path / "good")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        bad = Path(shutil.copytree(tmp_path / "good", tmp_path / f"bad-{name}"))
        (bad / name).write_bytes((bad / name).read_bytes()[:100])
        with pytest.raises(ModelError, match=name):
            attach_saved(view_of(base), bad)
        (bad / name).unlink()
        with pytest.raises(ModelError, match=name):
            attach_saved(view_of(base), bad)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    small = tiny_model("llama")
    save_adapter(_adapted(small), tmp_path)
    for other in (tiny_model("llama", hidden=64), tiny_model("llama", layers=3)):
        with pytest.raises(ModelError, match="does not fit"):
            attach_saved(other, tmp_path)


def test_one_adapter_at_a_time(tmp_path: Path) -> None:
    model = _adapted(tiny_model("llama"))
    with pytest.raises(ModelError, match="carries an adapter already"):
        attach_new(model, rank=2, alpha=2.0, seed=0)
    with pytest.raises(ModelError, match="no adapter"):
        save_adapter(tiny_model("llama"), tmp_path)
