"""A frozen base in fewer bits, for training: int8 by torchao, 4-bit NormalFloat by bitsandbytes.

Both quantise the weights of linear layers alone and multiply in the model's own type; embedding and output head stay as
they are. The adapter on top stays fp32 (QLoRA: Dettmers et al. 2023, eq. 5).
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any, Final, Literal

from torch import Tensor, nn
from transformers import PreTrainedModel

from selflearn.errors import ModelError

Quantization = Literal["none", "int8", "4bit"]
LIBRARIES: Final = {"int8": "torchao", "4bit": "bitsandbytes"}


def quantize(model: PreTrainedModel, quantization: Quantization) -> None:
    """Replaces the weights of the linear layers but the output head, in place and on the device where they are.

    Raises :class:`ModelError` when the library is not installed or there is nothing to quantise.
    """
    if quantization == "none":
        return
    head = model.get_output_embeddings()
    linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
    if not linear:
        raise ModelError(f"{type(model).__name__} has no linear layers to quantise. Set learning.quantization to none.")
    library = _library(quantization)
    if quantization == "int8":
        chosen = set(map(id, linear.values()))
        library.quantize_(model, library.Int8WeightOnlyConfig(), filter_fn=lambda module, _: id(module) in chosen)
    else:
        for name, module in linear.items():
            model.set_submodule(name, _in_4bit(library, module))
    model.requires_grad_(False)


def weight_of(module: nn.Module) -> Tensor:
    """The weight of a linear layer in the model's type, whatever it is kept in."""
    weight: Any = module.weight
    state = getattr(weight, "quant_state", None)
    if state is not None:
        restored: Tensor = _library("4bit").functional.dequantize_4bit(weight.data, state)
        return restored
    if hasattr(weight, "tensor_data_names"):  # torchao's tensors say what they hold
        plain: Tensor = weight.dequantize()
        return plain
    tensor: Tensor = weight
    return tensor


def _in_4bit(library: Any, module: nn.Linear) -> nn.Module:
    new: Any = library.nn.Linear4bit(
        module.in_features,
        module.out_features,
        bias=module.bias is not None,
        compute_dtype=module.weight.dtype,
        quant_type="nf4",
        device="meta",
    )
    new.support_avx512bf16_for_cpu = False  # it would repack the weights when first measured, and lose the gradient
    new.weight = library.nn.Params4bit(module.weight.data.contiguous(), requires_grad=False, quant_type="nf4")
    if module.bias is not None:
        new.bias = module.bias
    moved: nn.Module = new.to(module.weight.device)  # which is when it is quantised
    return moved


def _library(quantization: str) -> Any:
    name = LIBRARIES[quantization]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they miss on this machine, they do without
            return importlib.import_module("torchao.quantization" if quantization == "int8" else name)
    except ImportError as error:
        raise ModelError(
            f"learning.quantization = {quantization!r} needs {name}, which cannot be imported ({error}). "
            "Install it with: pip install 'selflearn[quantized]'"
        ) from error
