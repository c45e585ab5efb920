"""Elastic weight consolidation for LoRA: what it costs to move a product B·A away from its reference.

A LoRA layer changes its weight by ΔW = s·B·A. A penalty on A and B apart depends on how the product happens to be
split; what the model computes does not. So the penalty acts on ΔW, weighted by the diagonal Fisher information F of W:

    penalty = (λ/2) · Σ_ij F_ij (ΔW − ΔW*)_ij²                      (Kirkpatrick et al. 2017, eq. 3, on ΔW)

With F_ij ≈ g_i·a_j (see :mod:`selflearn.learning.importance`) no matrix of the size of W is ever made: ΔW − ΔW* equals
s·D·E for D = [B − B*, B*] and E = [A; A − A*], and the sum is s²·Σ (Dᵀ diag(g) D) ∘ (E diag(a) Eᵀ), in
O((d_in + d_out)·r²) time. D and E are written with differences so that the penalty is exactly 0 at the reference
instead of the difference of two large numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Factors:
    """The factored Fisher of one layer: F_ij ≈ ``output[i]``·``input[j]``; fp32 [d_out] and [d_in], not negative."""

    output: Tensor
    input: Tensor


@dataclass(frozen=True, slots=True)
class LowRank:
    """One layer's adapter: ΔW = ``scale``·``b``@``a`` with ``a`` [r, d_in] and ``b`` [d_out, r]."""

    a: Tensor
    b: Tensor
    scale: float


def difference(current: LowRank, reference: LowRank | None) -> tuple[Tensor, Tensor]:
    """D [d_out, ≤2r] and E [≤2r, d_in] with ΔW − ΔW* = s·D@E; both vanish where current equals reference."""
    if reference is None:
        return current.b, current.a
    if current.a.shape != reference.a.shape or current.scale != reference.scale:
        ratio = reference.scale / current.scale
        return torch.cat([current.b, -ratio * reference.b], dim=1), torch.cat([current.a, reference.a])
    return (
        torch.cat([current.b - reference.b, reference.b], dim=1),
        torch.cat([current.a, current.a - reference.a]),
    )


def factored_penalty(current: LowRank, reference: LowRank | None, factors: Factors) -> Tensor:
    """Scalar s²·Σ_ij g_i·a_j·(D@E)_ij², differentiable with respect to ``current``."""
    d, e = difference(current, reference)
    outputs = d.T @ (factors.output.unsqueeze(1) * d)
    inputs = (e * factors.input) @ e.T
    return current.scale**2 * (outputs * inputs).sum()


def dense_penalty(current: LowRank, reference: LowRank | None, fisher: Tensor) -> Tensor:
    """The same with a full Fisher diagonal [d_out, d_in]: O(d_in·d_out); for small models and as an oracle."""
    d, e = difference(current, reference)
    return current.scale**2 * (fisher * (d @ e) ** 2).sum()


def penalty(
    current: Mapping[str, LowRank], reference: Mapping[str, LowRank], importance: Mapping[str, Factors], weight: float
) -> Tensor:
    """(λ/2)·Σ over all layers. A layer without reference is compared with the base (ΔW* = 0).

    Raises KeyError when a trained layer has no importance: every trainable tensor must be covered.
    """
    terms = [factored_penalty(layer, reference.get(name), importance[name]) for name, layer in current.items()]
    return 0.5 * weight * torch.stack(terms).sum()
