"""Orthogonal subspaces on a tiny model: what is frozen stays, what is saved is a plain LoRA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from selflearn.config import LearningSettings
from selflearn.learning.care.compaction import compact
from selflearn.learning.growth import grow, hold_rows
from selflearn.learning.optimizers import make_optimizer
from selflearn.learning.penalties import Factors
from selflearn.learning.regularisers import frozen_copy, low_rank, weight_pulls
from selflearn.models.adapter import (
    adapter_state,
    attach_new,
    attach_saved,
    factors,
    lora_layers,
    probe_logits,
    save_adapter,
    scale,
)
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.forward import TokenSequence, collate, response_losses
from selflearn.models.views import view_of

IDS = [5, 9, 30, 31]
ROWS = [TokenSequence((5, 9, 30, 31, 40, 41), 3), TokenSequence((7, 8, 9, 50), 2)]


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> LoadedBase:
    return load_base(tiny_model, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def parent(base: LoadedBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved adapter of rank 3 whose B is not zero."""
    view = view_of(base.model)
    attach_new(view, rank=3, alpha=4.0, seed=0)
    for number, layer in enumerate(lora_layers(view).values()):
        with torch.no_grad():
            torch.nn.init.normal_(factors(layer)[1], std=0.05, generator=torch.Generator().manual_seed(number))
    directory = tmp_path_factory.mktemp("versions") / "parent"
    save_adapter(view, directory)
    return directory


def settings(**changed: Any) -> LearningSettings:
    return LearningSettings(
        **{"rank": 2, "ewc_weight": 0.0, "orthogonal_weight": 0.5, "learning_rate": 0.01, **changed}
    )


def trained(base: LoadedBase, parent: Path, chosen: LearningSettings, steps: int = 3) -> tuple[LoadedBase, int]:
    view = view_of(base.model)
    attach_saved(view, parent, trainable=True)
    frozen = grow(view, rank=chosen.rank, max_rank=chosen.max_rank, seed=1)
    adapter = low_rank(view)
    optimizer = make_optimizer(adapter, chosen)
    hold_rows(adapter, frozen, optimizer)
    pulls = weight_pulls(adapter, {}, {}, chosen, frozen=frozen)
    batch = collate(ROWS, view.device)
    for _ in range(steps):
        optimizer.zero_grad()
        (response_losses(view, batch).sum() + sum(pull() for pull in pulls.values())).backward()
        optimizer.step()
    return LoadedBase(base.name, base.path, base.sha256, view, base.tokenizer, base.device), frozen


def test_growing_changes_nothing_yet(base: LoadedBase, parent: Path) -> None:
    before, after = view_of(base.model), view_of(base.model)
    attach_saved(before, parent)
    attach_saved(after, parent, trainable=True)
    reference = frozen_copy(low_rank(after))

    assert grow(after, rank=2, max_rank=8, seed=1) == 3
    torch.testing.assert_close(probe_logits(after, IDS), probe_logits(before, IDS), rtol=0.0, atol=1e-6)
    adapter = low_rank(after)
    assert all(layer.a.shape[0] == 5 and layer.a.requires_grad and layer.b.requires_grad for layer in adapter.values())
    importance = {n: Factors(torch.ones(len(one.b)), torch.ones(one.a.shape[1])) for n, one in adapter.items()}
    pulls = weight_pulls(adapter, reference, importance, LearningSettings(ewc_weight=1.0, l2_weight=1.0))
    assert [float(pull().detach()) for pull in pulls.values()] == [0.0, 0.0]  # the parent had fewer rows


def test_it_draws_by_the_seed_alone(base: LoadedBase, parent: Path) -> None:
    drawn: list[dict[str, Tensor]] = []
    for seed, disturbance in ((1, 5), (1, 6), (2, 5)):
        view = view_of(base.model)
        attach_saved(view, parent, trainable=True)
        torch.manual_seed(disturbance)
        grow(view, rank=2, max_rank=8, seed=seed)
        drawn.append(adapter_state(view))

    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert not all(torch.equal(drawn[0][name], drawn[2][name]) for name in drawn[0])


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "rmsprop", "sgd", "lamb"])
def test_old_rows_stay_to_the_bit_whatever_the_optimizer_does(base: LoadedBase, parent: Path, optimizer: str) -> None:
    learned, frozen = trained(base, parent, settings(optimizer=optimizer, weight_decay=0.5))
    before = view_of(base.model)
    attach_saved(before, parent)

    for name, layer in lora_layers(learned.model).items():
        a, b = factors(layer)
        old_a, old_b = factors(lora_layers(before)[name])
        assert torch.equal(a[:frozen], old_a)
        assert torch.equal(b[:, :frozen], old_b)
        assert a.grad is not None
        assert b.grad is not None
        assert float(a.grad[:frozen].abs().max()) == float(b.grad[:, :frozen].abs().max()) == 0.0  # nor do they count
        assert float(b[:, frozen:].detach().abs().max()) > 0.0  # and the new ones learn


def test_the_pull_keeps_new_rows_orthogonal_to_old_ones(base: LoadedBase, parent: Path) -> None:
    def cosine(weight: float) -> float:
        learned, frozen = trained(base, parent, settings(orthogonal_weight=weight), steps=30)
        rows = [torch.nn.functional.normalize(layer.a.detach()) for layer in low_rank(learned.model).values()]
        return max(float((a[:frozen] @ a[frozen:].T).abs().max()) for a in rows)

    assert cosine(weight=5.0) < 0.25 * cosine(weight=1e-9)


def test_what_is_saved_is_one_plain_adapter(base: LoadedBase, parent: Path, tmp_path: Path) -> None:
    learned, _ = trained(base, parent, settings())
    save_adapter(learned.model, tmp_path / "child")
    entries = json.loads((tmp_path / "child/adapter_config.json").read_text("utf-8"))
    loaded = view_of(base.model)
    attach_saved(loaded, tmp_path / "child")

    assert entries["r"] == 5
    assert entries["lora_alpha"] / entries["r"] == pytest.approx(4.0 / 3.0)
    assert [scale(layer) for layer in lora_layers(loaded).values()] == pytest.approx([4.0 / 3.0] * 14)
    torch.testing.assert_close(probe_logits(loaded, IDS), probe_logits(learned.model, IDS), rtol=0.0, atol=1e-5)


def test_at_the_highest_rank_the_old_rows_make_room(base: LoadedBase, parent: Path) -> None:
    learned, frozen = trained(base, parent, settings(max_rank=4), steps=0)
    before = view_of(base.model)
    attach_saved(before, parent)
    best, report = compact({name: factors(layer) for name, layer in lora_layers(before).items()}, 1.0, most=2)

    assert frozen == 2
    assert 0.0 < report.relative_error < 1.0
    for name, layer in lora_layers(learned.model).items():
        a, b = (factor.detach() for factor in factors(layer))
        assert a.shape[0] == 4
        torch.testing.assert_close(b @ a, best[name][1] @ best[name][0])


def test_ranks_grow_and_stop(base: LoadedBase, parent: Path, tmp_path: Path) -> None:
    ranks, directory = [], parent
    for number in range(4):
        learned, _ = trained(base, directory, settings(max_rank=6), steps=1)
        directory = tmp_path / str(number)
        save_adapter(learned.model, directory)
        ranks.append(json.loads((directory / "adapter_config.json").read_text("utf-8"))["r"])

    assert ranks == [5, 6, 6, 6]
