"""The pulls on the weights of real adapters, slow weights, and what meta-learning with them is worth."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from selflearn.config import LearningSettings, load
from selflearn.errors import ConfigurationError
from selflearn.learning.importance import Importance, Kind, estimate, normalised
from selflearn.learning.penalties import LowRank, layer_penalty, overlap
from selflearn.learning.regularisers import SlowWeights, frozen_copy, low_rank, weight_pulls
from selflearn.models.adapter import attach_new, factors, lora_layers, trained_biases
from selflearn.models.forward import TokenSequence

SEQUENCES = [TokenSequence((5, 9, 30, 31, 40, 41), 3), TokenSequence((7, 8, 9, 50), 2)]
OFF = LearningSettings(ewc_weight=0.0)
KINDS: tuple[Kind, ...] = ("factored", "dense", "diagonal")


@pytest.fixture
def model() -> PreTrainedModel:
    """A tiny Qwen2 with an adapter that has been trained a little, the biases of its attention too."""
    config = Qwen2Config(
        vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: PreTrainedModel = Qwen2ForCausalLM(config)
        made.eval().requires_grad_(False)
        attach_new(made, rank=3, alpha=6.0, seed=0, biases=True)
        for parameter in trainable(made):
            nn.init.normal_(parameter, std=0.1)
    return made


def trainable(model: PreTrainedModel) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def importance_of(model: PreTrainedModel, kind: Kind = "factored") -> Importance:
    generator = torch.Generator().manual_seed(0)
    return normalised(estimate(model, SEQUENCES, kind=kind, device=model.device, generator=generator))


def delta(layer: LowRank) -> Tensor:
    return layer.scale * layer.b @ layer.a


def moved(model: PreTrainedModel, by: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))


def test_only_what_is_switched_on_pulls(model: PreTrainedModel) -> None:
    adapter, importance = low_rank(model), importance_of(model)

    def names(frozen: int = 0, **changed: Any) -> set[str]:
        return set(weight_pulls(adapter, {}, importance, OFF.model_copy(update=changed), frozen=frozen))

    assert names() == set()
    assert names(ewc_weight=0.1) == {"ewc"}
    assert names(l2_weight=0.1) == {"l2"}
    assert names(orthogonal_weight=0.1) == set()  # the first update has nothing to be orthogonal to
    assert names(orthogonal_weight=0.1, frozen=1) == {"orthogonal"}
    assert names(ewc_weight=0.1, l2_weight=0.1, orthogonal_weight=0.1, frozen=2) == {"ewc", "l2", "orthogonal"}


@pytest.mark.parametrize("pull", [*KINDS, "l2"])
def test_it_is_zero_at_the_reference_and_moving_any_trained_tensor_costs(model: PreTrainedModel, pull: str) -> None:
    kind: Kind = "factored" if pull == "l2" else pull  # type: ignore[assignment]
    settings = OFF.model_copy(update={"l2_weight": 1.0} if pull == "l2" else {"ewc_weight": 1.0})
    adapter = low_rank(model)
    (cost,) = weight_pulls(adapter, frozen_copy(adapter), importance_of(model, kind), settings).values()

    assert float(cost().detach()) == 0.0
    tensors = trainable(model)
    assert len(tensors) == 2 * len(lora_layers(model)) + len(trained_biases(model))
    for parameter in tensors:
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(1e-3)
        assert float(cost().detach()) > 0.0
        with torch.no_grad():
            parameter.copy_(kept)
    assert float(cost().detach()) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_layers_together_are_the_sum_of_each(model: PreTrainedModel, kind: Kind) -> None:
    adapter, importance = low_rank(model), importance_of(model, kind)
    reference = frozen_copy(adapter)
    moved(model)
    pull = weight_pulls(adapter, reference, importance, OFF.model_copy(update={"ewc_weight": 0.3}))["ewc"]
    each = [layer_penalty(layer, reference[name], importance[name]) for name, layer in adapter.items()]

    together = torch.autograd.grad(pull(), trainable(model))
    apart = torch.autograd.grad(0.5 * 0.3 * torch.stack(each).sum(), trainable(model))
    torch.testing.assert_close(pull(), 0.5 * 0.3 * torch.stack(each).sum())
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_l2_is_the_squared_distance_of_products_and_biases(model: PreTrainedModel) -> None:
    adapter = low_rank(model)
    reference = frozen_copy(adapter)
    moved(model)
    pulls = weight_pulls(adapter, reference, {}, OFF.model_copy(update={"l2_weight": 0.5}))
    expected = torch.tensor(0.0)
    for name, layer in adapter.items():
        expected = expected + (delta(layer) - delta(reference[name])).square().sum()
        if layer.bias is not None:
            before = reference[name].bias
            assert before is not None
            expected = expected + (layer.scale * (layer.bias - before)).square().sum()

    torch.testing.assert_close(pulls["l2"](), 0.5 * expected)


def test_without_a_parent_the_base_is_the_reference(model: PreTrainedModel) -> None:
    adapter = low_rank(model)
    pull = weight_pulls(adapter, {}, {}, OFF.model_copy(update={"l2_weight": 1.0}))["l2"]
    biases = sum(layer.scale**2 * layer.bias.square().sum() for layer in adapter.values() if layer.bias is not None)

    torch.testing.assert_close(pull(), sum(delta(layer).square().sum() for layer in adapter.values()) + biases)


def test_the_diagonal_kind_starts_where_the_adapter_is(model: PreTrainedModel) -> None:
    """Over the base, B is zero: B is held there, while A has no importance and may go where it likes."""
    with torch.no_grad():
        for layer in lora_layers(model).values():
            factors(layer)[1].zero_()
    adapter = low_rank(model)
    pull = weight_pulls(adapter, {}, importance_of(model, "diagonal"), OFF.model_copy(update={"ewc_weight": 1.0}))

    assert float(pull["ewc"]().detach()) == 0.0
    with torch.no_grad():
        next(iter(adapter.values())).a.add_(1.0)
    assert float(pull["ewc"]().detach()) == 0.0
    with torch.no_grad():
        next(iter(adapter.values())).b.add_(1.0)
    assert float(pull["ewc"]().detach()) > 0.0


def test_a_layer_without_importance_is_an_error(model: PreTrainedModel) -> None:
    importance = importance_of(model)
    del importance["model.layers.1.mlp.down_proj"]
    with pytest.raises(KeyError, match=r"layers\.1\.mlp\.down_proj"):
        weight_pulls(low_rank(model), {}, importance, LearningSettings(ewc_weight=0.1))


def test_the_orthogonal_pull_separates_new_rows_from_old(model: PreTrainedModel) -> None:
    adapter = low_rank(model)
    pull = weight_pulls(adapter, {}, {}, OFF.model_copy(update={"orthogonal_weight": 0.5}), frozen=2)["orthogonal"]
    expected = sum(0.5 * overlap(layer.a, 2) for layer in adapter.values())

    torch.testing.assert_close(pull(), expected)
    optimizer = torch.optim.SGD(trainable(model), lr=0.2)
    before = float(pull().detach())
    for _ in range(50):
        optimizer.zero_grad()
        pull().backward()
        optimizer.step()
    assert float(pull().detach()) < 0.1 * before


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"orthogonal_weight": 0.5, "rank": 16, "max_rank": 16}, "raise max_rank"),
        ({"ewc": "diagonal", "orthogonal_weight": 0.5}, "set ewc to 'factored'"),
        ({"ewc": "diagonal", "keep_energy": 0.9}, "set ewc to 'factored'"),
        ({"replay_kl_weight": 0.5, "replay_share": 0.0}, "raise replay_share"),
        ({"self_replay": 4, "replay_share": 0.0}, "raise replay_share"),
        ({"slow_weights_rate": 0.0}, "learns nothing"),
    ],
)
def test_what_cannot_work_together_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        load(learning=changed)


def test_slow_weights_follow_by_a_share() -> None:
    weights = nn.Parameter(torch.tensor([0.0, 10.0]))
    slow = SlowWeights([weights], rate=0.5, steps=2)
    seen = []
    for step in range(4):
        with torch.no_grad():
            weights.add_(4.0)
        slow.after_step(step)
        seen.append(weights.tolist())

    assert seen == [[4.0, 14.0], [4.0, 14.0], [8.0, 18.0], [8.0, 18.0]]  # slow after steps 2 and 4: half of the way


def test_slow_weights_finish_an_inner_loop_that_is_not_over() -> None:
    weights = nn.Parameter(torch.tensor([1.0]))
    slow = SlowWeights([weights], rate=0.25, steps=8)
    for step in range(3):
        with torch.no_grad():
            weights.add_(4.0)
        slow.after_step(step)
    slow.finish()
    assert weights.tolist() == [4.0]
    slow.finish()  # nothing happened since
    assert weights.tolist() == [4.0]


def test_a_rate_of_one_changes_nothing() -> None:
    def trained(with_slow: bool) -> Tensor:
        weights = nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = torch.optim.AdamW([weights], lr=0.1)
        slow = SlowWeights([weights], rate=1.0, steps=2)
        for step in range(5):
            optimizer.zero_grad()
            weights.square().sum().backward()
            optimizer.step()
            if with_slow:
                slow.after_step(step)
        slow.finish()
        return weights.detach()

    assert torch.equal(trained(with_slow=True), trained(with_slow=False))


# Meta-learning: does a start that Reptile found adapt faster than one from joint training? (Nichol et al. 2018)

POINTS = torch.linspace(-5.0, 5.0, 50).unsqueeze(1)
Task = Callable[[Tensor], Tensor]


def some_sine(generator: torch.Generator) -> Task:
    amplitude, phase = torch.rand(2, generator=generator).tolist()
    return lambda x: (0.1 + 4.9 * amplitude) * torch.sin(x + 2.0 * math.pi * phase)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))


def learn(model: nn.Module, task: Task, generator: torch.Generator, slow: SlowWeights | None = None) -> None:
    """Eight steps of gradient descent on ten points of one task."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    points = POINTS[torch.randperm(len(POINTS), generator=generator)[:10]]
    for step in range(8):
        optimizer.zero_grad()
        (model(points) - task(points)).square().mean().backward()
        optimizer.step()
        if slow is not None:
            slow.after_step(step)


