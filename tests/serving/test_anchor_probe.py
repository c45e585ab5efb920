"""The anchor probe on real generations: quiet under load, loud when the weights in memory have changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import torch

from selflearn.daemon.probing import PROMPTS, AnchorProbe
from selflearn.models.base import load_base
from selflearn.serving import TokenRequest, Traffic
from selflearn.serving.transformers_engine import EngineOptions, TransformersEngine
from tests.serving.conftest import write_adapter

#: The logits of a tiny random model are small, and so is what rounding does to them in bf16.
TOLERANCE = 0.05


@pytest.fixture(params=["float32", "bfloat16"])
async def served(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path
) -> AsyncIterator[tuple[Traffic, TransformersEngine, torch.nn.Module]]:
    """Version 1 in service, on an engine of its own whose weights may be damaged."""
    base = load_base(tiny_model, device="cpu", dtype=request.param)
    engine = TransformersEngine(base, EngineOptions(1024, 8, threads=1, fused=False))
    traffic = Traffic(base.tokenizer)
    await traffic.swap(engine.open_generation(1, write_adapter(base, tmp_path / "v1", seed=1)))
    yield traffic, engine, base.model
    await traffic.close()
    engine.close()


async def load(traffic: Traffic, make_request: Callable[..., TokenRequest]) -> None:
    """Seven answers beside each other."""

    async def one(number: int) -> None:
        answer = await traffic.chat(make_request(f"{'so ' * number}what is the port?", length=16))
        async with answer:
            async for _ in answer:
                pass

    await asyncio.gather(*(one(number) for number in range(7)))


async def test_it_is_quiet_beside_others_and_sees_damage(
    served: tuple[Traffic, TransformersEngine, torch.nn.Module], make_request: Callable[..., TokenRequest]
) -> None:
    traffic, engine, model = served
    probe = AnchorProbe(traffic, engine.base.tokenizer, tolerance=TOLERANCE, prompts=PROMPTS[:2])
    assert not probe.knows(1)
    assert await probe.look() is None
    assert probe.knows(1)
    for _ in range(2):
        found, _ = await asyncio.gather(probe.look(), load(traffic, make_request))
        assert found is None
    with torch.no_grad():
        next(model.parameters()).neg_()  # the embeddings, which are the output head as well
    found = await probe.look()
    assert found is not None
    assert found.lead > 0.0
    assert traffic.answers == 0


async def test_it_does_not_ask_while_nobody_serves(tiny_model: Path) -> None:
    traffic = Traffic(load_base(tiny_model, device="cpu", dtype="float32").tokenizer)
    probe = AnchorProbe(traffic, load_base(tiny_model, device="cpu", dtype="float32").tokenizer, tolerance=TOLERANCE)
    assert await probe.look() is None
    assert not probe.knows(0)
