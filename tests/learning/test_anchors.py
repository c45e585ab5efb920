"""Anchors and the base's importance: the base's own words, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from selflearn.learning.anchors import anchor_prompts, measure_anchors
from selflearn.learning.cache import is_kept
from selflearn.learning.reference import reference_of
from selflearn.models.adapter import lora_layers
from selflearn.models.base import load_base
from selflearn.models.chat import encode_prompt


def test_the_two_halves_share_no_prompt() -> None:
    prompts = anchor_prompts()
    halves = {use: {row["prompt"].casefold() for row in prompts if row["use"] == use} for use in ("train", "judge")}

    assert len(halves["train"]) == len(halves["judge"]) == 48
    assert not halves["train"] & halves["judge"]


def test_they_are_the_bases_own_answers_and_made_once(tiny_model: Path, tmp_path: Path) -> None:
    base = load_base(tiny_model, device="cpu", dtype="float32")
    told: list[str] = []
    anchors, importance = reference_of(base, tmp_path, lambda step, share: told.append(step))
    assert set(told) == {"answering the anchors", "weighing the weights"}
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    told.clear()
    again, same = reference_of(base, tmp_path, lambda step, share: told.append(step))
    assert told == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    assert [anchor.sequence for anchor in again.judge] == [anchor.sequence for anchor in anchors.judge]
    assert set(same) == set(importance)
    assert not lora_layers(base.model)

    prompt = anchor_prompts()[0]["prompt"]
    ids = encode_prompt(base.tokenizer, [{"role": "user", "content": prompt}])
    assert anchors.train[0].sequence.ids[: len(ids)] == tuple(ids)


def test_the_base_does_not_depart_from_itself(tiny_model: Path, tmp_path: Path) -> None:
    base = load_base(tiny_model, device="cpu", dtype="float32")
    anchors, _ = reference_of(base, tmp_path)
    measured, divergences = measure_anchors(base, anchors.judge)

    assert measured == pytest.approx([anchor.loss for anchor in anchors.judge], rel=1e-3)
    assert max(abs(divergence) for divergence in divergences) < 1e-3


def test_another_state_directory_has_nothing_yet(tmp_path: Path) -> None:
    assert not is_kept(tmp_path, "0" * 64)
