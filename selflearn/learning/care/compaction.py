"""Smaller adapters: each layer's product at the lowest rank that keeps a share of its energy.

A LoRA layer's ΔW = s·B·A has rank r at most, and often much of it hardly counts. The best approximation at a lower rank
is the truncated singular value decomposition (Eckart and Young 1936), and its error is known: the squares of the
singular values left out. ΔW is never formed: with the thin decompositions B = Q_B·R_B and Aᵀ = Q_A·R_A,

    B·A = Q_B·(R_B·R_Aᵀ)·Q_Aᵀ,

so the decomposition of the r×r core gives that of the product, in O((d_in + d_out)·r²) time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selflearn.errors import ModelError
from selflearn.models.adapter import factors, lora_layers, new_rows, replace_factors

#: Energy (a share) that counts as nothing: what fp32 factors cannot hold anyway.
NOTHING = 1e-12

Pairs = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class LayerKept:
    """One layer: the lowest rank that keeps what was asked for, and the share of ‖ΔW‖_F² kept at the common rank."""

    needed: int
    kept: float


@dataclass(frozen=True, slots=True)
class Compaction:
    """What became of an adapter. ``kept`` is the share of Σ‖ΔW‖_F² over all layers; 1 for an adapter that is zero."""

    rank_before: int
    rank_after: int
    kept: float
    layers: Mapping[str, LayerKept]

    @property
    def relative_error(self) -> float:
        """‖ΔW − ΔW_compacted‖_F / ‖ΔW‖_F over all layers: exact, by Eckart and Young."""
        return math.sqrt(max(0.0, 1.0 - self.kept))

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "relative_error": self.relative_error}


@dataclass(frozen=True, slots=True)
class _Spectrum:
    """B·A = ``left`` diag(``values``) ``right``: fp64 on the CPU, values falling, [d_out, k], [k], [k, d_in]."""

    left: Tensor
    values: Tensor
    right: Tensor

    @property
    def tails(self) -> Tensor:
        """[k + 1] the energy that is left out at rank 0, 1, …, k."""
        squares = self.values.square()
        return torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])

    def needed(self, energy: float) -> int:
        """The lowest rank that keeps the share ``energy``; 0 for a product that is zero."""
        tails = self.tails
        return int((tails > (1.0 - energy + NOTHING) * tails[0]).sum())

    def at_rank(self, rank: int) -> tuple[Tensor, Tensor]:
        """(A [rank, d_in], B [d_out, rank]) in fp32: both carry the roots of the singular values.

        A direction without energy keeps a row of unit length in A and zeros in B, as a new adapter has: it changes
        nothing, and a later update can train it. (Were both zero, no gradient would ever reach either.)
        """
        kept = min(rank, len(self.values))
        empty = torch.arange(kept) >= self.needed(1.0)
        roots = self.values[:kept].sqrt()
        a = torch.zeros((rank, self.right.shape[1]), dtype=torch.float64)
        b = torch.zeros((self.left.shape[0], rank), dtype=torch.float64)
        a[:kept] = self.right[:kept] * torch.where(empty, 1.0, roots).unsqueeze(1)
        b[:, :kept] = self.left[:, :kept] * torch.where(empty, 0.0, roots)
        return a.float(), b.float()


def compact(
    pairs: Pairs, energy: float, *, most: int | None = None
) -> tuple[dict[str, tuple[Tensor, Tensor]], Compaction]:
    """The factors (A [r, d_in], B [d_out, r]) of each layer at the lowest common rank that keeps ``energy`` in all.

    Serving wants one rank for all layers, so the layer that needs most decides, and the others use the room that they
    have. ``most`` bounds the rank, whatever that keeps. The scale of ΔW is not looked at and stays as it is.

    Raises :class:`ModelError` when a factor is not finite.
    """
    spectra = {name: _spectrum(name, a, b) for name, (a, b) in pairs.items()}
    needed = {name: spectrum.needed(energy) for name, spectrum in spectra.items()}
    rank = max(1, *needed.values())
    rank = rank if most is None else min(rank, most)
    tails = {name: spectrum.tails for name, spectrum in spectra.items()}
    lost = {name: float(tail[min(rank, len(tail) - 1)]) for name, tail in tails.items()}
    whole = {name: float(tail[0]) for name, tail in tails.items()}
    layers = {name: LayerKept(needed[name], _share(whole[name] - lost[name], whole[name])) for name in spectra}
    kept = _share(sum(whole.values()) - sum(lost.values()), sum(whole.values()))
    before = max(a.shape[0] for a, _ in pairs.values())
    compacted = {name: spectrum.at_rank(rank) for name, spectrum in spectra.items()}
    return compacted, Compaction(before, rank, kept, layers)


def compact_model(model: PreTrainedModel, energy: float) -> Compaction:
    """Compacts the adapter in ``model`` in place; an optimizer made before must be made anew.

    What an update saves after it is what the gate measured, if it measures afterwards.
    """
    compacted, report = compact(_pairs_of(model), energy)
    replace_factors(model, compacted)
    return report


def widen_model(model: PreTrainedModel, rank: int, seed: int) -> None:
    """Gives the adapter in ``model`` further directions up to ``rank`` that change nothing yet: A drawn, B zero.

    An adapter that was compacted would have ever less room to learn in otherwise. Does nothing where the rank is that
    large already.
    """
    pairs = _pairs_of(model)
    if any(a.shape[0] < rank for a, _ in pairs.values()):
        generator = torch.Generator().manual_seed(seed)
        replace_factors(model, {name: _widened(*pairs[name], rank, generator) for name in sorted(pairs)})


def _widened(a: Tensor, b: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    more = rank - a.shape[0]
    rows = new_rows(more, a.shape[1], generator).to(a.device)
    return torch.cat([a.detach(), rows]), torch.cat([b.detach(), b.new_zeros(b.shape[0], more)], dim=1)


def _pairs_of(model: PreTrainedModel) -> dict[str, tuple[Tensor, Tensor]]:
    return {name: factors(layer) for name, layer in lora_layers(model).items()}


def _spectrum(name: str, a: Tensor, b: Tensor) -> _Spectrum:
    """Computed on the CPU in fp64, so that it does not depend on the device: the matrices are thin."""
    a64, b64 = (factor.detach().to("cpu", torch.float64) for factor in (a, b))
    if not bool(torch.isfinite(a64).all() and torch.isfinite(b64).all()):
        raise ModelError(f"The adapter of layer {name} holds a NaN or an infinity and cannot be compacted. Roll back.")
    left, left_core = torch.linalg.qr(b64)
    right, right_core = torch.linalg.qr(a64.T)
    u, values, v = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    return _Spectrum(left @ u, values, v @ right.T)


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0.0 else 1.0
