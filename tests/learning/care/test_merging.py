from __future__ import annotations

from pathlib import Path

import pytest
import torch

from selflearn.errors import BadRequest, ModelError
from selflearn.learning.care.merging import Saved, merge, read_saved, write_saved
from selflearn.models.adapter import adapter_state, attach_saved, probe_logits
from tests.learning.care.architectures import make_model, save_adapted


@pytest.fixture
def siblings(tmp_path: Path) -> list[Saved]:
    """Two adapters of one base, of different ranks and scales."""
    save_adapted("llama", tmp_path / "first", seed=1, rank=4, alpha=8.0)
    save_adapted("llama", tmp_path / "second", seed=2, rank=3, alpha=4.5)
    return [read_saved(tmp_path / "first"), read_saved(tmp_path / "second")]


def _products(saved: Saved) -> dict[str, torch.Tensor]:
    return {name: saved.scale * b.double() @ a.double() for name, (a, b) in saved.pairs.items()}


def test_with_room_enough_the_merge_is_the_weighted_sum(siblings: list[Saved], tmp_path: Path) -> None:
    merged, report = merge(siblings, [0.7, -0.2], rank=16)
    assert report.rank_after == 7
    assert report.relative_error < 1e-6
    first, second = (_products(each) for each in siblings)
    for name, product in _products(merged).items():
        assert torch.allclose(product, 0.7 * first[name] - 0.2 * second[name], atol=1e-5)


def test_at_a_low_rank_the_error_is_told_exactly(siblings: list[Saved]) -> None:
    merged, report = merge(siblings, [0.5, 0.5], rank=3)
    first, second = (_products(each) for each in siblings)
    wanted = {name: 0.5 * (first[name] + second[name]) for name in first}
    lost = sum(float((product - wanted[name]).square().sum()) for name, product in _products(merged).items())
    whole = sum(float(product.square().sum()) for product in wanted.values())
    assert merged.rank == 3
    assert report.relative_error == pytest.approx((lost / whole) ** 0.5, rel=1e-4)
    assert report.relative_error > 0.1


def test_what_is_written_is_what_was_merged(siblings: list[Saved], tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    merged, _ = merge(siblings, [1.0, 1.0], rank=5)
    write_saved(merged, tmp_path / "merged")
    again = read_saved(tmp_path / "merged")
    assert again.scale == pytest.approx(merged.scale)
    for name, (a, b) in merged.pairs.items():
        assert torch.equal(again.pairs[name][0], a)
        assert torch.equal(again.pairs[name][1], b)
    model = make_model("llama")
    attach_saved(model, tmp_path / "merged")
    assert {tensor.shape[0] for name, tensor in adapter_state(model).items() if "lora_A" in name} == {5}
    assert probe_logits(model, [1, 2, 3]).isfinite().all()


def test_one_adapter_of_weight_one_merges_into_itself(siblings: list[Saved]) -> None:
    merged, report = merge(siblings[:1], [1.0], rank=4)
    assert report.relative_error < 1e-6
    assert all(
        torch.allclose(product, _products(siblings[0])[n], atol=1e-5) for n, product in _products(merged).items()
    )


def test_adapters_of_different_bases_are_refused(siblings: list[Saved], tmp_path: Path) -> None:
    save_adapted("gpt2", tmp_path / "other")
    with pytest.raises(ModelError, match="first and other adapt different layers"):
        merge([siblings[0], read_saved(tmp_path / "other")], [1.0, 1.0], rank=4)
    narrow = {name: (a[:, :-1], b) for name, (a, b) in siblings[1].pairs.items()}
    shrunk = Saved(tmp_path / "narrow", narrow, {}, 1.0)
    with pytest.raises(ModelError, match=r"layers.0.mlp.down_proj is 64×128 in first and 64×127 in narrow"):
        merge([siblings[0], shrunk], [1.0, 1.0], rank=4)
    with pytest.raises(BadRequest, match="1 weights for 2 versions"):
        merge(siblings, [1.0], rank=4)
