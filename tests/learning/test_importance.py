"""Each kind of Fisher against per-token and per-sequence computations on tiny models."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from selflearn.config import LearningSettings
from selflearn.errors import ConfigurationError
from selflearn.learning.importance import (
    Importance,
    Kind,
    accumulated,
    covers,
    estimate,
    kind_of,
    load_importance,
    normalised,
    sample_labels,
    save_importance,
)
from selflearn.learning.penalties import Dense, Diagonal, Factors, LayerImportance, LowRank, bias_fisher
from selflearn.learning.reference import fisher_rows, importance_at_start
from selflearn.learning.regularisers import low_rank
from selflearn.models.adapter import attach_new, base_weight, factors, lora_layers
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.forward import TokenSequence, collate, response_logits, token_losses
from tests.conftest import tiny_tokenizer

SEQUENCES = [TokenSequence((5, 9, 30, 31, 40, 41), 3), TokenSequence((7, 8, 9, 50), 2)]


@pytest.fixture
def base(tiny_model: Path) -> LoadedBase:
    loaded = load_base(tiny_model, device="cpu", dtype="float32")
    attach_new(loaded.model, rank=2, alpha=4.0, seed=0)
    return loaded


def by_hand(base: LoadedBase, name: str) -> tuple[Tensor, Tensor]:
    """E[δ_i²] and E[x_j²] of one layer, sequence by sequence and without padding, with the same sampled labels."""
    generator = torch.Generator().manual_seed(3)
    batch = collate(sorted(SEQUENCES, key=lambda s: -len(s.ids)), base.device, share_prefix=False)
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
        single = collate([sequence], base.device, share_prefix=False)
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

    layer = found[name]
    assert isinstance(layer, Factors)
    torch.testing.assert_close(layer.output, output, rtol=1e-4, atol=1e-10)
    torch.testing.assert_close(layer.input, inputs, rtol=1e-4, atol=1e-10)


def test_every_trained_layer_is_covered_and_nothing_is_left_behind(base: LoadedBase) -> None:
    found = estimate(base.model, SEQUENCES, device=base.device, generator=torch.Generator().manual_seed(0))

    assert set(found) == set(lora_layers(base.model))
    for name, layer in lora_layers(base.model).items():
        assert tuple(outer(found[name]).shape) == tuple(base_weight(layer).shape)
    assert all(parameter.grad is None for parameter in base.model.parameters())


def test_labels_come_from_the_models_own_distribution() -> None:
    logits = torch.log(torch.tensor([0.7, 0.2, 0.1])).expand(20_000, 3)
    drawn = sample_labels(logits, torch.Generator().manual_seed(0))

    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.2, 0.1]), atol=0.02, rtol=0.0)


def per_sequence_squares(base: LoadedBase, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean over SEQUENCES of the squared gradient of each tensor, with a backward pass for each sequence."""
    generator = torch.Generator().manual_seed(3)
    rows = sorted(SEQUENCES, key=lambda s: -len(s.ids))
    batch = collate(rows, base.device, share_prefix=False)
    labels = sample_labels(response_logits(base.model, batch), generator).masked_fill(~batch.mask, -1)
    sums = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    for row, sequence in enumerate(rows):
        single = collate([sequence], base.device, share_prefix=False)
        wanted = labels[row, -sequence.response_length :].unsqueeze(0)
        loss = token_losses(response_logits(base.model, single), wanted).sum()
        for name, gradient in zip(tensors, torch.autograd.grad(loss, list(tensors.values())), strict=True):
            sums[name] += gradient.square() / len(rows)
    return sums


def estimated(base: LoadedBase, kind: Kind) -> Importance:
    return estimate(base.model, SEQUENCES, kind=kind, device=base.device, generator=torch.Generator().manual_seed(3))


def with_trained_b(base: LoadedBase) -> LoadedBase:
    for number, layer in enumerate(lora_layers(base.model).values()):
        with torch.no_grad():
            torch.nn.init.normal_(factors(layer)[1], std=0.1, generator=torch.Generator().manual_seed(number))
    return base


def test_the_dense_one_is_the_squared_gradient_of_w_by_sequence(base: LoadedBase) -> None:
    weights = {name: base_weight(layer).requires_grad_() for name, layer in lora_layers(base.model).items()}
    expected = per_sequence_squares(base, weights)
    for weight in weights.values():
        weight.requires_grad_(False)
    found = estimated(base, "dense")

    assert set(found) == set(expected)
    for name, layer in found.items():
        assert isinstance(layer, Dense)
        torch.testing.assert_close(layer.weight, expected[name], rtol=1e-3, atol=1e-10)


def test_the_diagonal_one_is_the_squared_gradient_of_a_and_b_by_sequence(base: LoadedBase) -> None:
    sides = {"a": 0, "b": 1}
    layers = lora_layers(with_trained_b(base).model)
    expected = per_sequence_squares(
        base, {f"{name}.{side}": factors(layer)[at] for name, layer in layers.items() for side, at in sides.items()}
    )
    found = estimated(base, "diagonal")

    for name in layers:
        for side in sides:
            torch.testing.assert_close(
                getattr(found[name], side), expected[f"{name}.{side}"], rtol=1e-3, atol=1e-10, msg=f"{name}.{side}"
            )


