"""Each penalty against dense computations on small matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from selflearn.learning.penalties import (
    Dense,
    Diagonal,
    Factors,
    LowRank,
    dense_penalty,
    diagonal_penalty,
    factored_penalty,
    layer_penalty,
    overlap,
    squared_distance,
)

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


REFERENCES = {
    "base": None,
    "parent": layer(50),
    "parent of a higher rank": layer(60, rank=5),
    "parent of a lower rank": layer(65, rank=1),
    "parent of another scale": layer(70, scale=0.5),
}
referred = pytest.mark.parametrize("reference", REFERENCES.values(), ids=REFERENCES.keys())


@referred
def test_it_equals_the_dense_computation(reference: LowRank | None) -> None:
    current, importance = layer(1), factors()
    fisher = torch.outer(importance.output, importance.input)
    expected = by_definition(current, reference, fisher)

    torch.testing.assert_close(factored_penalty(current, reference, importance), expected, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(dense_penalty(current, reference, fisher), expected, rtol=1e-9, atol=0.0)
    of_ones = by_definition(current, reference, torch.ones_like(fisher))
    torch.testing.assert_close(squared_distance(current, reference), of_ones, rtol=1e-9, atol=0.0)


@referred
def test_its_gradients_equal_the_dense_ones(reference: LowRank | None) -> None:
    importance = factors()
    fisher = torch.outer(importance.output, importance.input)
    current = LowRank(layer(1).a.requires_grad_(), layer(1).b.requires_grad_(), SCALE)
    costs = 3.0 * factored_penalty(current, reference, importance), 3.0 * by_definition(current, reference, fisher)
    in_closed_form, dense = (torch.autograd.grad(cost, (current.a, current.b)) for cost in costs)
    for found, expected in zip(in_closed_form, dense, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_many_layers_at_once_are_the_same_as_one_by_one() -> None:
    seeds = (1, 5, 9)

    def stacked(offset: int) -> LowRank:
        layers = [layer(seed + offset) for seed in seeds]
        return LowRank(torch.stack([one.a for one in layers]), torch.stack([one.b for one in layers]), SCALE)

    outputs, inputs = [factors(seed).output for seed in seeds], [factors(seed).input for seed in seeds]
    found = layer_penalty(stacked(0), stacked(50), Factors(torch.stack(outputs), torch.stack(inputs)))
    one_by_one = [layer_penalty(layer(seed), layer(seed + 50), factors(seed)) for seed in seeds]
    torch.testing.assert_close(found, torch.stack(one_by_one))


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


def test_the_diagonal_one_is_kirkpatricks_on_a_and_b() -> None:
    current, reference = layer(1), layer(50)
    fisher = Diagonal(draw(RANK, D_IN, seed=7).square(), draw(D_OUT, RANK, seed=8).square())
    expected = 0.0
    for name in ("a", "b"):  # as Avalanche's EWC plugin sums it, parameter by parameter
        expected += float((getattr(fisher, name) * (getattr(current, name) - getattr(reference, name)).pow(2)).sum())

    assert float(diagonal_penalty(current, reference, fisher)) == pytest.approx(expected)
    assert float(diagonal_penalty(current, current, fisher)) == 0.0


@pytest.mark.parametrize("reference", [None, layer(60, rank=5)], ids=["none", "another rank"])
def test_the_diagonal_one_refuses_a_reference_that_says_nothing_of_a_and_b(reference: LowRank | None) -> None:
    with pytest.raises(ValueError, match="expected three of one shape"):
        diagonal_penalty(layer(1), reference, Diagonal(layer(1).a, layer(1).b))


def test_a_bias_counts_as_the_weight_of_a_constant_input() -> None:
    factored, bias, before = factors(), draw(D_OUT, seed=5), draw(D_OUT, seed=6)
    known = Factors(factored.output, factored.input, torch.tensor(0.7, dtype=torch.float64))
    current = LowRank(layer(1).a, layer(1).b, SCALE, bias)
    reference = LowRank(layer(50).a, layer(50).b, 0.5, before)
    moved = SCALE * bias - 0.5 * before
    without = LowRank(current.a, current.b, SCALE)

    cost = layer_penalty(current, reference, known) - layer_penalty(without, reference, known)
    torch.testing.assert_close(cost, (0.7 * known.output * moved.square()).sum())
    distance = squared_distance(current, reference) - squared_distance(without, reference)
    torch.testing.assert_close(distance, moved.square().sum())
    dense = Dense(torch.outer(known.output, known.input), 0.7 * known.output)
    torch.testing.assert_close(layer_penalty(current, reference, dense), layer_penalty(current, reference, known))
    with pytest.raises(ValueError, match="whose importance is unknown"):
        layer_penalty(current, reference, factored)


def test_overlap_is_zero_for_orthogonal_rows_alone() -> None:
    rows = torch.linalg.qr(draw(D_IN, 5, seed=3)).Q.T

    assert float(overlap(rows, 3)) == pytest.approx(0.0, abs=1e-20)
    leaning = rows.clone()
    leaning[4] += 0.5 * rows[0] - 2.0 * rows[1]
    assert float(overlap(leaning, 3)) == pytest.approx(0.5**2 + 2.0**2)
    leaning[3] += leaning[4]  # new rows may lean on each other
    assert float(overlap(leaning[[3, 4]], 0)) == 0.0
