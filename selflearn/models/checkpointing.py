"""Gradient checkpointing: a layer's activations are computed again in the backward pass instead of kept."""

from __future__ import annotations

from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from selflearn.errors import ModelError


def checkpoint_activations(model: PreTrainedModel) -> None:
    """From now on each decoder layer keeps its input alone (Chen et al. 2016, with one segment per layer).

    Only the layers themselves go into training mode, which is what switches it on: dropout stays off. Raises
    :class:`ModelError` when the model cannot.
    """
    if not model.supports_gradient_checkpointing:
        raise ModelError(f"{type(model).__name__} cannot checkpoint. Set learning.gradient_checkpointing to false.")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True
