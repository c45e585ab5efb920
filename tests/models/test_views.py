from __future__ import annotations

from pathlib import Path

from selflearn.models.adapter import attach_new, lora_layers
from selflearn.models.base import load_base
from selflearn.models.views import view_of


def test_a_view_shares_every_tensor_and_nothing_else(tiny_model: Path) -> None:
    base = load_base(tiny_model, dtype="float32")
    view = view_of(base.model)
    tensors = [*base.model.parameters(), *base.model.buffers()]
    assert all(mine is theirs for mine, theirs in zip([*view.parameters(), *view.buffers()], tensors, strict=True))
    assert view is not base.model
    assert view.config is not base.model.config
    modules = {id(module) for module in base.model.modules()}
    assert not any(id(module) in modules for module in view.modules())


def test_an_adapter_on_a_view_leaves_the_base_alone(tiny_model: Path) -> None:
    base = load_base(tiny_model, dtype="float32")
    attach_new(view_of(base.model), rank=2, alpha=4.0, seed=0)
    assert not lora_layers(base.model)
