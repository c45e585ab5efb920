"""Trained biases: a change beside the base's own bias, never in it; saved, loaded, disabled and served like A and B."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
)

from selflearn.errors import ModelError
from selflearn.judging.measures import weight_drift
from selflearn.models.adapter import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    adapter_state,
    attach_new,
    attach_saved,
    base_weight,
    bias_changes,
    disabled,
    factors,
    lora_layers,
    probe_logits,
    save_adapter,
    saved_biases,
    scale,
    trained_biases,
)
from selflearn.models.views import view_of
from selflearn.serving.decoder import FusedDecoder
from selflearn.serving.runners import FusedRunner, ModuleRunner, Runner, probe, probe_difference
from tests.architectures import draw_biases, tiny_model

PROBE = [5, 17, 3, 60, 41]


def _made(name: str) -> PreTrainedModel:
    """The model in bf16, its biases drawn."""
    model = tiny_model(name)
    draw_biases(model, 0.3)
    model.to(torch.bfloat16)  # type: ignore[arg-type, unused-ignore]
    model.requires_grad_(False)
    return model


@pytest.fixture(params=["qwen2", "gpt2"])
def base(request: pytest.FixtureRequest) -> PreTrainedModel:
    return _made(request.param)


def _adapted(base: PreTrainedModel, *, biases: bool = True) -> PreTrainedModel:
    """A view with an adapter that does something, in B and in the biases."""
    model = view_of(base)
    attach_new(model, rank=4, alpha=8.0, seed=1, biases=biases)
    generator = torch.Generator().manual_seed(1)
    learned = [factors(layer)[1] for layer in lora_layers(model).values()]
    for parameter in [*learned, *trained_biases(model).values()]:
        parameter.data.normal_(0.0, 0.1, generator=generator)
    return model


def _biases_of_the_base(base: PreTrainedModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in base.named_parameters() if name.endswith("bias")}


def test_the_layers_whose_base_has_a_bias_train_one_in_fp32(base: PreTrainedModel) -> None:
    model = _adapted(base)
    layers = set(lora_layers(model))
    expected = {name for name in layers if base.get_submodule(name).bias is not None}
    assert len(expected) == {"qwen2": 6, "gpt2": 8}[base.config.model_type]
    assert set(trained_biases(model)) == {f"{name}.bias" for name in expected}
    assert all(bias.requires_grad and bias.dtype == torch.float32 for bias in trained_biases(model).values())
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trainable) == 2 * len(layers) + len(expected) == len(adapter_state(model))


def test_new_biases_change_nothing(base: PreTrainedModel) -> None:
    model = view_of(base)
    attach_new(model, rank=4, alpha=8.0, seed=1, biases=True)
    assert torch.equal(probe_logits(model, PROBE), probe_logits(base, PROBE))


def test_a_layer_adds_its_bias_times_the_scale(base: PreTrainedModel) -> None:
    model = _adapted(base)
    changes = bias_changes(model)
    for name, layer in lora_layers(model).items():
        factor_a, factor_b = factors(layer)
        inputs = torch.randn(3, factor_a.shape[1], generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
        module: nn.Module = layer.get_base_layer()
        expected = module(inputs).float() + scale(layer) * inputs.float() @ factor_a.T @ factor_b.T
        if name in changes:
            change, own = changes[name]
            torch.testing.assert_close(change, scale(layer) * trained_biases(model)[f"{name}.bias"].detach())
            assert torch.equal(own, base.get_submodule(name).bias)  # type: ignore[arg-type]
            expected = expected + change
        adapted: Any = layer
        assert torch.allclose(adapted(inputs).float(), expected, rtol=0.02, atol=0.02)


def test_training_them_leaves_the_base_and_its_other_views_alone(base: PreTrainedModel) -> None:
    own, before = _biases_of_the_base(base), probe_logits(base, PROBE)
    other = view_of(base)
    model = _adapted(base)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    held = {name: bias.detach().clone() for name, bias in trained_biases(model).items()}
    model(input_ids=torch.tensor([PROBE])).logits.float().logsumexp(dim=-1).sum().backward()
    optimizer.step()

    assert all(not torch.equal(bias, held[name]) for name, bias in trained_biases(model).items())
    assert all(torch.equal(tensor, own[name]) for name, tensor in _biases_of_the_base(base).items())
    assert torch.equal(probe_logits(base, PROBE), before)
    assert torch.equal(probe_logits(other, PROBE), before)


@pytest.mark.parametrize("trainable", [True, False])
def test_disabled_is_exactly_the_base_and_leaves_no_trace(base: PreTrainedModel, trainable: bool) -> None:
    model = _adapted(base)
    for parameter in trained_biases(model).values():
        parameter.requires_grad_(trainable)
    adapted = probe_logits(model, PROBE)
    with disabled(model):
        assert torch.equal(probe_logits(model, PROBE), probe_logits(base, PROBE))
    assert torch.equal(probe_logits(model, PROBE), adapted)
    assert {bias.requires_grad for bias in trained_biases(model).values()} == {trainable}


def test_save_and_load_are_bit_equal(base: PreTrainedModel, tmp_path: Path) -> None:
    model = _adapted(base)
    save_adapter(model, tmp_path)
    again = view_of(base)
    attach_saved(again, tmp_path)
    mine, theirs = adapter_state(model), adapter_state(again)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert torch.equal(probe_logits(model, PROBE), probe_logits(again, PROBE))
    assert not any(parameter.requires_grad for parameter in again.parameters())
    save_adapter(again, tmp_path / "again")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_other_tools_can_load_it(base: PreTrainedModel, tmp_path: Path) -> None:
    model = _adapted(base)
    save_adapter(model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT remarks on the layers that have no bias, and gives them one of zero
        theirs: Any = PeftModel.from_pretrained(view_of(base), str(tmp_path))
    assert torch.equal(probe_logits(theirs, PROBE), probe_logits(model, PROBE))


def test_merging_takes_them_along(base: PreTrainedModel) -> None:
    own = copy.deepcopy(base)  # merging writes into the base, which views share
    model = _adapted(own)
    expected, other = probe_logits(model, PROBE), probe_logits(_adapted(base, biases=False), PROBE)
    for layer in lora_layers(model).values():
        layer.merge()
    assert probe_difference(probe_logits(own, PROBE), expected) < 0.05 < probe_difference(other, expected)


def test_training_goes_on_with_biases_switched_on_or_off(base: PreTrainedModel, tmp_path: Path) -> None:
    save_adapter(_adapted(base, biases=False), tmp_path / "without")
    save_adapter(_adapted(base), tmp_path / "with")
    added, fixed, both = view_of(base), view_of(base), view_of(base)
    attach_saved(added, tmp_path / "without", trainable=True, biases=True)
    attach_saved(fixed, tmp_path / "with", trainable=True)
    attach_saved(both, tmp_path / "with", trainable=True, biases=True)

    assert all(bias.requires_grad and not bias.any() for bias in trained_biases(added).values())
    assert all(bias.any() and not bias.requires_grad for bias in trained_biases(fixed).values())
    assert all(bias.any() and bias.requires_grad for bias in trained_biases(both).values())
    assert trained_biases(added).keys() == trained_biases(fixed).keys() == trained_biases(both).keys() != set()
    save_adapter(added, tmp_path / "added")
    assert json.loads((tmp_path / "added" / CONFIG_FILE).read_text())["lora_bias"] is True


def test_a_base_without_biases_says_so_and_trains_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = view_of(_made("llama"))
    with caplog.at_level(logging.WARNING):
        attach_new(model, rank=4, alpha=8.0, seed=1, biases=True)
    assert "LlamaForCausalLM has a bias: learning.biases changes nothing" in caplog.text
    assert trained_biases(model) == {}
    save_adapter(model, tmp_path)
    assert json.loads((tmp_path / CONFIG_FILE).read_text())["lora_bias"] is False
    assert saved_biases(tmp_path) == {}


def test_an_adapter_with_biases_does_not_fit_a_base_without(tmp_path: Path) -> None:
    save_adapter(_adapted(_made("qwen2")), tmp_path)
    with pytest.raises(ModelError, match="does not fit"):
        attach_saved(_made("llama"), tmp_path)


def test_the_drift_counts_the_bias_as_one_more_column(base: PreTrainedModel) -> None:
    model = _adapted(base)
    layers, changes = lora_layers(model), bias_changes(model)
    deltas = {name: (*factors(layer), scale(layer)) for name, layer in layers.items()}
    drift = weight_drift(deltas, {name: base_weight(layer) for name, layer in layers.items()}, changes)
    for name, (a, b, by) in deltas.items():
        change, weight = by * (b @ a).detach(), base_weight(layers[name]).float()
        if name in changes:
            change = torch.cat([change, changes[name][0].unsqueeze(1)], dim=1)
            weight = torch.cat([weight, changes[name][1].float().unsqueeze(1)], dim=1)
        assert drift[name] == pytest.approx(float(change.norm() / weight.norm()), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "fused"),
    [("qwen2", True), ("qwen2", False), ("gpt2", False)],
    ids=["qwen2 in the lean decoder", "qwen2", "gpt2"],
)
def test_they_are_served(name: str, fused: bool, tmp_path: Path) -> None:
    base = _made(name)
    with_biases, without = _adapted(base), _adapted(base, biases=False)
    save_adapter(with_biases, tmp_path / "with")
    save_adapter(without, tmp_path / "without")
    runner: Runner = FusedRunner(FusedDecoder(base)) if fused else ModuleRunner(base)
    device = torch.device("cpu")
    for owner, directory in ((1, None), (2, tmp_path / "with"), (3, tmp_path / "without")):
        runner.add(owner, directory)

    for owner, model in ((1, base), (2, with_biases), (3, without)):
        found, expected = probe(runner, owner, PROBE, device), probe_logits(model, PROBE)
        others = [probe_logits(other, PROBE) for other in (base, with_biases, without) if other is not model]
        assert probe_difference(found, expected) < 0.02
        assert min(probe_difference(found, other) for other in others) > 0.1
    assert runner.holds(2, tmp_path / "with")
    assert not runner.holds(2, tmp_path / "without")
    _swap_one_bias(tmp_path / "with")
    assert not runner.holds(2, tmp_path / "with")


def _swap_one_bias(directory: Path) -> None:
    """The last bit of one saved bias is another one."""
    from safetensors.torch import load_file, save_file

    weights = load_file(directory / WEIGHTS_FILE)
    name = next(name for name in sorted(weights) if name.endswith(".bias"))
    weights[name][-1] = torch.nextafter(weights[name][-1], torch.tensor(1.0))
    save_file(weights, directory / WEIGHTS_FILE, metadata={"format": "pt"})
