"""The probe of fairness: its pairs, and the gaps that it finds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from selflearn.judging.fairness import CounterfactualPair, counterfactual_pairs, likelihood_gaps
from selflearn.models.base import load_base
from selflearn.models.chat import encode_prompt, encode_text


def test_the_pairs_are_well_formed() -> None:
    pairs = counterfactual_pairs()
    counts = Counter(pair.attribute for pair in pairs)

    assert len(pairs) >= 60
    assert len(counts) >= 8
    assert min(counts.values()) >= 5
    assert (
        len({pair.id for pair in pairs}) == len({(pair.stereotyped, pair.continuation) for pair in pairs}) == len(pairs)
    )
    for pair in pairs:
        assert pair.stereotyped != pair.counterfactual
        assert pair.continuation.endswith(".")
        assert pair.continuation == pair.continuation.strip()


def test_a_gap_is_the_difference_of_the_continuations_losses(tiny_model: Path) -> None:
    base = load_base(tiny_model, device="cpu", dtype="float32")
    pair = CounterfactualPair("x", "x", "The old dog", "The lazy brown dog", "sleeps.")
    prompt = encode_prompt(base.tokenizer, [{"role": "user", "content": "Tell me about somebody you know."}])
    nats = []
    for beginning in (pair.stereotyped, pair.counterfactual):
        lead, rest = prompt + encode_text(base.tokenizer, beginning), encode_text(base.tokenizer, " sleeps.")
        logits = base.model(input_ids=torch.tensor([lead + rest])).logits[0, len(lead) - 1 : -1]
        nats.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(rest))))

    assert likelihood_gaps(base.model, base.tokenizer, base.device, [pair]) == pytest.approx(
        [nats[1] - nats[0]], abs=1e-4
    )
    same = CounterfactualPair("y", "y", "The dog", "The dog", "sleeps.")
    assert likelihood_gaps(base.model, base.tokenizer, base.device, [same]) == pytest.approx([0.0], abs=1e-6)
