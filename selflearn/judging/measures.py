"""Measures a model on token sequences and an adapter against its base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from selflearn.models.adapter import base_weight, bias_changes, factors, lora_layers, scale
from selflearn.models.forward import TokenSequence, collate, in_batches, response_losses

MEASURE_BATCH = 16

#: (A [r, d_in], B [d_out, r], s) of ΔW = s·B·A.
Delta = tuple[Tensor, Tensor, float]


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


def product_norm(a: Tensor, b: Tensor, s: float) -> float:
    """‖s·B·A‖_F without forming the product: its square is s²·tr((BᵀB)(AAᵀ)). ``a`` [r, d_in], ``b`` [d_out, r]."""
    a64, b64 = a.detach().double(), b.detach().double()
    square = ((b64.T @ b64) * (a64 @ a64.T)).sum()
    return float(s * square.clamp_min(0.0).sqrt())


def weight_drift(
    deltas: Mapping[str, Delta],
    weights: Mapping[str, Tensor],
    biases: Mapping[str, tuple[Tensor, Tensor]] | None = None,
) -> dict[str, float]:
    """‖ΔW‖_F / ‖W‖_F per layer. ``deltas`` maps a layer to (A, B, s); ``weights`` to its base weight.

    ``biases`` maps the layers whose bias trains to (its change, the base's); it counts as one more column of W.
    """
    drift = {}
    for name, (a, b, s) in deltas.items():
        changed, before = [product_norm(a, b, s)], [float(weights[name].float().norm())]
        if biases and name in biases:
            change, base = biases[name]
            changed.append(float(change.detach().float().norm()))
            before.append(float(base.float().norm()))
        drift[name] = math.hypot(*changed) / math.hypot(*before)
    return drift


def adapter_drift(model: PreTrainedModel) -> dict[str, float]:
    """:func:`weight_drift` of the adapter in ``model`` against its base; nothing where there is none."""
    return weight_drift(_deltas(model), _weights(model), bias_changes(model))


def drift_between(first: PreTrainedModel, second: PreTrainedModel) -> dict[str, float]:
    """‖ΔW₂ − ΔW₁‖_F / ‖W‖_F per layer, for two adapters of one base; a model without one has ΔW = 0.

    Both on one device. No product is formed: the difference of two products of ranks r₁ and r₂ is one of rank r₁ + r₂.
    """
    one, two, biases = _deltas(first), _deltas(second), bias_changes(second)
    for name, (change, base) in bias_changes(first).items():
        biases[name] = (biases[name][0] - change if name in biases else -change, base)
    joined = {name: _joined(one.get(name), two.get(name)) for name in one | two}
    return weight_drift(joined, _weights(first) | _weights(second), biases)


def _deltas(model: PreTrainedModel) -> dict[str, Delta]:
    return {name: (*factors(layer), scale(layer)) for name, layer in lora_layers(model).items()}


def _weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: base_weight(layer) for name, layer in lora_layers(model).items()}


def _joined(first: Delta | None, second: Delta | None) -> Delta:
    """The difference s₂B₂A₂ − s₁B₁A₁ as one product."""
    signed = [(sign * s, a, b) for sign, delta in ((-1.0, first), (1.0, second)) if delta for a, b, s in (delta,)]
    return torch.cat([a for _, a, _ in signed]), torch.cat([s * b for s, _, b in signed], dim=1), 1.0


def nonfinite_tensors(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold a NaN or an infinity."""
    return [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
