"""LoRA adapters: attached in place, so that the model stays the transformers model that it was.

Every linear layer but the output head gets one. With a rank-r adapter a layer computes x Wᵀ + s·(x Aᵀ) Bᵀ, where
A is [r, d_in], B is [d_out, r] and s = alpha / r; A and B are fp32 on any base.

Biases can be trained as well, where the base has some: as a change s·b that is added to the base's own, in fp32 and in
PEFT's ``lora_bias`` layout. The base's bias, which views share, stays as it is.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from selflearn.errors import ModelError
from selflearn.models.quantization import weight_of

NAME = "default"
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."

Array = NDArray[np.float32]

logger = logging.getLogger(__name__)


def attach_new(model: PreTrainedModel, *, rank: int, alpha: float, seed: int, biases: bool = False) -> None:
    """Puts a fresh, trainable adapter into ``model``: A drawn by ``seed`` alone (on any device), B and biases zero."""
    heads = _output_heads(model)
    modules = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    linear = [name for name in modules if name not in heads]
    if not linear:
        raise ModelError(f"{type(model).__name__} has no linear layers to adapt. Use a causal language model.")
    names = sorted({name.rpartition(".")[2] for name in linear})
    excluded = [head for head in heads if head.rpartition(".")[2] in names] or None
    config = LoraConfig(
        r=rank,
        lora_alpha=plain_alpha(alpha),
        lora_dropout=0.0,
        bias="none",
        target_modules=names,
        exclude_modules=excluded,
        task_type="CAUSAL_LM",
        base_model_name_or_path=Path(str(model.config.name_or_path)).name or None,
    )
    _inject(model, config)
    generator = torch.Generator().manual_seed(seed)
    for _, layer in sorted(lora_layers(model).items()):
        factor_a, factor_b = factors(layer)
        with torch.no_grad():
            factor_a.copy_(new_rows(factor_a.shape[0], factor_a.shape[1], generator))
            factor_b.zero_()
    if biases:
        _add_biases(model)


def new_rows(count: int, width: int, generator: torch.Generator) -> Tensor:
    """[count, width] fp32 on the CPU: untrained rows of A, drawn by ``generator``."""
    bound = 1.0 / math.sqrt(width)  # kaiming-uniform with a = sqrt(5), as in the LoRA paper's code
    return torch.empty((count, width), dtype=torch.float32).uniform_(-bound, bound, generator=generator)


def attach_saved(model: PreTrainedModel, directory: Path, *, trainable: bool = False, biases: bool = False) -> None:
    """Puts the adapter saved in ``directory`` into ``model``, bit for bit.

    With ``biases`` those train as well, from zero where none were saved; without, saved ones are there and stay fixed.
    Raises :class:`ModelError` when it is missing, damaged, or does not fit the model; the model is then not usable.
    """
    weights = load_adapter_state(directory)
    _inject(model, _read_config(directory))
    here = adapter_state(model)
    if set(here) != set(weights):
        odd = sorted(set(here) ^ set(weights))
        raise ModelError(
            f"The adapter in {directory} does not fit {type(model).__name__}: {len(odd)} tensors are on one side only, "
            f"first {odd[0]}. Use the base model that it was trained on."
        )
    for name, tensor in here.items():
        if tensor.shape != weights[name].shape:
            raise ModelError(
                f"The adapter in {directory} does not fit: {name} has shape {tuple(weights[name].shape)}, expected "
                f"{tuple(tensor.shape)}. Use the base model that it was trained on."
            )
        with torch.no_grad():
            tensor.copy_(weights[name])
    for layer in lora_layers(model).values():
        for factor in factors(layer):
            factor.requires_grad_(trainable)
    if biases:
        _add_biases(model)
    for bias in trained_biases(model).values():
        bias.requires_grad_(trainable and biases)


def load_adapter_state(directory: Path) -> dict[str, Tensor]:
    """The saved tensors by their PEFT names, fp32 on the CPU."""
    file = directory / WEIGHTS_FILE
    try:
        weights: dict[str, Tensor] = load_file(str(file))
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"The adapter file {file} cannot be read: {error}. Restore it or roll back.") from error
    return weights


def saved_factors(directory: Path) -> tuple[dict[str, tuple[Array, Array]], float]:
    """The saved adapter by the base model's layer names, as (A [rank, d_in], B [d_out, rank]) in fp32, and its scale.

    As arrays, so that whoever reads them computes nothing with torch yet. Raises :class:`ModelError` as
    :func:`attach_saved` does, as far as no model is needed to notice.
    """
    config, file = _read_config(directory), directory / WEIGHTS_FILE
    try:
        weights = load_arrays(str(file))
        names = {name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in weights}
        pairs = {
            name: (weights[f"{PREFIX}{name}.lora_A.weight"], weights[f"{PREFIX}{name}.lora_B.weight"]) for name in names
        }
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"The adapter file {file} cannot be read: {error}. Restore it or roll back.") from error
    return pairs, float(config.lora_alpha) / config.r


def saved_biases(directory: Path) -> dict[str, Array]:
    """The saved changes b of biases [d_out], before the scale, by the base model's layer names; fp32, often none."""
    file, ending = directory / WEIGHTS_FILE, ".lora_B.bias"
    try:
        with safe_open(str(file), framework="np") as opened:
            names = [name for name in opened.keys() if name.endswith(ending)]  # noqa: SIM118 - it is not a mapping
            return {name.removeprefix(PREFIX).removesuffix(ending): opened.get_tensor(name) for name in names}
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"The adapter file {file} cannot be read: {error}. Restore it or roll back.") from error