def test_where_b_is_zero_the_diagonal_one_leaves_a_free(base: LoadedBase) -> None:
    for layer in estimated(base, "diagonal").values():
        assert isinstance(layer, Diagonal)
        assert float(layer.a.abs().max()) == 0.0
        assert float(layer.b.max()) > 0.0


@pytest.mark.parametrize("name", [f"model.layers.0.self_attn.{part}_proj" for part in "qkv"])
def test_factored_and_dense_agree_where_there_is_one_token(base: LoadedBase, name: str) -> None:
    """The prompt is one token and so is the answer, the same one: the first layer has a single input, and a single
    gradient, since nothing is predicted from the answer."""
    found: dict[str, LayerImportance] = {}
    kinds: tuple[Kind, ...] = ("factored", "dense")
    for kind in kinds:
        generator = torch.Generator().manual_seed(3)
        rows = [TokenSequence((7, 7), 1)]
        found[kind] = estimate(base.model, rows, kind=kind, device=base.device, generator=generator)[name]
    factored, dense = found["factored"], found["dense"]
    assert isinstance(factored, Factors)
    assert isinstance(dense, Dense)

    torch.testing.assert_close(2.0 * torch.outer(factored.output, factored.input), dense.weight, rtol=1e-4, atol=1e-12)


def test_biases_are_weighed_too(tmp_path: Path) -> None:
    base = with_biases(tmp_path)
    named = dict(base.model.named_parameters())
    attention = [name for name in lora_layers(base.model) if name.endswith(("q_proj", "k_proj", "v_proj"))]
    biases: dict[str, Tensor] = {name: named[f"{name}.base_layer.bias"].requires_grad_() for name in attention}
    expected = per_sequence_squares(base, biases)
    kinds: tuple[Kind, ...] = ("dense", "diagonal")
    for kind in kinds:
        found = estimated(base, kind)
        for name in biases:
            fisher = bias_fisher(found[name])
            assert fisher is not None
            torch.testing.assert_close(fisher, expected[name], rtol=1e-3, atol=1e-10)
    factored = estimated(base, "factored")["model.layers.0.self_attn.q_proj"]
    assert isinstance(factored, Factors)
    assert factored.constant is not None
    assert float(factored.constant) == 1.0  # what the bias is multiplied with: F = E[δ²]·1


def with_biases(directory: Path) -> LoadedBase:
    """A tiny Qwen2, whose attention has biases, with an adapter that trains them."""
    config = Qwen2Config(
        vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config).eval().requires_grad_(False)
    attach_new(model, rank=2, alpha=4.0, seed=0, biases=True)
    return LoadedBase("tiny", directory, "0" * 64, model, tiny_tokenizer(), torch.device("cpu"))


def test_a_dense_one_of_a_large_model_is_refused_before_it_is_made() -> None:
    with torch.device("meta"):
        config = LlamaConfig(
            vocab_size=8, hidden_size=2048, intermediate_size=8192, num_hidden_layers=1, num_attention_heads=8
        )
        model = LlamaForCausalLM(config)
    attach_new(model, rank=1, alpha=1.0, seed=0)
    with pytest.raises(ConfigurationError, match=r"67 million weights.*at most 32 million\. Set learning\.ewc"):
        estimate(model, SEQUENCES, kind="dense", device=torch.device("meta"), generator=torch.Generator())


def two_layers() -> Importance:
    return {
        "small": Factors(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0]), torch.tensor(1.0)),
        "large": Factors(torch.full((10,), 100.0), torch.full((20,), 7.0), torch.tensor(1.0)),
    }


def outer(layer: LayerImportance) -> Tensor:
    assert isinstance(layer, Factors)
    return torch.outer(layer.output, layer.input)


def other_kinds() -> dict[Kind, Importance]:
    return {
        "dense": {
            "one": Dense(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([5.0, 6.0])),
            "two": Dense(torch.tensor([[10.0]]), torch.tensor([7.0])),
        },
        "diagonal": {"one": Diagonal(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [14.0]]), torch.tensor([5.0]))},
    }


def test_normalising_makes_the_mean_over_all_weights_one_and_keeps_ratios() -> None:
    scaled = normalised(two_layers())
    dense = torch.cat([outer(f).flatten() for f in scaled.values()])

    assert float(dense.mean()) == pytest.approx(1.0, rel=1e-5)
    before = torch.cat([outer(f).flatten() for f in two_layers().values()])
    torch.testing.assert_close(dense / dense[0], before / before[0])
    bias = bias_fisher(scaled["small"])
    assert bias is not None
    torch.testing.assert_close(bias / dense[0], torch.tensor([1.0, 2.0]) / before[0])


