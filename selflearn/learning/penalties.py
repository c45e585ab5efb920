"""Elastic weight consolidation for LoRA: what it costs to move away from the reference, by the kind of Fisher.

A LoRA layer changes its weight by ΔW = s·B·A. A penalty on A and B apart depends on how the product happens to be
split; what the model computes does not. So the penalty acts on ΔW, weighted by the diagonal Fisher information F of W:

    penalty = (λ/2) · Σ_ij F_ij (ΔW − ΔW*)_ij²                      (Kirkpatrick et al. 2017, eq. 3, on ΔW)

With F_ij ≈ g_i·a_j (:class:`Factors`, see :mod:`selflearn.learning.importance`) no matrix of the size of W is ever
made. ΔW − ΔW* equals s·M with M = D·E for D = [B − B*, B*] and E = [A; A − A*], and the sum is
s²·Σ (Dᵀ diag(g) D) ∘ (E diag(a) Eᵀ), in O((d_in + d_out)·r²) time. D and E are written with differences so that the
penalty is exactly 0 at the reference instead of the difference of two large numbers.

For comparison there are the full diagonal of each W (:class:`Dense`: O(d_in·d_out)) and the textbook's penalty on A and
B apart (:class:`Diagonal`). Avalanche's EWC plugin leaves out the 1/2: its λ is half of this one.

Every function works on one layer, or on many of one shape at once: a leading dimension more on every tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, slots=True)
class Factors:
    """The factored Fisher of one layer: F_ij ≈ ``output[i]``·``input[j]``; fp32 [d_out] and [d_in], not negative.

    ``constant`` [] is the input of a bias, E[1²], scaled as ``input`` is: F of the bias is ``output``·``constant``.
    """

    output: Tensor
    input: Tensor
    constant: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Dense:
    """The full diagonal Fisher of one layer: of W as ``weight`` [d_out, d_in], of its bias as ``bias`` [d_out]."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Diagonal:
    """The diagonal Fisher of A and B apart: ``a`` [r, d_in], ``b`` [d_out, r], and ``bias`` [d_out]."""

    a: Tensor
    b: Tensor
    bias: Tensor | None = None


LayerImportance = Factors | Dense | Diagonal


@dataclass(frozen=True, slots=True)
class LowRank:
    """One layer's adapter: ΔW = ``scale``·``b``@``a`` with ``a`` [r, d_in] and ``b`` [d_out, r].

    ``bias`` [d_out] times ``scale`` is what was added to the base's bias; None where it does not train.
    """

    a: Tensor
    b: Tensor
    scale: float
    bias: Tensor | None = None


