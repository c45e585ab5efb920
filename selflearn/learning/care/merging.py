"""Several adapters of one base as one: the weighted sum of their products, at one rank.

Σ w_i·s_i·B_i·A_i is itself of low rank: put side by side, [w_1·s_1·B_1, w_2·s_2·B_2, …]·[A_1; A_2; …] is that sum
exactly, with the ranks added up. The result is then compacted (:mod:`selflearn.learning.care.compaction`), so what a
merge costs is known exactly too. This is task arithmetic (Ilharco et al. 2023, sec. 2) on ΔW; adding up the factors
themselves, ΣB_i·ΣA_i, would be something else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from selflearn.errors import BadRequest, ModelError
from selflearn.learning.care.compaction import Compaction, Pairs, compact
from selflearn.models.adapter import (
    CONFIG_FILE,
    PREFIX,
    WEIGHTS_FILE,
    plain_alpha,
    saved_biases,
    saved_factors,
)


@dataclass(frozen=True, slots=True)
class Saved:
    """An adapter as it is saved, in fp32: ΔW = ``scale``·B·A for each layer's (A [rank, d_in], B [d_out, rank]).

    ``biases`` has a change b [d_out] for the layers that train one; it too is scaled.
    """

    directory: Path
    pairs: Pairs
    biases: Mapping[str, Tensor]
    scale: float

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def rank(self) -> int:
        return max(a.shape[0] for a, _ in self.pairs.values())


def read_saved(directory: Path) -> Saved:
    """Reads the adapter in ``directory``; raises :class:`ModelError` if it cannot be read."""
    arrays, scale = saved_factors(directory)
    pairs = {name: (torch.from_numpy(a), torch.from_numpy(b)) for name, (a, b) in sorted(arrays.items())}
    biases = {name: torch.from_numpy(bias) for name, bias in saved_biases(directory).items()}
    return Saved(directory, pairs, biases, scale)


def merge(adapters: Sequence[Saved], weights: Sequence[float], rank: int) -> tuple[Saved, Compaction]:
    """Σ weight·ΔW of ``adapters`` at a rank of at most ``rank``, with the scale of the first; biases are added up.

    The report says how much of the sum's energy that keeps, and with it the relative error. Raises :class:`BadRequest`
    if weights and adapters do not match, :class:`ModelError` if the adapters are not of one base.
    """
    if len(adapters) != len(weights):
        raise BadRequest(f"Found {len(weights)} weights for {len(adapters)} versions; expected one for each.")
    first = adapters[0]
    for other in adapters[1:]:
        _check_alike(first, other)
    ratios = [weight * each.scale / first.scale for weight, each in zip(weights, adapters, strict=True)]
    weighed = list(zip(ratios, adapters, strict=True))
    beside = {
        name: (
            torch.cat([each.pairs[name][0] for each in adapters]),
            torch.cat([ratio * each.pairs[name][1] for ratio, each in weighed], dim=1),
        )
        for name in first.pairs
    }
    pairs, report = compact(beside, 1.0, most=rank)
    named = sorted({name for each in adapters for name in each.biases})
    biases = {n: sum((r * each.biases[n] for r, each in weighed if n in each.biases), torch.zeros(())) for n in named}
    return Saved(first.directory, pairs, biases, first.scale), report


def write_saved(saved: Saved, directory: Path) -> None:
    """Writes an adapter in the plain PEFT layout, with what else the configuration in ``saved.directory`` says."""
    tensors = {
        f"{PREFIX}{name}.lora_{which}.weight": factor
        for name, pair in saved.pairs.items()
        for which, factor in zip("AB", pair, strict=True)
    }
    tensors |= {f"{PREFIX}{name}.lora_B.bias": bias for name, bias in saved.biases.items()}
    contiguous = {name: tensors[name].contiguous() for name in sorted(tensors)}
    save_file(contiguous, str(directory / WEIGHTS_FILE), metadata={"format": "pt"})
    entries = json.loads((saved.directory / CONFIG_FILE).read_text("utf-8"))
    entries |= {"r": saved.rank, "lora_alpha": plain_alpha(saved.scale * saved.rank), "lora_bias": bool(saved.biases)}
    (directory / CONFIG_FILE).write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", "utf-8")


def _check_alike(first: Saved, other: Saved) -> None:
    if odd := sorted(set(first.pairs) ^ set(other.pairs)):
        raise ModelError(
            f"{first.name} and {other.name} adapt different layers ({odd[0]} is in one of them only). "
            "Expected adapters of one base model."
        )
    for name, (a, b) in first.pairs.items():
        c, d = other.pairs[name]
        if (a.shape[1], b.shape[0]) != (c.shape[1], d.shape[0]):
            raise ModelError(
                f"Layer {name} is {b.shape[0]}×{a.shape[1]} in {first.name} and {d.shape[0]}×{c.shape[1]} in "
                f"{other.name}. Expected adapters of one base model."
            )
