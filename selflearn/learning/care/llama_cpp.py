"""An adapter as a GGUF file, which llama.cpp applies to the GGUF file of the same base (``--lora``).

The tensors are the factors under llama.cpp's names for the base's. Its rotary embedding turns neighbours where
transformers turns halves, so in a Llama the rows of the query and key projections have another order there, and the
rows of their B follow. Every architecture that is written here was run in llama.cpp against transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from selflearn.errors import ModelError
from selflearn.models.adapter import Array, saved_biases, saved_factors

FILE: Final = "adapter.gguf"
#: What llama.cpp calls the architectures that were tried, by transformers' ``model_type``.
ARCHITECTURES: Final = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gpt2": "gpt2"}
#: Those whose query and key rows llama.cpp keeps in the order of its own rotary embedding, and the count of heads.
_REORDERED: Final = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}


def export_gguf(config: Any, adapter: Path, file: Path) -> None:
    """Writes the adapter in ``adapter`` (fp32) to ``file``; ``config`` is the configuration of the base model.

    Raises :class:`ModelError` for an architecture that was not tried, or if the package gguf is not installed.
    """
    gguf = _library()
    if config.model_type not in ARCHITECTURES:
        raise ModelError(
            f"A {config.model_type} adapter cannot be written as GGUF: expected one of {', '.join(ARCHITECTURES)}. "
            "Export it merged and convert that with llama.cpp's own script."
        )
    name = ARCHITECTURES[config.model_type]
    architecture = next(arch for arch, named in gguf.MODEL_ARCH_NAMES.items() if named == name)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    if saved_biases(adapter):
        raise ModelError("The adapter trains biases, which llama.cpp's adapters do not have. Export it merged.")
    pairs, scale = saved_factors(adapter)
    writer = gguf.GGUFWriter(str(file), name)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, scale * next(a.shape[0] for a, _ in pairs.values()))
    for layer, (a, b) in sorted(pairs.items()):
        tensor = names.get_name(layer)
        if tensor is None:
            raise ModelError(f"llama.cpp knows no layer {layer} in a {name} model; expected one of its linear layers.")
        writer.add_tensor(f"{tensor}.weight.lora_a", np.ascontiguousarray(a))
        writer.add_tensor(f"{tensor}.weight.lora_b", np.ascontiguousarray(_reordered(config, layer, b)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _reordered(config: Any, layer: str, b: Array) -> Array:
    """B [d_out, rank] with its rows as llama.cpp has them: in each head, first and second half interleaved."""
    counted = next((count for part, count in _REORDERED.items() if layer.endswith(part)), None)
    if ARCHITECTURES[config.model_type] != "llama" or counted is None:
        return b
    heads = getattr(config, counted)
    return b.reshape(heads, 2, b.shape[0] // heads // 2, b.shape[1]).swapaxes(1, 2).reshape(b.shape)


def _library() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ModelError("GGUF files need the package gguf: pip install 'selflearn[embedded]'.") from error
    return gguf