def test_normalising_the_other_kinds() -> None:
    dense = normalised(other_kinds()["dense"])["one"]
    assert isinstance(dense, Dense)
    torch.testing.assert_close(dense.weight, torch.tensor([[1.0, 2.0], [3.0, 4.0]]) / 4.0)  # the mean of 1 2 3 4 10
    torch.testing.assert_close(dense.bias, torch.tensor([5.0, 6.0]) / 4.0)
    diagonal = normalised(other_kinds()["diagonal"])["one"]
    assert isinstance(diagonal, Diagonal)
    torch.testing.assert_close(diagonal.b, torch.tensor([[3.0], [14.0]]) / 5.0)


def test_normalising_refuses_what_is_not_a_positive_number() -> None:
    for broken in (0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected a positive finite number"):
            normalised({"layer": Factors(torch.full((2,), broken), torch.ones(3))})


def test_accumulating_adds_to_what_decays() -> None:
    old, new = two_layers(), two_layers()
    new["small"] = Factors(torch.tensor([5.0, 2.0]), torch.tensor([3.0, 4.0, 5.0]), torch.tensor(1.0))
    mixed = accumulated(old, new, decay=0.5)["small"]

    assert isinstance(mixed, Factors)
    torch.testing.assert_close(mixed.output, torch.tensor([0.5 * 1.0 + 5.0, 0.5 * 2.0 + 2.0]))
    assert accumulated(None, new, 0.5) == new
    dense = accumulated(other_kinds()["dense"], other_kinds()["dense"], 0.9)["two"]
    assert isinstance(dense, Dense)
    torch.testing.assert_close(dense.weight, torch.tensor([[19.0]]))


def test_what_was_learned_fades_by_the_decay_and_not_faster() -> None:
    """After ten updates the first still counts with γ¹⁰ of the last."""
    first = {"layer": Dense(torch.tensor([[1.0, 0.0]]))}
    later = {"layer": Dense(torch.tensor([[0.0, 1.0]]))}
    known: Importance = dict(first)
    for _ in range(10):
        known = accumulated(known, later, decay=0.9)
    layer = known["layer"]
    assert isinstance(layer, Dense)

    assert float(layer.weight[0, 0]) == pytest.approx(0.9**10)
    assert float(layer.weight[0, 1]) == pytest.approx(sum(0.9**age for age in range(10)))


@pytest.mark.parametrize("importance", [two_layers(), *other_kinds().values()], ids=["factored", "dense", "diagonal"])
def test_it_survives_the_file(importance: Importance, tmp_path: Path) -> None:
    path = tmp_path / "importance.safetensors"
    save_importance(importance, path)
    loaded = load_importance(path, torch.device("cpu"))

    assert kind_of(loaded) == kind_of(importance)
    assert set(loaded) == set(importance)
    for name, layer in importance.items():
        for field in dataclasses.fields(layer):
            assert torch.equal(getattr(loaded[name], field.name), getattr(layer, field.name))


def test_a_file_of_the_first_release_is_factored(tmp_path: Path) -> None:
    save_file({"q.output": torch.ones(2), "q.input": torch.ones(3)}, tmp_path / "importance.safetensors")
    loaded = load_importance(tmp_path / "importance.safetensors", torch.device("cpu"))

    assert kind_of(loaded) == "factored"
    assert bias_fisher(loaded["q"]) is None


def test_an_update_starts_with_what_is_known_or_weighs_anew(base: LoadedBase) -> None:
    """Another kind than the parent's, or a bias that it did not know, cannot be taken over."""
    known, adapter = estimated(base, "factored"), low_rank(base.model)
    factored, diagonal = LearningSettings(), LearningSettings(ewc="diagonal")

    assert importance_at_start(base, adapter, factored, known, SEQUENCES, seed=0) is known
    anew = importance_at_start(base, adapter, diagonal, known, SEQUENCES, seed=0)
    assert kind_of(anew) == "diagonal"
    assert importance_at_start(base, adapter, diagonal, anew, SEQUENCES, seed=0) is anew
    a, b, old = (next(iter(adapter.values())).a, next(iter(adapter.values())).b, dict(known))
    old["model.layers.0.self_attn.q_proj"] = Factors(torch.ones(64), torch.ones(64))
    biased = {**adapter, "model.layers.0.self_attn.q_proj": LowRank(a, b, 1.0, torch.zeros(64))}
    assert covers(old, "factored", adapter)
    assert not covers(old, "factored", biased)
    assert not covers(anew, "diagonal", {"model.layers.0.self_attn.q_proj": LowRank(torch.ones(9, 64), b, 1.0)})


def test_half_of_what_is_looked_at_was_learned() -> None:
    learned = [TokenSequence((n, n), 1) for n in range(10)]
    anchors = [TokenSequence((50 + n, 1), 1) for n in range(10)]
    firsts = [row.ids[0] for row in fisher_rows(learned, anchors, 8)]

    assert firsts == [0, 2, 5, 7, 50, 51, 52, 53]
    assert [row.ids[0] for row in fisher_rows([], anchors, 3)] == [50, 51, 52]
    assert [row.ids[0] for row in fisher_rows(learned[:1], anchors, 4)] == [0, 50, 51, 52]
