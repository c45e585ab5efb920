"""LoRA products in the type of the base, while its weights and their gradients stay fp32.

PEFT casts each layer's input to fp32, multiplies, scales, casts back and adds: for a bf16 base most of what an adapter
costs. Here A and B are cast instead (they are small) and the product goes straight onto the base's output, as mixed
precision does it (Micikevicius et al. 2018, sec. 3.1: fp32 master weights).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn


@contextmanager
def in_base_dtype(model: nn.Module) -> Iterator[None]:
    """Within it the LoRA layers on a bf16 base multiply in bf16. The backward pass may come after it.

    Not for a forward pass that runs again later, as with gradient checkpointing: that one would not be within.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLayer) and _can_be_cast(module)]
    for layer in layers:
        layer.__dict__["forward"] = partial(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]


def _can_be_cast(layer: LoraLayer) -> bool:
    """Plain LoRA, one adapter that is switched on and not merged."""
    plain = isinstance(layer, Linear) and len(layer.active_adapters) == 1 and not layer.lora_variant
    return plain and not layer.disable_adapters and not layer.merged


def _forward(layer: Any, x: Tensor, *_: object, **__: object) -> Tensor:
    if x.dtype != torch.bfloat16:  # fp16 would need its loss scaled, or small gradients vanish
        return type(layer).forward(layer, x)  # type: ignore[no-any-return]
    result: Tensor = layer.base_layer(x)
    (name,) = layer.active_adapters
    down, up, scale = layer.lora_A[name], layer.lora_B[name], layer.scaling[name]
    inner = nn.functional.linear(x.flatten(0, -2), down.weight.to(x.dtype))
    outer = (scale * up.weight).to(x.dtype)
    changed = torch.addmm(result.flatten(0, -2), inner, outer.T).view_as(result)
    return changed if up.bias is None else changed + (scale * up.bias).to(x.dtype)
