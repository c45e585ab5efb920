"""What holds the weights while they learn: penalties on how far they go, and slow weights that follow the fast ones.

Each is on or off by a setting of its own, alone or with others. What holds the model's *behaviour*, replay and the
divergences from base and parent, are lessons (:mod:`selflearn.learning.lessons`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selflearn.config import LearningSettings
from selflearn.learning.importance import kind_of
from selflearn.learning.penalties import LayerImportance, LowRank, layer_penalty, overlap, squared_distance
from selflearn.models.adapter import factors, lora_layers, scale, trained_biases

Pull = Callable[[], Tensor]

#: Layers computed at once. Fewer cost more calls, more of them leave a processor's cache.
TOGETHER = 16


def low_rank(model: PreTrainedModel) -> dict[str, LowRank]:
    """The live adapter of each layer, differentiable."""
    biases = trained_biases(model)
    return {
        name: LowRank(*factors(layer), scale(layer), biases.get(f"{name}.bias"))
        for name, layer in lora_layers(model).items()
    }


def frozen_copy(layers: Mapping[str, LowRank]) -> dict[str, LowRank]:
    """The same numbers, detached and unshared: a reference for the penalties."""
    return {name: _copy(layer) for name, layer in layers.items()}


def _copy(layer: LowRank) -> LowRank:
    bias = None if layer.bias is None else layer.bias.detach().clone()
    return LowRank(layer.a.detach().clone(), layer.b.detach().clone(), layer.scale, bias)


def weight_pulls(
    adapter: Mapping[str, LowRank],
    reference: Mapping[str, LowRank],
    importance: Mapping[str, LayerImportance],
    settings: LearningSettings,
    *,
    frozen: int = 0,
) -> dict[str, Pull]:
    """The penalties that ``settings`` switch on, by name: each call gives a scalar that is part of the loss.

    - ``ewc``: (λ/2)·Σ F (θ − θ*)², of whatever kind ``importance`` is (it should have mean 1).
    - ``l2``: ‖ΔW − ΔW*‖_F² times its weight, over all layers (L2-SP, Li et al. 2018, on ΔW).
    - ``orthogonal``: Σ (A_old A_newᵀ)² times its weight, where ``frozen`` rows of A are old (O-LoRA).

    A layer without ``reference`` is compared with the base; the diagonal kind, for which that has no meaning, with
    where it is now. Layers of one shape are computed together: there are hundreds, and each alone is many small
    operations. Raises KeyError when a trained layer has no importance.
    """
    if settings.ewc_weight > 0.0 and kind_of(importance) == "diagonal":
        reference = {**frozen_copy({name: adapter[name] for name in adapter.keys() - reference.keys()}), **reference}
    groups = _groups(adapter, reference, importance if settings.ewc_weight > 0.0 else None)
    costs: dict[str, tuple[float, _Cost]] = {
        "ewc": (0.5 * settings.ewc_weight, _weighted_distance),
        "l2": (settings.l2_weight, lambda layer, group: squared_distance(layer, group.reference)),
        "orthogonal": (settings.orthogonal_weight if frozen else 0.0, lambda layer, _: overlap(layer.a, frozen)),
    }
    return {name: _pull(groups, weight, cost) for name, (weight, cost) in costs.items() if weight > 0.0}


@dataclass(frozen=True, slots=True)
class _Group:
    """Layers that have the same shapes. Reference and importance have a leading dimension for them; None: none."""

    layers: Sequence[LowRank]
    reference: LowRank | None
    importance: LayerImportance | None


_Cost = Callable[[LowRank, _Group], Tensor]


def _groups(
    adapter: Mapping[str, LowRank],
    reference: Mapping[str, LowRank],
    importance: Mapping[str, LayerImportance] | None,
) -> list[_Group]:
    alike: dict[object, list[str]] = {}
    for name, layer in adapter.items():
        alike.setdefault((_shapes(layer), _shapes(reference.get(name))), []).append(name)
    some = [names[start : start + TOGETHER] for names in alike.values() for start in range(0, len(names), TOGETHER)]
    return [
        _Group(
            [adapter[name] for name in names],
            _stacked([reference[name] for name in names]) if names[0] in reference else None,
            None if importance is None else _stacked_importance([importance[name] for name in names]),
        )
        for names in some
    ]


def _shapes(layer: LowRank | None) -> object:
    if layer is None:
        return None
    return layer.a.shape, layer.b.shape, layer.scale, layer.bias is None, layer.a.device


def _stacked(layers: Sequence[LowRank]) -> LowRank:
    biases = [layer.bias for layer in layers if layer.bias is not None]
    a, b = torch.stack([layer.a for layer in layers]), torch.stack([layer.b for layer in layers])
    return LowRank(a, b, layers[0].scale, torch.stack(biases) if biases else None)


def _stacked_importance(layers: Sequence[LayerImportance]) -> LayerImportance:
    parts = {field.name: [getattr(layer, field.name) for layer in layers] for field in fields(layers[0])}
    known = {name: torch.stack(tensors) for name, tensors in parts.items() if all(t is not None for t in tensors)}
    return type(layers[0])(**known)


def _pull(groups: Sequence[_Group], weight: float, cost: _Cost) -> Pull:
    def pull() -> Tensor:
        return weight * torch.stack([cost(_stacked(group.layers), group).sum() for group in groups]).sum()

    return pull


def _weighted_distance(layer: LowRank, group: _Group) -> Tensor:
    if group.importance is None:
        raise ValueError("an EWC penalty was asked for without an importance")
    return layer_penalty(layer, group.reference, group.importance)


class SlowWeights:
    """Weights that follow the trained ones: after every ``steps`` steps slow ← slow + rate·(fast − slow), fast ← slow.

    The serial form of Reptile (Nichol et al. 2018, alg. 1: θ ← θ + ε(φ − θ)), and Lookahead (Zhang et al. 2019, alg. 1)
    where it happens within one task. The optimizer's state stays as it is. With ``rate`` 1 nothing ever changes.
    """

    def __init__(self, parameters: Sequence[Tensor], rate: float, steps: int) -> None:
        self._fast, self._rate, self._steps = list(parameters), rate, steps
        self._slow = [] if rate == 1.0 else [parameter.detach().clone() for parameter in self._fast]
        self._since = 0

    def after_step(self, step: int) -> None:
        """To be called after each optimizer step; ``step`` counts from 0."""
        self._since += 1
        if (step + 1) % self._steps == 0:
            self.finish()

    @torch.no_grad()
    def finish(self) -> None:
        """Ends the inner loop now, however long it was: the parameters are the slow weights then.

        So whatever is measured or kept between steps (a look at the holdout, the best weights) should come after it.
        """
        if self._since and self._slow:
            for slow, fast in zip(self._slow, self._fast, strict=True):
                fast.copy_(slow.lerp_(fast, self._rate))
        self._since = 0
