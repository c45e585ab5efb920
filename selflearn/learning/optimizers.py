"""What turns gradients into steps: the optimizer that the settings name, over the adapter of one model.

Each parameter group keeps its own ``base_rate``; :func:`set_rate` scales them all by the schedule's factor, so that
LoRA+'s different rates of A and B (Hayou et al. 2024) keep their ratio over the whole update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from selflearn.config import LearningSettings
from selflearn.errors import ConfigurationError
from selflearn.learning.penalties import LowRank

#: Decay of the running second moment: beta_2 of Adam and LAMB, alpha of RMSprop. Adam's usual 0.999 looks back on a
#: thousand steps; an update has a hundred.
SECOND_MOMENT_DECAY = 0.99

Groups = list[dict[str, Any]]


def make_optimizer(adapter: Mapping[str, LowRank], settings: LearningSettings) -> Optimizer:
    """The optimizer ``settings.optimizer`` over what trains of every layer: A, B and, where there is one, the bias.

    B learns with ``settings.lora_plus_ratio`` times the rate of A (LoRA+, sec. 4), a bias with that of A. Raises
    :class:`ConfigurationError` when the optimizer needs an extra that is not installed.
    """
    rate = settings.learning_rate
    groups = [
        _group([layer.a for layer in adapter.values()], rate),
        _group([layer.b for layer in adapter.values()], rate * settings.lora_plus_ratio),
        _group([layer.bias for layer in adapter.values() if layer.bias is not None], rate),
    ]
    return _MAKERS[settings.optimizer]([group for group in groups if group["params"]], settings)


def set_rate(optimizer: Optimizer, factor: float) -> None:
    """Sets each group's rate to ``factor`` times the one that it began with."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["base_rate"]


def _group(parameters: Sequence[Tensor], rate: float) -> dict[str, Any]:
    """Parameters that share a rate; those that do not train have no place in it."""
    return {"params": [one for one in parameters if one.requires_grad], "lr": rate, "base_rate": rate}


def _adamw(groups: Groups, settings: LearningSettings) -> Optimizer:
    """Decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2)."""
    return torch.optim.AdamW(groups, betas=_betas(settings), weight_decay=settings.weight_decay, fused=True)


def _adam(groups: Groups, settings: LearningSettings) -> Optimizer:
    """Kingma and Ba 2015, algorithm 1; weight decay is part of the gradient."""
    return torch.optim.Adam(groups, betas=_betas(settings), weight_decay=settings.weight_decay, fused=True)


def _rmsprop(groups: Groups, settings: LearningSettings) -> Optimizer:
    """Hinton 2012, lecture 6e, with momentum; weight decay is part of the gradient."""
    momentum, decay = settings.momentum, settings.weight_decay
    return torch.optim.RMSprop(groups, alpha=SECOND_MOMENT_DECAY, momentum=momentum, weight_decay=decay)


def _sgd(groups: Groups, settings: LearningSettings) -> Optimizer:
    """Stochastic gradient descent with heavy-ball momentum (Polyak 1964); weight decay is part of the gradient."""
    return torch.optim.SGD(groups, momentum=settings.momentum, weight_decay=settings.weight_decay, fused=True)


def _lamb(groups: Groups, settings: LearningSettings) -> Optimizer:
    """Each tensor's step is Adam's direction and its decay, as long as the tensor times the rate.

    You et al. 2020, algorithm 2, without bias correction: the length of the direction does not count. (The library's
    default divides the rate by 1 - beta_1^t all the same, so that the first step is ten times as long as it should.)
    """
    try:
        from pytorch_optimizer import Lamb
    except ImportError as error:
        raise ConfigurationError(
            f"Setting learning.optimizer is 'lamb', but pytorch_optimizer cannot be imported ({error}). Install the "
            "extra selflearn[optimizers], or take another optimizer."
        ) from error
    batched = groups[0]["params"][0].device.type != "cpu"  # there it costs more than one tensor after the other
    decay = settings.weight_decay
    optimizer: Optimizer = Lamb(
        groups, betas=_betas(settings), weight_decay=decay, weight_decouple=False, foreach=batched, adam_debias=True
    )
    return optimizer


def _betas(settings: LearningSettings) -> tuple[float, float]:
    return settings.momentum, SECOND_MOMENT_DECAY


_MAKERS: Mapping[str, Callable[[Groups, LearningSettings], Optimizer]] = {
    "adamw": _adamw,
    "adam": _adam,
    "rmsprop": _rmsprop,
    "sgd": _sgd,
    "lamb": _lamb,
}
