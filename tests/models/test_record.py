from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from selflearn.errors import ModelError
from selflearn.models.adapter import attach_saved, probe_logits
from selflearn.models.base import context_length, load_base
from selflearn.models.chat import probe_ids, stop_ids
from selflearn.models.record import PROBE_FILE, recorded_base


def test_a_base_is_recorded_once_as_a_version_that_changes_nothing(tiny_model: Path, tmp_path: Path) -> None:
    base = load_base(tiny_model, device="cpu", dtype="float32")
    ids = probe_ids(base.tokenizer)
    expected = probe_logits(base.model, ids)
    directory = recorded_base(tiny_model, ids, tmp_path / "cache", device="cpu", dtype="float32")
    assert torch.allclose(load_file(directory / PROBE_FILE)["logits"], expected, atol=1e-5)
    attach_saved(base.model, directory)
    assert torch.equal(probe_logits(base.model, ids), expected)
    assert list((tmp_path / "cache").iterdir()) == [directory]
    (directory / PROBE_FILE).write_bytes(b"as it is")
    assert recorded_base(tiny_model, ids, tmp_path / "cache", device="cpu", dtype="float32") == directory
    assert (directory / PROBE_FILE).read_bytes() == b"as it is"


def test_a_base_that_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="could not be recorded"):
        recorded_base(tmp_path, [1], tmp_path / "cache", device="cpu", dtype="float32")
    assert not list((tmp_path / "cache").glob("base-*"))


def test_without_weights_a_base_knows_all_but_answers(tiny_model: Path) -> None:
    whole = load_base(tiny_model, device="cpu", dtype="float32")
    empty = load_base(tiny_model, device="cpu", dtype="float32", weights=False)
    assert (empty.name, empty.sha256, str(empty.device)) == (whole.name, whole.sha256, "cpu")
    assert context_length(empty.model) == context_length(whole.model)
    assert stop_ids(empty.tokenizer, empty.model) == stop_ids(whole.tokenizer, whole.model)
    assert all(parameter.is_meta for parameter in empty.model.parameters())
