"""Each optimizer against its paper's arithmetic in float64, the rates of its groups, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selflearn.config import LearningSettings, load
from selflearn.errors import ConfigurationError
from selflearn.learning.optimizers import make_optimizer, set_rate
from selflearn.learning.penalties import LowRank

NAMES = ("adamw", "adam", "rmsprop", "sgd", "lamb")
RATE, MOMENTUM, SECOND, DECAY = 0.05, 0.8, 0.99, 0.1
STEPS = 4

Step = Callable[[Tensor, Tensor, dict[str, Tensor], int], Tensor]


def layer(seed: int = 0, bias: bool = False) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    a, b = (nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((2, 5), (3, 2)))
    return LowRank(a, b, 2.0, nn.Parameter(torch.zeros(3)) if bias else None)


def settings(**changed: Any) -> LearningSettings:
    given = {"learning_rate": RATE, "momentum": MOMENTUM, "weight_decay": DECAY, **changed}
    return LearningSettings(**given)


def gradients(like: Tensor, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(like.shape, generator=generator) for _ in range(STEPS)]


def moments(gradient: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The running means of the gradient and of its square, from zero."""
    state["m"] = MOMENTUM * state.get("m", torch.zeros_like(gradient)) + (1 - MOMENTUM) * gradient
    state["v"] = SECOND * state.get("v", torch.zeros_like(gradient)) + (1 - SECOND) * gradient**2
    return state["m"], state["v"]


def adam_direction(gradient: Tensor, state: dict[str, Tensor], step: int) -> Tensor:
    m, v = moments(gradient, state)
    direction: Tensor = (m / (1 - MOMENTUM**step)) / ((v / (1 - SECOND**step)).sqrt() + 1e-8)
    return direction


def adamw(weight: Tensor, gradient: Tensor, state: dict[str, Tensor], step: int) -> Tensor:
    return weight * (1 - RATE * DECAY) - RATE * adam_direction(gradient, state, step)


def adam(weight: Tensor, gradient: Tensor, state: dict[str, Tensor], step: int) -> Tensor:
    return weight - RATE * adam_direction(gradient + DECAY * weight, state, step)


def rmsprop(weight: Tensor, gradient: Tensor, state: dict[str, Tensor], step: int) -> Tensor:
    del step
    gradient = gradient + DECAY * weight
    _, v = moments(gradient, state)
    state["speed"] = MOMENTUM * state.get("speed", torch.zeros_like(weight)) + gradient / (v.sqrt() + 1e-8)
    return weight - RATE * state["speed"]


def sgd(weight: Tensor, gradient: Tensor, state: dict[str, Tensor], step: int) -> Tensor:
    gradient = gradient + DECAY * weight
    state["speed"] = gradient if step == 1 else MOMENTUM * state["speed"] + gradient
    return weight - RATE * state["speed"]


def lamb(weight: Tensor, gradient: Tensor, state: dict[str, Tensor], step: int) -> Tensor:
    del step
    m, v = moments(gradient, state)
    direction = m / (v.sqrt() + 1e-6) + DECAY * weight
    ratio = float(weight.norm() / (direction.norm() + 1e-6))
    return weight - RATE * ratio * direction


@pytest.mark.parametrize("by_hand", [adamw, adam, rmsprop, sgd, lamb], ids=lambda step: step.__name__)
def test_its_steps_are_those_of_its_paper(by_hand: Step) -> None:
    one = layer()
    expected = [part.detach().double() for part in (one.a, one.b)]
    states: list[dict[str, Tensor]] = [{}, {}]
    optimizer = make_optimizer({"q": one}, settings(optimizer=by_hand.__name__))
    drawn = [gradients(one.a, 1), gradients(one.b, 2)]
    for step in range(STEPS):
        for index, part in enumerate((one.a, one.b)):
            part.grad = drawn[index][step].clone()
            expected[index] = by_hand(expected[index], drawn[index][step].double(), states[index], step + 1)
        optimizer.step()

    for part, by_formula in zip((one.a, one.b), expected, strict=True):
        torch.testing.assert_close(part.detach().double(), by_formula, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_ratio_of_the_rates_survives_the_schedule(name: str) -> None:
    one = layer()
    optimizer = make_optimizer({"q": one}, settings(optimizer=name, lora_plus_ratio=8.0))
    for factor in (1.0, 0.25, 0.5):
        set_rate(optimizer, factor)
        rates = {id(part): group["lr"] for group in optimizer.param_groups for part in group["params"]}
        assert rates[id(one.a)] == pytest.approx(factor * RATE)
        assert rates[id(one.b)] == pytest.approx(factor * RATE * 8.0)


def test_the_rate_that_was_set_is_the_one_that_it_steps_with() -> None:
    one = layer()
    before = one.a.detach().clone()
    optimizer = make_optimizer({"q": one}, settings(optimizer="sgd", momentum=0.0, weight_decay=0.0))
    set_rate(optimizer, 0.5)
    one.a.grad = torch.ones_like(one.a)
    optimizer.step()

    torch.testing.assert_close(before - one.a.detach(), torch.full_like(before, 0.5 * RATE))


@pytest.mark.parametrize("name", NAMES)
def test_biases_learn_with_the_rate_of_a_and_what_is_fixed_stays(name: str) -> None:
    free, fixed = layer(1, bias=True), layer(2, bias=True)
    parts = [part for part in (free.a, free.b, free.bias, fixed.a, fixed.b, fixed.bias) if part is not None]
    for part in parts:
        part.grad = torch.ones_like(part)
    for part in parts[3:]:
        part.requires_grad_(False)
    before = [part.detach().clone() for part in parts]
    optimizer = make_optimizer({"q": free, "o": fixed}, settings(optimizer=name, lora_plus_ratio=4.0))
    optimizer.step()

    moved = [not torch.equal(part, old) for part, old in zip(parts, before, strict=True)]
    assert moved == [True] * 3 + [False] * 3
    rates = {id(part): group["lr"] for group in optimizer.param_groups for part in group["params"]}
    assert rates[id(free.bias)] == RATE


def test_lamb_without_its_extra_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(optimizer="lamb")
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)  # what an import finds where it is not installed

    with pytest.raises(ConfigurationError, match=r"selflearn\[optimizers\]"):
        make_optimizer({"q": layer()}, chosen)
    with pytest.raises(ConfigurationError, match=r"learning: .*selflearn\[optimizers\]"):
        load(learning={"optimizer": "lamb"})
    assert load(learning={"optimizer": "sgd"}).learning.optimizer == "sgd"


def test_biases_are_refused_where_vllm_serves() -> None:
    with pytest.raises(ConfigurationError, match=r"learning\.biases is on, but vLLM"):
        load(learning={"biases": True}, serving={"engine": "vllm"})
    assert load(learning={"biases": True}).learning.biases