def lora_layers(model: PreTrainedModel) -> dict[str, LoraLayer]:
    """The adapted layers by their names in the base model, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def factors(layer: LoraLayer) -> tuple[nn.Parameter, nn.Parameter]:
    """(A, B) of a layer: A is [rank, d_in], B is [d_out, rank], both fp32."""
    factor_a: Any = layer.lora_A[NAME].weight
    factor_b: Any = layer.lora_B[NAME].weight
    return factor_a, factor_b


def trained_biases(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The trained change b of each bias, fp32 [d_out], as ``<layer>.bias``: such a layer adds s·b to what it computes.

    Empty unless biases were asked for; the layers whose base has none are not in it.
    """
    found = {f"{name}.bias": _trained_bias(layer) for name, layer in lora_layers(model).items()}
    return {name: bias for name, bias in found.items() if bias is not None}


def bias_changes(model: PreTrainedModel) -> dict[str, tuple[Tensor, Tensor]]:
    """(s·b, the base's bias), both [d_out], by the names of the layers whose bias is trained."""
    found = {}
    for name, layer in lora_layers(model).items():
        trained, base = _trained_bias(layer), _base_bias(layer)
        if trained is not None and base is not None:
            found[name] = (scale(layer) * trained.detach(), base)
    return found


def scale(layer: LoraLayer) -> float:
    """s in ΔW = s·B·A."""
    return float(layer.scaling[NAME])


def base_weight(layer: LoraLayer) -> Tensor:
    """The frozen weight that the layer adapts, as [d_out, d_in] (GPT-2 stores its own transposed)."""
    module = layer.get_base_layer()
    weight = weight_of(module)
    return weight.T if isinstance(module, Conv1D) else weight


def plain_alpha(alpha: float) -> Any:
    """LoRA alpha as it is written down: an integer where it is one, as other loaders expect to read it."""
    return int(alpha) if float(alpha).is_integer() else alpha


