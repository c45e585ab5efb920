"""The factored product-space penalty against dense computations on small matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from selflearn.learning.penalties import Factors, LowRank, dense_penalty, factored_penalty, penalty

D_IN, D_OUT, RANK, SCALE = 11, 7, 3, 2.0


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(seed: int, rank: int = RANK, scale: float = SCALE) -> LowRank:
    return LowRank(draw(rank, D_IN, seed=seed), draw(D_OUT, rank, seed=seed + 1), scale)


def factors(seed: int = 100) -> Factors:
    return Factors(output=draw(D_OUT, seed=seed).square(), input=draw(D_IN, seed=seed + 1).square())


def delta(part: LowRank) -> Tensor:
    return part.scale * part.b @ part.a


def by_definition(current: LowRank, reference: LowRank | None, fisher: Tensor) -> Tensor:
    """Σ_ij F_ij (ΔW − ΔW*)_ij² with every matrix formed."""
    star = torch.zeros(D_OUT, D_IN, dtype=torch.float64) if reference is None else delta(reference)
    return (fisher * (delta(current) - star) ** 2).sum()


@pytest.mark.parametrize(
    "reference",
    [
        None,
        layer(50),
        layer(60, rank=5),
        layer(70, scale=0.5),
    ],
    ids=["base", "parent", "parent of another rank", "parent of another scale"],
)
def test_it_equals_the_dense_computation(reference: LowRank | None) -> None:
    current, importance = layer(1), factors()
    fisher = torch.outer(importance.output, importance.input)
    expected = by_definition(current, reference, fisher)

    torch.testing.assert_close(factored_penalty(current, reference, importance), expected, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(dense_penalty(current, reference, fisher), expected, rtol=1e-5, atol=0.0)


def test_its_gradients_equal_the_dense_ones() -> None:
    importance, reference = factors(), layer(50)
    fisher = torch.outer(importance.output, importance.input)
    gradients = []
    for compute in (
        lambda current: factored_penalty(current, reference, importance),
        lambda current: by_definition(current, reference, fisher),
    ):
        current = LowRank(layer(1).a.requires_grad_(), layer(1).b.requires_grad_(), SCALE)
        compute(current).backward()  # type: ignore[no-untyped-call]
        assert current.a.grad is not None
        assert current.b.grad is not None
        gradients.append((current.a.grad, current.b.grad))
    for factored, dense in zip(*gradients, strict=True):
        torch.testing.assert_close(factored, dense, rtol=1e-5, atol=1e-9)


def test_it_does_not_depend_on_how_the_product_is_split() -> None:
    current, reference, importance = layer(1), layer(50), factors()
    mix = draw(RANK, RANK, seed=9) + 3 * torch.eye(RANK, dtype=torch.float64)
    split_otherwise = LowRank(torch.linalg.solve(mix, current.a), current.b @ mix, SCALE)
    torch.testing.assert_close(delta(split_otherwise), delta(current))

    torch.testing.assert_close(
        factored_penalty(split_otherwise, reference, importance),
        factored_penalty(current, reference, importance),
        rtol=1e-5,
        atol=0.0,
    )


def test_it_is_exactly_zero_at_the_reference_and_positive_off_it_in_fp32() -> None:
    reference = LowRank(layer(50).a.float(), layer(50).b.float(), SCALE)
    importance = Factors(factors().output.float() + 0.1, factors().input.float() + 0.1)
    same = LowRank(reference.a.clone(), reference.b.clone(), SCALE)
    moved = LowRank(reference.a.clone(), reference.b + 1e-4, SCALE)

    assert float(factored_penalty(same, reference, importance)) == 0.0
    assert float(factored_penalty(moved, reference, importance)) > 0.0
    fresh = LowRank(reference.a, torch.zeros_like(reference.b), SCALE)
    assert float(factored_penalty(fresh, None, importance)) == 0.0


def test_the_sum_covers_every_trained_layer() -> None:
    current = {"one": layer(1), "two": layer(3)}
    importance = {"one": factors(100), "two": factors(200)}
    expected = 0.5 * 0.3 * sum(factored_penalty(current[name], None, importance[name]) for name in current)

    torch.testing.assert_close(penalty(current, {}, importance, 0.3), expected)
    with pytest.raises(KeyError, match="two"):
        penalty(current, {}, {"one": factors()}, 0.3)
