"""How much each weight matters: the Fisher information, factored, normalised and accumulated.

The diagonal Fisher of a linear layer's W is F_ij = E[(δ_i·x_j)²], with x the layer's input and δ the gradient of the
log-likelihood with respect to its output. Taking the two as independent (as K-FAC does: Martens and Grosse 2015,
sec. 3) gives F_ij ≈ g_i·a_j with g_i = E[δ_i²] and a_j = E[x_j²]: two vectors per layer. Labels are *sampled from the
model's own distribution*; with the labels of the data this would be the empirical Fisher, which measures something
else (Kunstner et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from selflearn.learning.penalties import Factors
from selflearn.models.adapter import lora_layers
from selflearn.models.forward import TokenSequence, collate, in_batches, response_logits, token_losses

Importance = dict[str, Factors]


class _Moments:
    """Running second moments of one layer's inputs and output gradients over the tokens that count."""

    def __init__(self) -> None:
        self.input: Tensor | None = None
        self.output: Tensor | None = None

    def saw(self, value: Tensor, into: str, keep: Tensor) -> None:
        squares = value.detach().float()[keep].square().sum(dim=0)
        before: Tensor | None = getattr(self, into)
        setattr(self, into, squares if before is None else before + squares)


def estimate(
    model: PreTrainedModel,
    sequences: Sequence[TokenSequence],
    *,
    device: torch.device,
    generator: torch.Generator,
    batch_size: int = 4,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Importance:
    """Estimates the factored Fisher of every LoRA layer's weight at the model's present parameters.

    ``generator`` (CPU) samples the labels. Padding is left out; prompts count as inputs but get no label of their own.
    """
    moments = {name: _Moments() for name in lora_layers(model)}
    tokens = 0
    for done, indices in enumerate(in_batches(sequences, batch_size)):
        batch = collate([sequences[index] for index in indices], device)
        keep = batch.attention_mask.bool()
        with _Watching(model, moments, keep):
            logits = response_logits(model, batch)
            labels = sample_labels(logits, generator).masked_fill(~batch.mask, -1)
            model.zero_grad(set_to_none=True)
            token_losses(logits, labels).sum().backward()
        tokens += int(keep.sum())
        on_batch(done + 1)
    model.zero_grad(set_to_none=True)
    return {name: _factors(name, moment, tokens) for name, moment in moments.items()}


def sample_labels(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draws one token per position from softmax(``logits``); [..., vocabulary] -> [...]."""
    probabilities = logits.detach().float().softmax(dim=-1).flatten(0, -2).cpu()
    drawn = torch.multinomial(probabilities, 1, generator=generator)
    return drawn.view(logits.shape[:-1]).to(logits.device)


class _Watching:
    """While entered, the LoRA layers report their inputs and output gradients to ``moments``."""

    def __init__(self, model: PreTrainedModel, moments: Mapping[str, _Moments], keep: Tensor) -> None:
        self._model, self._moments, self._keep = model, moments, keep
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> None:
        for name, moments in self._moments.items():
            layer = self._model.get_submodule(name)
            self._handles.append(layer.register_forward_hook(self._hook(moments)))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, moments: _Moments) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def forward(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            moments.saw(inputs[0], "input", self._keep)
            output.register_hook(lambda gradient: moments.saw(gradient, "output", self._keep))

        return forward


def _factors(name: str, moments: _Moments, tokens: int) -> Factors:
    if moments.input is None or moments.output is None:
        raise ValueError(f"layer {name} took no part in the forward pass, so its importance is unknown")
    return Factors(output=moments.output / tokens, input=moments.input / tokens)


def normalised(importance: Importance) -> Importance:
    """Scales all layers by one number so that the mean of F over all weights is 1: λ carries over between models."""
    total = sum(
        float(f.output.sum(dtype=torch.float64) * f.input.sum(dtype=torch.float64)) for f in importance.values()
    )
    count = sum(f.output.numel() * f.input.numel() for f in importance.values())
    if not total > 0:
        raise ValueError(f"the Fisher information sums to {total}; expected a positive finite number")
    root = (count / total) ** 0.5
    return {name: Factors(output=f.output * root, input=f.input * root) for name, f in importance.items()}


def accumulated(before: Importance | None, new: Importance, decay: float) -> Importance:
    """F ← γF + F_new, kept as one pair of factors per layer: each factor is averaged with weights γ and 1.

    The sum of two rank-one matrices has rank two; averaging the factors is K-FAC's running estimate of the same
    moments (it is exact when either factor did not change).
    """
    if before is None:
        return new
    total = decay + 1.0
    return {
        name: Factors(
            output=(decay * before[name].output + f.output) / total,
            input=(decay * before[name].input + f.input) / total,
        )
        for name, f in new.items()
    }


def save_importance(importance: Importance, path: Path) -> None:
    """Writes the factors as safetensors: ``<layer>.output`` and ``<layer>.input``."""
    tensors = {}
    for name, factors in importance.items():
        tensors[f"{name}.output"] = factors.output.cpu().contiguous()
        tensors[f"{name}.input"] = factors.input.cpu().contiguous()
    save_file(tensors, path)


def load_importance(path: Path, device: torch.device) -> Importance:
    """Reads what :func:`save_importance` wrote."""
    tensors = load_file(path, device=str(device))
    names = sorted(name.removesuffix(".output") for name in tensors if name.endswith(".output"))
    return {name: Factors(output=tensors[f"{name}.output"], input=tensors[f"{name}.input"]) for name in names}
