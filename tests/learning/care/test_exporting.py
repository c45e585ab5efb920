from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from selflearn.errors import Conflict, StateError
from selflearn.learning.care.exporting import export_merged, export_plain, new_directory
from selflearn.models.adapter import attach_new, attach_saved, factors, lora_layers, probe_logits, save_adapter
from selflearn.models.base import load_base
from tests.architectures import ARCHITECTURES
from tests.learning.care.architectures import adapt, make_model, save_model

PROMPT = [5, 17, 3, 60, 41]


def _saved_adapter(base: Path, directory: Path, dtype: str, spread: float = 0.2) -> PreTrainedModel:
    loaded = load_base(base, device="cpu", dtype=dtype)
    adapt(loaded.model, spread=spread)
    save_adapter(loaded.model, directory)
    return loaded.model


def _load(directory: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(str(directory), local_files_only=True)
    model.eval()
    return model


def _weight(model: PreTrainedModel, name: str) -> Tensor:
    return model.get_parameter(f"{name}.weight").detach().double().clone()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_merged_model_answers_as_base_and_adapter(name: str, tmp_path: Path) -> None:
    save_model(name, tmp_path / "base")
    adapted = _saved_adapter(tmp_path / "base", tmp_path / "adapter", "float32")
    plain = load_base(tmp_path / "base", device="cpu", dtype="float32")
    moved = float((probe_logits(adapted, PROMPT) - probe_logits(plain.model, PROMPT)).abs().max())
    (tmp_path / "merged").mkdir()
    told = export_merged(plain, tmp_path / "adapter", tmp_path / "merged")
    found = probe_logits(_load(tmp_path / "merged"), PROMPT)
    assert torch.allclose(found, probe_logits(adapted, PROMPT), atol=1e-4)
    assert moved > 0.5
    assert told.dtype == "float32"
    assert told.rounding == 0.0
    assert AutoTokenizer.from_pretrained(str(tmp_path / "merged")).chat_template
    assert load_base(tmp_path / "merged", device="cpu", dtype="float32").model.config.model_type == name


def test_in_half_precision_the_number_format_stays_and_the_rounding_is_told(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "base", torch.bfloat16)
    adapted = _saved_adapter(tmp_path / "base", tmp_path / "adapter", "bfloat16")
    base = load_base(tmp_path / "base", device="cpu", dtype="bfloat16")
    before = {name: _weight(base.model, name) for name in lora_layers(adapted)}
    (tmp_path / "merged").mkdir()
    told = export_merged(base, tmp_path / "adapter", tmp_path / "merged")
    merged = _load(tmp_path / "merged")
    assert merged.dtype == torch.bfloat16
    assert torch.allclose(probe_logits(merged, PROMPT), probe_logits(adapted, PROMPT), atol=0.2)
    lost = whole = 0.0
    for name, layer in lora_layers(adapted).items():
        delta = 2.0 * factors(layer)[1].detach().double() @ factors(layer)[0].detach().double()
        wanted = before[name] + delta
        lost += float((_weight(merged, name) - wanted).square().sum())
        whole += float(delta.square().sum())
    assert told.rounding == pytest.approx((lost / whole) ** 0.5, rel=1e-3)
    assert told.rounding > 1e-3


def test_a_small_update_gets_lost_in_half_precision_and_that_is_told(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "base", torch.bfloat16)
    _saved_adapter(tmp_path / "base", tmp_path / "adapter", "bfloat16", spread=1e-4)
    base = load_base(tmp_path / "base", device="cpu", dtype="bfloat16")
    (tmp_path / "merged").mkdir()
    assert export_merged(base, tmp_path / "adapter", tmp_path / "merged").rounding > 0.5


def test_trained_biases_are_merged_too(tmp_path: Path) -> None:
    save_model("qwen2", tmp_path / "base")
    adapted = load_base(tmp_path / "base", device="cpu", dtype="float32").model
    attach_new(adapted, rank=2, alpha=4.0, seed=0, biases=True)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name and name.endswith("bias"):
            parameter.data.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(1))
    save_adapter(adapted, tmp_path / "adapter")
    base = load_base(tmp_path / "base", device="cpu", dtype="float32")
    before = probe_logits(base.model, PROMPT)
    (tmp_path / "merged").mkdir()
    export_merged(base, tmp_path / "adapter", tmp_path / "merged")
    assert torch.allclose(probe_logits(_load(tmp_path / "merged"), PROMPT), probe_logits(adapted, PROMPT), atol=1e-4)
    assert not torch.allclose(before, probe_logits(adapted, PROMPT), atol=0.1)


def test_a_plain_export_is_the_adapter_and_nothing_else(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "base")
    adapted = _saved_adapter(tmp_path / "base", tmp_path / "version", "float32")
    (tmp_path / "version" / "manifest.json").write_text("{}")
    (tmp_path / "out").mkdir()
    export_plain(tmp_path / "version", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    loaded = make_model("llama")
    attach_saved(loaded, tmp_path / "out")
    assert torch.equal(probe_logits(loaded, PROMPT), probe_logits(adapted, PROMPT))


def test_a_new_directory_is_all_or_nothing(tmp_path: Path) -> None:
    with new_directory(tmp_path / "deep" / "new") as work:
        (work / "file").write_text("whole")
        assert not (tmp_path / "deep" / "new").exists()
    assert (tmp_path / "deep" / "new" / "file").read_text() == "whole"
    with pytest.raises(Conflict, match="exists already"), new_directory(tmp_path / "deep" / "new"):
        raise AssertionError("never gets here")
    with pytest.raises(StateError, match="could not be written"), new_directory(tmp_path / "deep" / "other") as work:
        (work / "file").rename(work / "elsewhere" / "file")
    with pytest.raises(Conflict), new_directory(tmp_path / "deep" / "late"):
        (tmp_path / "deep" / "late").mkdir()
    with pytest.raises(StateError, match="cannot be made"), new_directory(tmp_path / "deep" / "new" / "file" / "below"):
        raise AssertionError("never gets here")
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"new", "late"}
