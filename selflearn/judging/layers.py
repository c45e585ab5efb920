"""Layers by kind. It needs no tensors, as those who only read numbers have none."""

from __future__ import annotations

from collections.abc import Mapping


def largest_by_kind(drift: Mapping[str, float]) -> dict[str, float]:
    """The largest drift per kind of layer (``q_proj``, ``down_proj`` …): few labels, whatever the depth."""
    kinds: dict[str, float] = {}
    for layer, value in drift.items():
        kind = layer.rpartition(".")[2]
        kinds[kind] = max(value, kinds.get(kind, 0.0))
    return kinds
