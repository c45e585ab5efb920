from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from selflearn.errors import ModelError
from selflearn.models.base import choose_device, context_length, load_base
from selflearn.models.library import NOTE, fingerprint, locate, prepare


@pytest.fixture
def model_copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def test_names_become_directories(tmp_path: Path) -> None:
    assert locate("embedded", tmp_path) == tmp_path / "models" / "SmolLM2-135M-Instruct"
    assert locate("owner/name", tmp_path) == tmp_path / "models" / "owner--name"
    assert locate(str(tmp_path), Path("elsewhere")) == tmp_path


def test_a_model_directory_is_taken_as_it_is(tiny_model: Path, tmp_path: Path) -> None:
    before = sorted(tiny_model.iterdir())
    assert prepare(str(tiny_model), tmp_path) == tiny_model
    assert sorted(tiny_model.iterdir()) == before


def test_a_missing_directory_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Give an existing directory"):
        prepare(str(tmp_path / "nowhere"), tmp_path)


def test_pickled_weights_are_refused(model_copy: Path, tmp_path: Path) -> None:
    (model_copy / "model.safetensors").rename(model_copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled weights are never loaded"):
        prepare(str(model_copy), tmp_path)
    with pytest.raises(ModelError, match="pickled weights are never loaded"):
        load_base(model_copy)


def test_the_fingerprint_is_of_the_content(tiny_model: Path, model_copy: Path) -> None:
    assert fingerprint(model_copy) == fingerprint(tiny_model) == load_base(tiny_model).sha256
    config = model_copy / "config.json"
    config.write_text(config.read_text("utf-8") + "\n", "utf-8")
    assert fingerprint(model_copy) != fingerprint(tiny_model)


def test_a_damaged_base_is_not_loaded(model_copy: Path) -> None:
    (model_copy / NOTE).write_text(json.dumps({"name": "copy", "sha256": fingerprint(model_copy)}), "utf-8")
    assert load_base(model_copy).name == "copy"
    weights = model_copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(ModelError, match="is damaged"):
        load_base(model_copy)


def test_a_truncated_base_is_a_clear_error(model_copy: Path) -> None:
    weights = model_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(model_copy)


def test_unknown_devices_and_dtypes_are_named(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="Unknown device 'abacus'"):
        choose_device("abacus")
    with pytest.raises(ModelError, match="torch sees"):
        choose_device("cuda:99")
    with pytest.raises(ModelError, match="Unknown dtype"):
        load_base(tiny_model, dtype="float8")


def test_a_base_is_frozen_and_knows_its_length(tiny_model: Path) -> None:
    base = load_base(tiny_model)
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert context_length(base.model) == 512


def test_the_library_needs_no_torch() -> None:
    code = "import sys, selflearn.models.library; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
