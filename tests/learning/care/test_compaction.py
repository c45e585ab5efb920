from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from selflearn.errors import ModelError
from selflearn.learning.care.compaction import compact, compact_model, widen_model
from selflearn.learning.penalties import Factors, LowRank, factored_penalty
from selflearn.models.adapter import (
    adapter_state,
    attach_new,
    attach_saved,
    factors,
    lora_layers,
    probe_logits,
    save_adapter,
    saved_factors,
    scale,
)
from selflearn.models.forward import TokenSequence, collate, response_losses
from tests.architectures import ARCHITECTURES
from tests.learning.care.architectures import adapt, make_model

PROMPT = [5, 17, 3, 60, 41]
Pair = tuple[Tensor, Tensor]


def _pair(d_in: int, d_out: int, rank: int, seed: int) -> Pair:
    """Factors whose product has singular values of very different size."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, d_in, generator=generator), torch.randn(d_out, rank, generator=generator)
    return a * torch.logspace(0, -2, rank).unsqueeze(1), b


@pytest.fixture
def pairs() -> dict[str, Pair]:
    return {"wide": _pair(40, 24, 8, 0), "tall": _pair(16, 48, 8, 1), "square": _pair(24, 24, 8, 2)}


def _dense(pair: Pair) -> Tensor:
    return pair[1].double() @ pair[0].double()


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 0.9999])
def test_the_rank_is_the_least_that_keeps_the_energy_and_the_error_is_eckart_and_youngs(
    pairs: dict[str, Pair], energy: float
) -> None:
    compacted, report = compact(pairs, energy)
    needed = {}
    for name, pair in pairs.items():
        squares = torch.linalg.svdvals(_dense(pair)).square()
        shares = squares.cumsum(0) / squares.sum()
        needed[name] = int((shares < energy).sum()) + 1
        assert report.layers[name].needed == needed[name]
        assert report.layers[name].kept == pytest.approx(float(shares[report.rank_after - 1]), abs=1e-9)
        left_out = (_dense(pair) - _dense(compacted[name])).square().sum() / squares.sum()
        assert float(left_out) == pytest.approx(1.0 - report.layers[name].kept, abs=1e-6)
    assert report.rank_before == 8
    assert report.rank_after == max(needed.values())
    assert all(a.shape[0] == b.shape[1] == report.rank_after for a, b in compacted.values())
    whole = sum(float(_dense(pair).square().sum()) for pair in pairs.values())
    lost = sum(float((_dense(pairs[name]) - _dense(compacted[name])).square().sum()) for name in pairs)
    assert report.relative_error == pytest.approx((lost / whole) ** 0.5, rel=1e-3, abs=1e-6)


def test_no_other_choice_of_directions_keeps_more(pairs: dict[str, Pair]) -> None:
    compacted, report = compact(pairs, 0.9)
    for name, (a, b) in pairs.items():
        best = float((_dense(pairs[name]) - _dense(compacted[name])).norm())
        for rows in itertools.combinations(range(8), report.rank_after):
            assert best <= float((_dense((a, b)) - _dense((a[list(rows)], b[:, list(rows)]))).norm()) + 1e-6


def test_what_has_no_energy_goes_and_nothing_else(pairs: dict[str, Pair]) -> None:
    doubled = {name: (torch.cat([a, a]), torch.cat([b, 2 * b], dim=1)) for name, (a, b) in pairs.items()}
    compacted, report = compact(doubled, 1.0)
    assert (report.rank_before, report.rank_after) == (16, 8)
    assert report.relative_error < 1e-6
    for name, pair in doubled.items():
        assert torch.allclose(_dense(compacted[name]), _dense(pair), atol=1e-5)


def test_both_factors_carry_the_roots_of_the_singular_values(pairs: dict[str, Pair]) -> None:
    compacted, _ = compact(pairs, 0.99)
    for a, b in compacted.values():
        assert torch.allclose(a.norm(dim=1), b.norm(dim=0), rtol=1e-5)
        assert torch.allclose(b.T @ b, a @ a.T, atol=1e-4)


def test_a_layer_that_does_nothing_can_still_be_trained() -> None:
    nothing = (torch.randn(4, 12, generator=torch.Generator().manual_seed(0)), torch.zeros(10, 4))
    compacted, report = compact({"still": nothing, "busy": _pair(12, 10, 4, 0)}, 0.999)
    a, b = compacted["still"]
    assert report.layers["still"].needed == 0
    assert report.layers["still"].kept == 1.0
    assert not b.any()
    assert torch.allclose(a.norm(dim=1), torch.ones(report.rank_after))
    assert compact({"still": nothing}, 0.9)[1].rank_after == 1


def test_a_rank_above_the_layers_width_is_possible() -> None:
    wide = {"narrow": _pair(3, 5, 8, 0), "wide": _pair(20, 20, 8, 1)}
    compacted, report = compact(wide, 1.0)
    assert report.rank_after == 8
    assert report.layers["narrow"].needed == 3
    assert all(torch.allclose(_dense(compacted[name]), _dense(wide[name]), atol=1e-5) for name in wide)


def test_what_is_not_finite_is_refused(pairs: dict[str, Pair]) -> None:
    pairs["tall"][0][0, 0] = float("nan")
    with pytest.raises(ModelError, match="tall"):
        compact(pairs, 0.9)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_is_compacted_in_place_and_saved_and_loaded(name: str, tmp_path: Path) -> None:
    model = make_model(name)
    adapt(model, rank=6, alpha=10.0)
    before = probe_logits(model, PROMPT)
    wasted = {n: (torch.cat([a, a]), torch.cat([b, b], dim=1)) for n, (a, b) in _pairs(model).items()}
    for layer in lora_layers(model).values():
        assert scale(layer) == 10.0 / 6
    report = compact_model(model, 0.6)
    assert report.rank_after < report.rank_before == 6
    assert not torch.equal(probe_logits(model, PROMPT), before)
    save_adapter(model, tmp_path / "adapter")
    saved, saved_scale = saved_factors(tmp_path / "adapter")
    assert {a.shape[0] for a, _ in saved.values()} == {report.rank_after}
    assert saved_scale == pytest.approx(10.0 / 6)
    loaded = make_model(name)
    attach_saved(loaded, tmp_path / "adapter", trainable=True)
    assert torch.equal(probe_logits(loaded, PROMPT), probe_logits(model, PROMPT))
    assert compact(wasted, 1.0)[1].rank_after == 6


def test_the_whole_energy_changes_no_answer() -> None:
    model = make_model("llama")
    adapt(model, rank=6)
    before = probe_logits(model, PROMPT)
    report = compact_model(model, 1.0)
    assert report.rank_after == 6
    assert torch.allclose(probe_logits(model, PROMPT), before, atol=1e-4)


def test_the_next_update_trains_on_with_the_new_rank() -> None:
    model = make_model("llama")
    adapt(model, rank=6)
    parent = {name: LowRank(a.detach().clone(), b.detach().clone(), 2.0) for name, (a, b) in _pairs(model).items()}
    compact_model(model, 0.9)
    layers = lora_layers(model)
    trained = [factor for layer in layers.values() for factor in factors(layer)]
    assert all(factor.requires_grad for factor in trained)
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    batch = collate([TokenSequence(tuple(PROMPT), 2)], model.device)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = response_losses(model, batch).mean()
        current = {name: LowRank(*factors(layer), scale(layer)) for name, layer in layers.items()}
        pulls = [
            factored_penalty(each, parent[name], Factors(torch.ones(each.b.shape[0]), torch.ones(each.a.shape[1])))
            for name, each in current.items()
        ]
        (loss + 1e-6 * torch.stack(pulls).sum()).backward()
        assert all(factor.grad is not None and bool(factor.grad.any()) for factor in trained)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.5


def test_widening_gives_room_and_changes_nothing() -> None:
    model = make_model("llama")
    adapt(model, rank=6)
    compact_model(model, 0.5)
    before, narrow = probe_logits(model, PROMPT), adapter_state(model)
    scales = [scale(layer) for layer in lora_layers(model).values()]
    widen_model(model, 6, seed=3)
    assert {a.shape[0] for a, _ in _pairs(model).values()} == {6}
    assert [scale(layer) for layer in lora_layers(model).values()] == scales
    assert torch.allclose(probe_logits(model, PROMPT), before, atol=1e-5)
    wide = adapter_state(model)
    for name, tensor in narrow.items():
        axis = 0 if "lora_A" in name else 1
        assert torch.equal(wide[name].narrow(axis, 0, tensor.shape[axis]), tensor)
        rest = wide[name].narrow(axis, tensor.shape[axis], 6 - tensor.shape[axis])
        assert bool(rest.any()) == ("lora_A" in name)
    widen_model(model, 2, seed=3)
    assert all(torch.equal(tensor, wide[name]) for name, tensor in adapter_state(model).items())


def test_a_fresh_adapter_stays_trainable_when_compacted() -> None:
    model = make_model("llama")
    attach_new(model, rank=4, alpha=8.0, seed=0)
    before = probe_logits(model, PROMPT)
    assert compact_model(model, 0.99).rank_after == 1
    assert torch.equal(probe_logits(model, PROMPT), before)
    response_losses(model, collate([TokenSequence(tuple(PROMPT), 2)], model.device)).sum().backward()
    assert all(bool(factors(layer)[1].grad.any()) for layer in lora_layers(model).values())  # type: ignore[union-attr]


def _pairs(model: object) -> dict[str, Pair]:
    return {name: factors(layer) for name, layer in lora_layers(model).items()}  # type: ignore[arg-type]
