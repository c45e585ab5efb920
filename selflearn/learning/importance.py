"""How much each weight matters: the Fisher information, normalised and accumulated.

The diagonal Fisher of a linear layer's W is E[(∂ log p / ∂W_ij)²]. With x the layer's inputs and δ the gradients of the
log-likelihood with respect to its outputs, one sequence has the gradient Σ_t δ_t x_tᵀ. Three kinds are made of it:

- ``factored`` takes inputs and gradients as independent, and tokens too (as K-FAC does: Martens and Grosse 2015,
  sec. 3): F_ij ≈ g_i·a_j with g_i = E[δ_i²] and a_j = E[x_j²] over tokens, two vectors per layer.
- ``dense`` squares each sequence's own gradient: as large as the model's linear layers, so for small models.
- ``diagonal`` squares each sequence's gradients of A and of B. Where B = 0, at the start of every lineage, A has none:
  its Fisher is 0 and the first update may move it as it likes.

No gradient of a single sequence is made by a backward pass of its own: with x and δ at hand it is a product (Goodfellow
2015). Labels are *sampled from the model's own distribution*; with the labels of the data this would be the empirical
Fisher, which measures something else (Kunstner et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from selflearn.errors import ConfigurationError
from selflearn.learning.penalties import Dense, Diagonal, Factors, LayerImportance, LowRank, bias_fisher
from selflearn.models.adapter import base_weight, factors, lora_layers, scale
from selflearn.models.forward import TokenSequence, collate, in_batches, response_logits, token_losses

Kind = Literal["factored", "diagonal", "dense"]
Importance = dict[str, LayerImportance]

KINDS: dict[Kind, type[LayerImportance]] = {"factored": Factors, "diagonal": Diagonal, "dense": Dense}
#: A dense Fisher is a second copy of the linear layers in fp32, in memory and with every version.
MOST_DENSE_WEIGHTS = 32_000_000

Sums = dict[str, Tensor]


def estimate(
    model: PreTrainedModel,
    sequences: Sequence[TokenSequence],
    *,
    kind: Kind = "factored",
    device: torch.device,
    generator: torch.Generator,
    batch_size: int = 4,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Importance:
    """Estimates the Fisher of every LoRA layer's weight at the model's present parameters.

    ``generator`` (CPU) samples the labels. Padding is left out; prompts count as inputs but get no label of their own.
    Raises :class:`ConfigurationError` when a dense one would be too large.
    """
    if kind == "dense":
        _refuse_large(model)
    sums: dict[str, Sums] = {name: {} for name in lora_layers(model)}
    tokens = 0
    for done, indices in enumerate(in_batches(sequences, batch_size)):
        batch = collate([sequences[index] for index in indices], device, share_prefix=False)
        keep = batch.attention_mask.unsqueeze(-1)
        with _watched(model, sums, kind, keep):
            logits = response_logits(model, batch)
            labels = sample_labels(logits, generator).masked_fill(~batch.mask, -1)
            model.zero_grad(set_to_none=True)
            token_losses(logits, labels).sum().backward()
        tokens += int(keep.sum())
        on_batch(done + 1)
    model.zero_grad(set_to_none=True)
    count = tokens if kind == "factored" else len(sequences)
    return {name: _mean(name, KINDS[kind], sums[name], count) for name in sums}


def sample_labels(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draws one token per position from softmax(``logits``); [..., vocabulary] -> [...]."""
    probabilities = logits.detach().float().softmax(dim=-1).flatten(0, -2).cpu()
    drawn = torch.multinomial(probabilities, 1, generator=generator)
    return drawn.view(logits.shape[:-1]).to(logits.device)


def _refuse_large(model: PreTrainedModel) -> None:
    count = sum(base_weight(layer).numel() for layer in lora_layers(model).values())
    if count > MOST_DENSE_WEIGHTS:
        raise ConfigurationError(
            f"learning.ewc is 'dense', and the adapted layers have {count / 1e6:.0f} million weights; a dense Fisher "
            f"is for models with at most {MOST_DENSE_WEIGHTS / 1e6:.0f} million. Set learning.ewc to 'factored'."
        )


