"""How much of a step is taken: the largest part of it that the gate lets through.

A step that forgets too much or goes too far from the base need not be lost. On the way from the parent to the candidate
what is forgotten falls faster than what is learned: a divergence falls with the square of the way near its minimum, an
improvement in proportion. So a bisection looks for the largest part that passes. STABLE (Hoy and Celik, 2025) bisects
too, over one budget; here every check of the gate must pass at the part that is taken, that something was learned among
them, and the gate is told how many parts the same examples judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from selflearn.judging.gate import Check, Verdict
from selflearn.learning.penalties import LowRank
from selflearn.models.adapter import replace_factors, trained_biases

#: The checks that a smaller step helps to pass. What learned too little wants a longer one, all others other data.
TOO_FAR: Final = frozenset(
    {"not_worse", "retained", "ancestors", "anchored", "kl_drift", "weight_drift", "collapse", "canaries"}
)

#: The checks that a longer step helps to pass.
TOO_LITTLE: Final = frozenset({"learned", "matched"})

_Adapter = Mapping[str, LowRank]


@dataclass(frozen=True, slots=True)
class Step:
    """The way of one update, by layer: the adapter that it started from and the one that training ended with.

    Both have the same shapes and share no memory with the model.
    """

    start: _Adapter
    end: _Adapter

    @classmethod
    def from_base(cls, end: _Adapter) -> Step:
        """The way from the base model: A is as it ended and B was zero, so a part c of it is s·(c·B)·A, exactly."""
        return cls({name: _without_effect(layer) for name, layer in end.items()}, end)

    @torch.no_grad()
    def take(self, model: PreTrainedModel, part: float) -> None:
        """Puts the adapter at ``part`` of the way into ``model``: 0 is the start, 1 the end to the last bit.

        A and B move in proportion, which keeps the rank. Over a parent their product then differs from the point on
        the straight line between the products by (c² − c)·ΔB·ΔA, second order in the step; it is measured as it is.
        """
        biases, pairs = trained_biases(model), {}
        for name, end in self.end.items():
            start = self.start[name]
            pairs[name] = start.a.lerp(end.a, part), start.b.lerp(end.b, part)
            if start.bias is not None and end.bias is not None:
                biases[f"{name}.bias"].copy_(start.bias.lerp(end.bias, part))
        replace_factors(model, pairs)


def _without_effect(layer: LowRank) -> LowRank:
    bias: Tensor | None = None if layer.bias is None else torch.zeros_like(layer.bias)
    return replace(layer, b=torch.zeros_like(layer.b), bias=bias)


@dataclass(frozen=True, slots=True)
class Tried:
    """One part of a step, and what the gate said of it."""

    scale: float
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: ``{"scale", "outcome", "reason", "checks": [{"name", "outcome", "value", "limit"}]}``."""
        told = self.verdict.as_dict()
        checks = [{key: check[key] for key in ("name", "outcome", "value", "limit")} for check in told["checks"]]
        return {"scale": self.scale, "outcome": told["outcome"], "reason": told["reason"], "checks": checks}


def only_too_far(verdict: Verdict, least_samples: int) -> bool:
    """Whether nothing but the size of the step is in the way of a promotion.

    Some check of :data:`TOO_FAR` does not pass, on ``least_samples`` or more; no other one fails, and only those of
    :data:`TOO_LITTLE` may be in doubt. What cannot be told for want of samples cannot be told of a smaller step either.
    """
    blocking = [check for check in verdict.checks if check.outcome != "pass"]
    far = [check for check in blocking if _is_far(check, least_samples)]
    doubted = [check for check in blocking if check.name in TOO_LITTLE and check.outcome == "inconclusive"]
    return bool(far) and len(far) + len(doubted) == len(blocking)


def _is_far(check: Check, least_samples: int) -> bool:
    told = check.outcome == "fail" or check.samples >= least_samples
    return check.family in TOO_FAR and told


def bisect(judged: Callable[[float], Verdict], steps: int) -> list[Tried]:
    """Tries ``steps`` parts of a step whose whole goes too far, each in the middle of what is left to look at.

    After a part that passes a larger one is tried, after one that goes too far a smaller one, and after one that only
    learned too little a larger one. What passes last is therefore the largest that was found to pass.
    """
    low, high = 0.0, 1.0
    tried: list[Tried] = []
    for _ in range(steps):
        found = Tried((low + high) / 2, judged((low + high) / 2))
        tried.append(found)
        if any(check.outcome != "pass" and _is_far(check, 1) for check in found.verdict.checks):
            high = found.scale
        else:
            low = found.scale
    return tried


def largest_promoted(tried: list[Tried]) -> float | None:
    """The largest part that the gate promotes; None if it promotes none."""
    return max((each.scale for each in tried if each.verdict.outcome == "promote"), default=None)
