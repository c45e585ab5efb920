"""Measures a model on token sequences and an adapter against its base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from selflearn.models.forward import TokenSequence, collate, in_batches, response_losses

MEASURE_BATCH = 16


@torch.no_grad()
def losses(model: nn.Module, sequences: Sequence[TokenSequence], device: torch.device) -> list[float]:
    """Mean negative log-likelihood of each response in nats per token, in the order given."""
    measured = [0.0] * len(sequences)
    for indices in in_batches(sequences, MEASURE_BATCH):
        batch = collate([sequences[index] for index in indices], device)
        per_row = response_losses(model, batch).sum(dim=1) / batch.mask.sum(dim=1)
        for index, value in zip(indices, per_row.tolist(), strict=True):
            measured[index] = value
    return measured


def product_norm(a: Tensor, b: Tensor, scale: float) -> float:
    """‖s·B·A‖_F without forming the product: its square is s²·tr((BᵀB)(AAᵀ)). ``a`` [r, d_in], ``b`` [d_out, r]."""
    a64, b64 = a.detach().double(), b.detach().double()
    square = ((b64.T @ b64) * (a64 @ a64.T)).sum()
    return float(scale * square.clamp_min(0.0).sqrt())


def weight_drift(
    deltas: Mapping[str, tuple[Tensor, Tensor, float]],
    weights: Mapping[str, Tensor],
    biases: Mapping[str, tuple[Tensor, Tensor]] | None = None,
) -> dict[str, float]:
    """‖ΔW‖_F / ‖W‖_F per layer. ``deltas`` maps a layer to (A, B, scale); ``weights`` to its base weight.

    ``biases`` maps the layers whose bias trains to (its change, the base's); it counts as one more column of W.
    """
    drift = {}
    for name, (a, b, scale) in deltas.items():
        changed, before = [product_norm(a, b, scale)], [float(weights[name].float().norm())]
        if biases and name in biases:
            change, base = biases[name]
            changed.append(float(change.detach().float().norm()))
            before.append(float(base.float().norm()))
        drift[name] = math.hypot(*changed) / math.hypot(*before)
    return drift


def nonfinite_tensors(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold a NaN or an infinity."""
    return [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
