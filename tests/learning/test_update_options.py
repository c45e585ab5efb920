"""One whole update with what changes how it computes: a quantised base, gradient checkpointing."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.learning.job import Job, JobExample, Role
from selflearn.learning.update import run
from selflearn.models.adapter import attach_saved, probe_logits
from selflearn.models.base import load_base
from selflearn.models.chat import probe_ids
from selflearn.models.quantization import LIBRARIES


def example(number: int, role: Role) -> JobExample:
    messages = [{"role": "user", "content": f"question number {number}"}]
    return JobExample(number, role, f"digest{number}", messages, f"the answer is {number % 3}")


def update(model: Path, folder: Path, **options: Any) -> dict[str, Any]:
    options = {"rank": 4, "passes": 3, "batch_size": 4, "learning_rate": 1e-2, "fisher_sequences": 4, **options}
    examples = [example(n, "train") for n in range(12)] + [example(n, "holdout") for n in range(20, 28)]
    job = Job(
        update=1,
        learner="default",
        model_directory=str(model),
        cache_directory=str(folder / "cache"),
        parent=0,
        parent_directory=None,
        seed=1,
        device="cpu",
        dtype="bfloat16",
        learning=LearningSettings(**options),
        judging=JudgingSettings(answer_tokens=8),
        examples=tuple(examples),
    )
    return run(job, folder, lambda *_, **__: None)


@pytest.mark.parametrize(
    "options",
    [{"gradient_checkpointing": True}, *({"quantization": kind} for kind in LIBRARIES)],
    ids=["checkpointing", *LIBRARIES],
)
def test_it_learns_and_is_proven_with_what_serves_it(tiny_model: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    library = LIBRARIES.get(options.get("quantization", ""))
    if library is not None and find_spec(library) is None:
        pytest.skip(f"{library} is not installed: the extra 'quantized'")
    measured = update(tiny_model, tmp_path, **options)["measurements"]
    assert sum(measured["holdout_candidate"]) < 0.9 * sum(measured["holdout_parent"])

    served = load_base(tiny_model, device="cpu", dtype="bfloat16")
    attach_saved(served.model, tmp_path / "candidate")
    recorded = load_file(tmp_path / "candidate" / "probe.safetensors")["logits"]
    assert torch.equal(probe_logits(served.model, probe_ids(served.tokenizer)), recorded)
