"""The factored Fisher against per-token computations on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from selflearn.learning.importance import (
    Importance,
    accumulated,
    estimate,
    load_importance,
    normalised,
    sample_labels,
    save_importance,
)
from selflearn.learning.penalties import Factors
from selflearn.models.adapter import attach_new, base_weight, lora_layers
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.forward import TokenSequence, collate, response_logits, token_losses

SEQUENCES = [TokenSequence((5, 9, 30, 31, 40, 41), 3), TokenSequence((7, 8, 9, 50), 2)]


@pytest.fixture
def base(tiny_model: Path) -> LoadedBase:
    loaded = load_base(tiny_model, device="cpu", dtype="float32")
    attach_new(loaded.model, rank=2, alpha=4.0, seed=0)
    return loaded


def by_hand(base: LoadedBase, name: str) -> tuple[Tensor, Tensor]:
    """E[δ_i²] and E[x_j²] of one layer, sequence by sequence and without padding, with the same sampled labels."""
    generator = torch.Generator().manual_seed(3)
    batch = collate(sorted(SEQUENCES, key=lambda s: -len(s.ids)), base.device)
    labels = sample_labels(response_logits(base.model, batch), generator).masked_fill(~batch.mask, -1)
    layer = base.model.get_submodule(name)
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    for row, sequence in enumerate(sorted(SEQUENCES, key=lambda s: -len(s.ids))):
        kept: list[Tensor] = []

        def keep(_: object, given: tuple[Tensor, ...], output: Tensor, kept: list[Tensor] = kept) -> None:
            inputs.append(given[0].detach()[0])
            output.retain_grad()
            kept.append(output)

        handle = layer.register_forward_hook(keep)
        single = collate([sequence], base.device)
        wanted = labels[row, -sequence.response_length :].unsqueeze(0)
        token_losses(response_logits(base.model, single), wanted).sum().backward()
        handle.remove()
        gradient = kept[0].grad
        assert gradient is not None
        outputs.append(gradient[0])
    return torch.cat(outputs).square().mean(dim=0), torch.cat(inputs).square().mean(dim=0)


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"])
def test_it_equals_the_moments_computed_token_by_token(base: LoadedBase, name: str) -> None:
    found = estimate(base.model, SEQUENCES, device=base.device, generator=torch.Generator().manual_seed(3))
    output, inputs = by_hand(base, name)

    torch.testing.assert_close(found[name].output, output, rtol=1e-4, atol=1e-10)
    torch.testing.assert_close(found[name].input, inputs, rtol=1e-4, atol=1e-10)


def test_every_trained_layer_is_covered_and_nothing_is_left_behind(base: LoadedBase) -> None:
    found = estimate(base.model, SEQUENCES, device=base.device, generator=torch.Generator().manual_seed(0))

    assert set(found) == set(lora_layers(base.model))
    for name, layer in lora_layers(base.model).items():
        assert (len(found[name].output), len(found[name].input)) == tuple(base_weight(layer).shape)
    assert all(parameter.grad is None for parameter in base.model.parameters())


def test_labels_come_from_the_models_own_distribution() -> None:
    logits = torch.log(torch.tensor([0.7, 0.2, 0.1])).expand(20_000, 3)
    drawn = sample_labels(logits, torch.Generator().manual_seed(0))

    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.2, 0.1]), atol=0.02, rtol=0.0)


def two_layers() -> Importance:
    return {
        "small": Factors(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0])),
        "large": Factors(torch.full((10,), 100.0), torch.full((20,), 7.0)),
    }


def test_normalising_makes_the_mean_over_all_weights_one_and_keeps_ratios() -> None:
    scaled = normalised(two_layers())
    dense = torch.cat([torch.outer(f.output, f.input).flatten() for f in scaled.values()])

    assert float(dense.mean()) == pytest.approx(1.0, rel=1e-5)
    before = torch.cat([torch.outer(f.output, f.input).flatten() for f in two_layers().values()])
    torch.testing.assert_close(dense / dense[0], before / before[0])


def test_normalising_refuses_what_is_not_a_positive_number() -> None:
    with pytest.raises(ValueError, match="expected a positive finite number"):
        normalised({"layer": Factors(torch.zeros(2), torch.ones(3))})


def test_accumulating_averages_with_decay() -> None:
    old, new = two_layers(), two_layers()
    new["small"] = Factors(torch.tensor([5.0, 2.0]), new["small"].input)
    mixed = accumulated(old, new, decay=0.5)

    torch.testing.assert_close(mixed["small"].output, torch.tensor([(0.5 * 1.0 + 5.0) / 1.5, 2.0]))
    torch.testing.assert_close(mixed["large"].output, old["large"].output)
    assert accumulated(None, new, 0.5) is new


def test_it_survives_the_file(tmp_path: Path) -> None:
    save_importance(two_layers(), tmp_path / "importance.safetensors")
    loaded = load_importance(tmp_path / "importance.safetensors", torch.device("cpu"))

    assert set(loaded) == {"small", "large"}
    assert torch.equal(loaded["small"].input, two_layers()["small"].input)