def _aligned(current: LowRank, reference: LowRank) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A, B, A* and B* of one rank and one scale. Rows that only one of them has are zeros in the other.

    So an adapter that grew by rows with B = 0 is exactly at its reference still.
    """
    rank = max(current.a.shape[-2], reference.a.shape[-2])
    (a, b), (a_star, b_star) = _of_rank(current, rank), _of_rank(reference, rank)
    ratio = reference.scale / current.scale
    return a, b, a_star, b_star if ratio == 1.0 else ratio * b_star


def _of_rank(layer: LowRank, rank: int) -> tuple[Tensor, Tensor]:
    missing = rank - layer.a.shape[-2]
    if missing == 0:
        return layer.a, layer.b
    return torch.nn.functional.pad(layer.a, (0, 0, 0, missing)), torch.nn.functional.pad(layer.b, (0, missing))


def layer_penalty(current: LowRank, reference: LowRank | None, importance: LayerImportance) -> Tensor:
    """Σ F (θ − θ*)² [...] of what the layer trains, its bias included; without λ/2. ``reference`` None is the base.

    Raises ValueError where the importance does not cover what is trained.
    """
    match importance:
        case Factors():
            weights = factored_penalty(current, reference, importance)
        case Dense():
            weights = dense_penalty(current, reference, importance.weight)
        case Diagonal():
            weights = diagonal_penalty(current, reference, importance)
    if current.bias is None:
        return weights
    fisher = bias_fisher(importance)
    if fisher is None:
        raise ValueError("a bias is trained whose importance is unknown; estimate the importance anew")
    return weights + (fisher * _bias_difference(current, current.bias, reference).square()).sum(dim=-1)


def factored_penalty(current: LowRank, reference: LowRank | None, factors: Factors) -> Tensor:
    """[...] s²·Σ_ij g_i·a_j·M_ij², differentiable with respect to ``current``."""
    return _product_distance(current, reference, factors.output.unsqueeze(-1), factors.input.unsqueeze(-2))


def dense_penalty(current: LowRank, reference: LowRank | None, fisher: Tensor) -> Tensor:
    """The same with a full Fisher diagonal [d_out, d_in]: O(d_in·d_out·r); for small models and as an oracle."""
    if reference is None:
        moved = current.b @ current.a
    else:
        a, b, a_star, b_star = _aligned(current, reference)
        moved = (b - b_star) @ a + b_star @ (a - a_star)
    return current.scale**2 * (fisher * moved.square()).sum(dim=(-2, -1))


def diagonal_penalty(current: LowRank, reference: LowRank | None, fisher: Diagonal) -> Tensor:
    """[...] Σ F_A (A − A*)² + Σ F_B (B − B*)²: Kirkpatrick's penalty on the parameters as they are.

    It has no meaning without a reference of the same shape: ΔW = 0 does not say where A was. Raises ValueError.
    """
    if reference is None or reference.a.shape != current.a.shape or fisher.a.shape != current.a.shape:
        shapes = [None if layer is None else tuple(layer.a.shape) for layer in (current, reference, fisher)]
        raise ValueError(f"current, reference and Fisher have A of shapes {shapes}; expected three of one shape")
    of_a = (fisher.a * (current.a - reference.a).square()).sum(dim=(-2, -1))
    return of_a + (fisher.b * (current.b - reference.b).square()).sum(dim=(-2, -1))


def squared_distance(current: LowRank, reference: LowRank | None) -> Tensor:
    """[...] ‖ΔW − ΔW*‖_F² (and that of the biases): the factored penalty with a Fisher of ones, in O(d·r²)."""
    one = current.a.new_ones(())
    weights = _product_distance(current, reference, one, one)
    if current.bias is None:
        return weights
    return weights + _bias_difference(current, current.bias, reference).square().sum(dim=-1)


def _product_distance(current: LowRank, reference: LowRank | None, rows: Tensor, columns: Tensor) -> Tensor:
    """s²·Σ_ij rows_i·columns_j·M_ij² [...]; ``rows`` is broadcast over B, ``columns`` over A."""
    aligned = (current.a, current.b, None, None) if reference is None else _aligned(current, reference)
    distance: Tensor = _ProductDistance.apply(*aligned, rows, columns)  # type: ignore[no-untyped-call]
    return current.scale**2 * distance


class _ProductDistance(torch.autograd.Function):
    """Σ rows_i·columns_j·M_ij² [...] for M = B·A − B*·A* and its gradients in closed form: half of autograd's time.

    M = D·E for D = [B − B*, B*] and E = [A; A − A*], or D = B and E = A without a reference. So the sum is
    Σ (Dᵀ r D)∘(E c Eᵀ); its gradient with respect to B is 2·r D (E c Aᵀ), with respect to A it is 2·(Bᵀ r D) E c, where
    E c Aᵀ are the first columns of the one Gram matrix and Bᵀ r D is the sum of the other's two halves.
    """

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, a_star: Tensor | None, b_star: Tensor | None, rows: Tensor, columns: Tensor
    ) -> Tensor:
        rank = a.shape[-2]
        d = b if b_star is None else torch.cat([b - b_star, b_star], dim=-1)
        e = a if a_star is None else torch.cat([a, a - a_star], dim=-2)
        weighted_d, weighted_e = rows * d, e * columns
        gram_d, gram_e = d.mT @ weighted_d, weighted_e @ e.mT
        of_b_and_d = gram_d if b_star is None else gram_d[..., :rank, :] + gram_d[..., rank:, :]
        ctx.save_for_backward(2.0 * of_b_and_d @ weighted_e, weighted_d @ (2.0 * gram_e[..., :rank]))
        return (gram_d * gram_e).sum(dim=(-2, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_a, of_b = ctx.saved_tensors
        each = gradient[..., None, None]
        return each * of_a, each * of_b, None, None, None, None


def overlap(a: Tensor, frozen: int) -> Tensor:
    """[...] Σ (A_old A_newᵀ)² of the first ``frozen`` rows of A [..., r, d_in] with the others.

    Wang et al. 2023 (O-LoRA), eq. 8; their code sums absolute values instead of squares.
    """
    return (a[..., :frozen, :] @ a[..., frozen:, :].mT).square().sum(dim=(-2, -1))


def bias_fisher(importance: LayerImportance) -> Tensor | None:
    """[d_out] the diagonal Fisher of a layer's bias, None where it is unknown."""
    if isinstance(importance, Factors):
        return None if importance.constant is None else importance.output * importance.constant.unsqueeze(-1)
    return importance.bias


def _bias_difference(current: LowRank, bias: Tensor, reference: LowRank | None) -> Tensor:
    """What the base's bias plus ``scale``·``bias`` differs by from the reference's."""
    if reference is None or reference.bias is None:
        return current.scale * bias
    return current.scale * (bias - reference.bias * (reference.scale / current.scale))