def reptile() -> nn.Module:
    """400 tasks, one after the other; the slow weights go 0.3 of the way to where each of them led."""
    model, generator = network(), torch.Generator().manual_seed(1)
    slow = SlowWeights(list(model.parameters()), rate=0.3, steps=8)
    for _ in range(400):
        learn(model, some_sine(generator), generator, slow)
    return model


def joint() -> nn.Module:
    """As many steps, each on ten points of four tasks at once."""
    model, generator = network(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    for _ in range(3200):
        points = POINTS[torch.randperm(len(POINTS), generator=generator)[:10]]
        targets = torch.stack([some_sine(generator)(points) for _ in range(4)])
        optimizer.zero_grad()
        (model(points) - targets).square().mean().backward()
        optimizer.step()
    return model


def error_after_adapting(start: nn.Module) -> float:
    generator, errors = torch.Generator().manual_seed(99), []
    for _ in range(20):
        model, task = copy.deepcopy(start), some_sine(generator)
        learn(model, task, generator)
        with torch.no_grad():
            errors.append(float((model(POINTS) - task(POINTS)).square().mean()))
    return sum(errors) / len(errors)


def test_reptile_finds_a_start_that_adapts_faster_than_joint_training_does() -> None:
    """The error on a new task after eight steps on ten of its points."""
    after_reptile = error_after_adapting(reptile())

    assert after_reptile < 0.5 * error_after_adapting(joint())
    assert after_reptile < 0.5 * error_after_adapting(network())