@contextmanager
def _watched(model: PreTrainedModel, sums: Mapping[str, Sums], kind: Kind, keep: Tensor) -> Iterator[None]:
    """Within it, every LoRA layer adds to its sums when the gradient of its output arrives."""
    handles = [
        model.get_submodule(name).register_forward_hook(partial(_watch, sums[name], kind, keep))
        for name in lora_layers(model)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watch(sums: Sums, kind: Kind, keep: Tensor, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    layer: Any = module
    given = inputs[0].detach()

    def arrived(gradient: Tensor) -> None:
        with torch.no_grad():
            squares = _SQUARES[kind](given.float() * keep, gradient.float() * keep, layer)
            for name, value in squares.items():
                sums[name] = sums[name] + value if name in sums else value

    output.register_hook(arrived)


def _factored_squares(inputs: Tensor, gradients: Tensor, _: LoraLayer) -> Sums:
    return {"output": gradients.square().sum(dim=(0, 1)), "input": inputs.square().sum(dim=(0, 1))}


def _dense_squares(inputs: Tensor, gradients: Tensor, _: LoraLayer) -> Sums:
    return {"weight": (gradients.mT @ inputs).square().sum(dim=0), "bias": gradients.sum(dim=1).square().sum(dim=0)}


def _diagonal_squares(inputs: Tensor, gradients: Tensor, layer: LoraLayer) -> Sums:
    """∂/∂A = s·Σ_t (Bᵀδ_t) x_tᵀ and ∂/∂B = s·Σ_t δ_t (A x_t)ᵀ, squared per sequence."""
    a, b = factors(layer)
    of_a = scale(layer) * (gradients @ b).mT @ inputs
    of_b = scale(layer) * gradients.mT @ (inputs @ a.mT)
    bias = gradients.sum(dim=1).square().sum(dim=0)
    return {"a": of_a.square().sum(dim=0), "b": of_b.square().sum(dim=0), "bias": bias}


_SQUARES: dict[Kind, Callable[[Tensor, Tensor, LoraLayer], Sums]] = {
    "factored": _factored_squares,
    "dense": _dense_squares,
    "diagonal": _diagonal_squares,
}


def _mean(name: str, kind: type[LayerImportance], sums: Sums, count: int) -> LayerImportance:
    if not sums:
        raise ValueError(f"layer {name} took no part in the forward pass, so its importance is unknown")
    means = {field: total / count for field, total in sums.items()}
    if kind is Factors:
        means["constant"] = torch.ones_like(means["input"][0])
    return kind(**means)


def kind_of(importance: Mapping[str, LayerImportance]) -> Kind:
    """Which kind of Fisher this is. Raises ValueError for an empty or a mixed one."""
    found = {type(layer) for layer in importance.values()}
    for kind, representation in KINDS.items():
        if found == {representation}:
            return kind
    raise ValueError(f"an importance has layers of one kind, found {sorted(one.__name__ for one in found)}")


def covers(importance: Mapping[str, LayerImportance], kind: Kind, adapter: Mapping[str, LowRank]) -> bool:
    """Whether ``importance`` is of ``kind`` and knows all that ``adapter`` trains: every layer, bias and shape."""
    return all(_covers(importance.get(name), KINDS[kind], layer) for name, layer in adapter.items())


def _covers(known: LayerImportance | None, kind: type[LayerImportance], layer: LowRank) -> bool:
    if not isinstance(known, kind) or (layer.bias is not None and bias_fisher(known) is None):
        return False
    return not isinstance(known, Diagonal) or (known.a.shape == layer.a.shape and known.b.shape == layer.b.shape)


def normalised(importance: Mapping[str, LayerImportance]) -> Importance:
    """Scales all layers by one number so that the mean of F over all weights is 1: λ carries over between models.

    The weights are those of W, for the diagonal kind those of A and B; biases are scaled along and do not count.
    """
    sums = [_sum_and_count(layer) for layer in importance.values()]
    total, count = sum(value for value, _ in sums), sum(number for _, number in sums)
    if not 0.0 < total < float("inf"):
        raise ValueError(f"the Fisher information sums to {total}; expected a positive finite number")
    return {name: _scaled(layer, count / total) for name, layer in importance.items()}


def _sum_and_count(layer: LayerImportance) -> tuple[float, int]:
    match layer:
        case Factors():
            total = float(layer.output.sum(dtype=torch.float64) * layer.input.sum(dtype=torch.float64))
            return total, layer.output.numel() * layer.input.numel()
        case Dense():
            return float(layer.weight.sum(dtype=torch.float64)), layer.weight.numel()
        case Diagonal():
            total = float(layer.a.sum(dtype=torch.float64) + layer.b.sum(dtype=torch.float64))
            return total, layer.a.numel() + layer.b.numel()


def _scaled(layer: LayerImportance, factor: float) -> LayerImportance:
    """F times ``factor``; of a factored one both sides take its root."""
    each = factor**0.5 if isinstance(layer, Factors) else factor
    return type(layer)(**{name: tensor * each for name, tensor in _tensors(layer).items()})


def accumulated(
    before: Mapping[str, LayerImportance] | None, new: Mapping[str, LayerImportance], decay: float
) -> Importance:
    """F ← γF + F_new, for two of one kind and shape; a sum, so the result is not normalised.

    Of factored ones each factor is summed. A sum of rank-one matrices has a higher rank; decaying sums of the factors
    are K-FAC's running estimate of the same moments: exact, up to a constant, when either factor did not change.
    """
    if before is None:
        return dict(new)
    return {name: _added(before[name], layer, decay) for name, layer in new.items()}


def _added(before: LayerImportance, new: LayerImportance, decay: float) -> LayerImportance:
    known = _tensors(before)
    sums = {name: decay * known[name] + tensor if name in known else tensor for name, tensor in _tensors(new).items()}
    return type(new)(**sums)


def _tensors(layer: LayerImportance) -> dict[str, Tensor]:
    named = {field.name: getattr(layer, field.name) for field in fields(layer)}
    return {name: tensor for name, tensor in named.items() if tensor is not None}


def save_importance(importance: Mapping[str, LayerImportance], path: Path) -> None:
    """Writes it as safetensors: ``<layer>.output`` and so on, with its kind in the metadata."""
    tensors = {
        f"{name}.{field}": tensor.cpu().contiguous()
        for name, layer in importance.items()
        for field, tensor in _tensors(layer).items()
    }
    save_file(tensors, path, metadata={"kind": kind_of(importance)})


def load_importance(path: Path, device: torch.device) -> Importance:
    """Reads what :func:`save_importance` wrote, whatever its kind (a file that names none is factored)."""
    with safe_open(path, framework="pt") as opened:
        kind: Any = (opened.metadata() or {}).get("kind", "factored")
    found: dict[str, Sums] = {}
    for key, tensor in sorted(load_file(path, device=str(device)).items()):
        name, _, field = key.rpartition(".")
        found.setdefault(name, {})[field] = tensor
    return {name: KINDS[kind](**tensors) for name, tensors in found.items()}
