"""Differing: what two versions say to the same prompts, where the second became worse first, and where they differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selflearn.judging.layers import largest_by_kind
from selflearn.judging.measures import drift_between
from selflearn.judging.statistics import paired_bootstrap
from selflearn.learning.care.material import Item, Material
from selflearn.learning.care.observing import Observed, Options, Tell
from selflearn.models.base import LoadedBase


@dataclass(frozen=True, slots=True)
class Pair:
    """Two versions over one base."""

    base: LoadedBase
    first: LoadedBase
    second: LoadedBase
    options: Options
    tell: Tell = lambda step, share: None

    def observed(self, material: Material) -> tuple[Observed, Observed]:
        """Both on ``material``."""
        first = Observed(self.first, self.base, material, self.options, self.tell)
        return first, replace(first, model=self.second)


@dataclass(frozen=True, slots=True)
class Changed:
    """An item with its losses under both, in nats per token."""

    on: str
    item: Item
    first: float
    second: float

    @property
    def change(self) -> float:
        """Above 0 where the second version is worse; what is no number counts as infinitely worse."""
        change = self.second - self.first
        return math.inf if math.isnan(change) else change


def losses_of(pair: Pair, materials: Sequence[Material]) -> list[Changed]:
    """Every text with its losses, that with the largest rise first."""
    found = list[Changed]()
    for material in materials:
        if material.items:
            first, second = pair.observed(material)
            losses = zip(material.items, first.losses, second.losses, strict=True)
            found += [Changed(material.on, item, one, two) for item, one, two in losses]
    return sorted(found, key=lambda one: -one.change)


def answers_of(pair: Pair, changed: Sequence[Changed]) -> list[dict[str, Any]]:
    """What both say to these prompts, greedily, beside what was expected and both losses."""
    if not changed:
        return []
    first, second = pair.observed(Material("prompts", tuple(one.item for one in changed)))
    return [
        {
            "on": one.on,
            "prompt": [dict(message) for message in one.item.messages],
            "expected": one.item.target,
            "first": {"answer": said_first, "loss": _finite(one.first)},
            "second": {"answer": said_second, "loss": _finite(one.second)},
            "change": _finite(one.change),
        }
        for one, said_first, said_second in zip(changed, first.answers, second.answers, strict=True)
    ]


def mean_changes(changed: Sequence[Changed], confidence: float) -> list[dict[str, Any]]:
    """For each material the mean rise of the loss from the first to the second version, with its interval."""
    rows = []
    for on in dict.fromkeys(sorted(one.on for one in changed)):
        rises = [one.change for one in changed if one.on == on]
        found = paired_bootstrap(rises, confidence=confidence, seed=0)
        numbers = {"change": found.mean, "low": found.low, "high": found.high}
        rows.append({"on": on, **{name: _finite(value) for name, value in numbers.items()}, "samples": found.samples})
    return rows


def weight_change(pair: Pair) -> dict[str, Any]:
    """‖ΔW₂ − ΔW₁‖_F / ‖W‖_F: the largest of each kind of layer, and of every layer."""
    by_layer = drift_between(pair.first.model, pair.second.model)
    return {"by_kind": largest_by_kind(by_layer), "by_layer": by_layer}


def configuration_change(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings that were not the same, by their dotted names; None where one did not have it."""
    one, two = _flat(first), _flat(second)
    names = sorted(one | two)
    return [
        {"setting": name, "first": one.get(name), "second": two.get(name)}
        for name in names
        if one.get(name) != two.get(name)
    ]


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {before + name: value}
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
