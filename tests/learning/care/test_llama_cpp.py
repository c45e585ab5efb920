"""The written file is run in llama.cpp itself, over a GGUF of the same random base, against transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH_NAMES, GGUFReader, GGUFWriter, get_tensor_name_map
from transformers import FalconConfig, PreTrainedModel

from selflearn.errors import ModelError
from selflearn.learning.care.llama_cpp import ARCHITECTURES, export_gguf
from selflearn.models.adapter import probe_logits
from tests.learning.care import llama_cpp_logprobs
from tests.learning.care.architectures import VOCABULARY, make_model, save_adapted

PROMPT = [5, 17, 3, 60, 41, 88, 9, 200]
#: llama.cpp keeps keys and values in half precision; the adapter moves the same numbers by about 3 nats.
CLOSE = 0.01


def _interleaved(weight: Any, heads: int) -> Any:
    """The order of llama.cpp's rotary embedding, row by row: 0, d/2, 1, d/2 + 1, … within each head of d rows."""
    size = weight.shape[0] // heads
    order = [
        head * size + half * size // 2 + row for head in range(heads) for row in range(size // 2) for half in (0, 1)
    ]
    return weight[order]


def _write_base(model: PreTrainedModel, name: str, file: Path) -> None:
    """The base itself as GGUF, with a vocabulary of names: llama.cpp is only given ids."""
    config: Any = model.config
    writer = GGUFWriter(str(file), name)
    writer.add_type("model")
    _write_shape(writer, config, name)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{number}" for number in range(VOCABULARY)])
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges(["t 0"])
    writer.add_eos_token_id(2)
    architecture = next(arch for arch, known in MODEL_ARCH_NAMES.items() if known == name)
    names = get_tensor_name_map(architecture, config.num_hidden_layers)
    for parameter, tensor in model.named_parameters():
        layer, _, kind = parameter.rpartition(".")
        array = tensor.detach().numpy()
        if name == "gpt2" and array.ndim == 2 and ".h." in parameter:
            array = array.T
        if name == "llama" and layer.endswith(("q_proj", "k_proj")):
            array = _interleaved(array, config.num_attention_heads if "q_proj" in layer else config.num_key_value_heads)
        writer.add_tensor(f"{names.get_name(layer)}.{kind}", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_shape(writer: GGUFWriter, config: Any, name: str) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_vocab_size(VOCABULARY)
    if name == "gpt2":
        writer.add_feed_forward_length(256)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(128)
    writer.add_head_count_kv(2)
    writer.add_key_length(16)
    writer.add_value_length(16)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10000.0)


def _in_llama_cpp(base: Path, adapter: Path | None) -> dict[int, float]:
    asked = {"model": str(base), "adapter": None if adapter is None else str(adapter), "prompt": PROMPT}
    done = subprocess.run(
        [sys.executable, llama_cpp_logprobs.__file__], input=json.dumps(asked), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {int(token): value for token, value in json.loads(done.stdout.splitlines()[-1]).items()}


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_llama_cpp_computes_with_the_file_what_transformers_computes_with_the_adapter(
    name: str, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp")
    base = make_model(name)
    _write_base(base, name, tmp_path / "base.gguf")
    adapted = save_adapted(name, tmp_path / "adapter")
    export_gguf(adapted.config, tmp_path / "adapter", tmp_path / "adapter.gguf")
    for model, file in ((base, None), (adapted, tmp_path / "adapter.gguf")):
        expected = torch.log_softmax(probe_logits(model, PROMPT), dim=-1)
        found = _in_llama_cpp(tmp_path / "base.gguf", file)
        assert max(abs(value - float(expected[token])) for token, value in found.items()) < CLOSE
    moved = torch.log_softmax(probe_logits(adapted, PROMPT), -1) - torch.log_softmax(probe_logits(base, PROMPT), -1)
    assert float(moved.abs().max()) > 100 * CLOSE


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    adapted = save_adapted("llama", tmp_path / "adapter", rank=4, alpha=6.0)
    export_gguf(adapted.config, tmp_path / "adapter", tmp_path / "adapter.gguf")
    reader = GGUFReader(str(tmp_path / "adapter.gguf"))
    told = {name: field.contents() for name, field in reader.fields.items()}
    assert told["general.type"] == "adapter"
    assert told["adapter.type"] == "lora"
    assert told["general.architecture"] == "llama"
    assert told["adapter.lora.alpha"] == 6.0
    assert len(reader.tensors) == 2 * 14


def test_an_architecture_that_was_not_tried_is_refused(tmp_path: Path) -> None:
    save_adapted("llama", tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"falcon.*expected one of llama"):
        export_gguf(FalconConfig(), tmp_path / "adapter", tmp_path / "adapter.gguf")
    assert not (tmp_path / "adapter.gguf").exists()