def replace_factors(model: PreTrainedModel, new: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Gives every layer other factors, (A [rank, d_in], B [d_out, rank]), of one rank that may differ from the old.

    s stays, and so does what is trainable. They are new parameters: an optimizer made before holds the old ones.
    """
    layers: dict[str, Any] = dict(lora_layers(model))
    ranks = {size for a, b in new.values() for size in (a.shape[0], b.shape[1])}
    if set(new) != set(layers) or len(ranks) != 1:
        raise ModelError(
            f"Factors for {len(new)} layers with ranks {sorted(ranks)} were given to a model with {len(layers)} "
            "adapted layers. Expected a pair for each of them, all of one rank."
        )
    rank = ranks.pop()
    for name, layer in layers.items():
        for linear, factor in zip((layer.lora_A[NAME], layer.lora_B[NAME]), new[name], strict=True):
            old = linear.weight
            linear.weight = nn.Parameter(factor.to(old.device, old.dtype, copy=True), requires_grad=old.requires_grad)
            linear.out_features, linear.in_features = factor.shape
        layer.r[NAME], layer.lora_alpha[NAME] = rank, plain_alpha(layer.scaling[NAME] * rank)
    config: Any = model.peft_config
    config[NAME].lora_alpha = plain_alpha(config[NAME].lora_alpha / config[NAME].r * rank)
    config[NAME].r = rank


def adapter_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """The adapter's live tensors (not copies) by their PEFT names, sorted."""
    state: dict[str, Tensor] = {}
    for name, layer in lora_layers(model).items():
        factor_a, factor_b = factors(layer)
        state[f"{PREFIX}{name}.lora_A.weight"] = factor_a.detach()
        state[f"{PREFIX}{name}.lora_B.weight"] = factor_b.detach()
        bias = _trained_bias(layer)
        if bias is not None:
            state[f"{PREFIX}{name}.lora_B.bias"] = bias.detach()
    return dict(sorted(state.items()))


def save_adapter(model: PreTrainedModel, directory: Path) -> None:
    """Writes the adapter in the plain PEFT layout. Same adapter, same bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.to("cpu", torch.float32).contiguous() for name, tensor in adapter_state(model).items()}
    if not tensors:
        raise ModelError("There is no adapter on this model. Attach one before saving it.")
    save_file(tensors, str(directory / WEIGHTS_FILE), metadata={"format": "pt"})
    config: Any = model.peft_config
    entries = {name: _plain(value) for name, value in config[NAME].to_dict().items()}
    entries["inference_mode"] = True
    (directory / CONFIG_FILE).write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", "utf-8")


@contextmanager
def disabled(model: PreTrainedModel) -> Iterator[None]:
    """Within it the model is its base: the adapter does not take part. Whether it trains is as before afterwards."""
    layers = list(lora_layers(model).values())
    training = [[parameter.requires_grad for parameter in _parameters(layer)] for layer in layers]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer, flags in zip(layers, training, strict=True):
            layer.enable_adapters(True)  # it also makes everything trainable
            for parameter, flag in zip(_parameters(layer), flags, strict=True):
                parameter.requires_grad_(flag)


@torch.no_grad()
def probe_logits(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """Logits [vocabulary] in fp32 on the CPU at the last position of ``ids``."""
    inputs = torch.tensor([ids], device=model.device)
    logits: Tensor = model(input_ids=inputs, use_cache=False).logits
    return logits[0, -1].float().cpu()


def _output_heads(model: PreTrainedModel) -> list[str]:
    head = model.get_output_embeddings()
    return [name for name, module in model.named_modules() if head is not None and module is head]


def _inject(model: PreTrainedModel, config: LoraConfig) -> None:
    if lora_layers(model):
        raise ModelError("This model carries an adapter already. Make a fresh view of the base and attach to that.")
    conv = any(isinstance(module, Conv1D) for module in model.modules())
    config.fan_in_fan_out = conv
    biases, config.lora_bias = config.lora_bias, False  # PEFT would give one to every layer, and warn of it
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # its own draw is thrown away; the caller's randomness must not notice
        warnings.filterwarnings("ignore", message="TorchaoLoraLinear was instantiated")  # nothing is merged in place
        inject_adapter_in_model(config, model, NAME)
    for layer in lora_layers(model).values():
        for factor in factors(layer):
            factor.data = factor.data.float()
    if biases:
        _add_biases(model)


def _add_biases(model: PreTrainedModel) -> None:
    """Gives a trained change of zero to each bias of the adapted layers that has none yet."""
    own: Any = model
    with_bias = [layer for layer in lora_layers(model).values() if _base_bias(layer) is not None]
    if not with_bias:
        logger.warning("no adapted layer of %s has a bias: learning.biases changes nothing", type(model).__name__)
        return
    own.peft_config[NAME].lora_bias = True
    for layer in with_bias:
        if _trained_bias(layer) is None:
            factor_b: Any = layer.lora_B[NAME]
            weight: Tensor = factor_b.weight
            factor_b.bias = nn.Parameter(torch.zeros(weight.shape[0], dtype=torch.float32, device=weight.device))
        layer.lora_bias[NAME] = True


def _base_bias(layer: LoraLayer) -> Tensor | None:
    bias: Tensor | None = getattr(layer.get_base_layer(), "bias", None)
    return bias


def _trained_bias(layer: LoraLayer) -> nn.Parameter | None:
    bias: Any = layer.lora_B[NAME].bias
    return None if bias is None else bias


def _parameters(layer: LoraLayer) -> list[nn.Parameter]:
    bias = _trained_bias(layer)
    return [*factors(layer), *([] if bias is None else [bias])]


def _read_config(directory: Path) -> LoraConfig:
    file = directory / CONFIG_FILE
    try:
        entries = json.loads(file.read_text("utf-8"))
        config = LoraConfig.from_peft_type(**entries)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"The adapter file {file} cannot be read: {error}. Restore it or roll back.") from error
    if not isinstance(config, LoraConfig):
        raise ModelError(f"{file} describes a {config.peft_type} adapter, expected LORA.")
    return config


def _plain(value: Any) -> Any:
    """What JSON can hold, in an order that does not depend on the process."""
    if isinstance(value, set | frozenset):
        return sorted(_plain(item) for item in value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return getattr(value, "value", value)
