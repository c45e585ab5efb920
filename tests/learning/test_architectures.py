"""A whole update, from job folder to served candidate, on four architectures with every optimizer and schedule."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.learning.job import Job, JobExample, Role, read_job, write_job
from selflearn.learning.process import Cancelled, Worker
from selflearn.learning.update import run
from selflearn.models.adapter import attach_saved, probe_logits, saved_biases
from selflearn.models.base import load_base
from selflearn.models.chat import probe_ids
from selflearn.serving import Sampling, TokenRequest
from selflearn.serving.transformers_engine import EngineOptions, TransformersEngine
from tests.architectures import tiny_model
from tests.conftest import tiny_tokenizer

LEARNING = LearningSettings(rank=4, passes=4, batch_size=4, threads=1, learning_rate=1e-2, fisher_sequences=4)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes the directory of a tiny random model, once."""
    root = tmp_path_factory.mktemp("architectures")

    def directory(name: str) -> Path:
        if not (root / name).exists():
            tokenizer = tiny_tokenizer()
            model = tiny_model(name, vocabulary=len(tokenizer), hidden=48, positions=512, spread=0.08)
            model.save_pretrained(str(root / name))
            tokenizer.save_pretrained(str(root / name))
        return root / name

    return directory


def example(number: int, role: Role) -> JobExample:
    messages = [{"role": "user", "content": f"question number {number}"}]
    return JobExample(number, role, f"digest{number}", messages, f"the answer is {number % 3}")


def job_for(model: Path, **changed: Any) -> Job:
    return Job(
        update=1,
        learner="default",
        model_directory=str(model),
        cache_directory=str(model.with_name(f"{model.name}.cache")),
        parent=0,
        parent_directory=None,
        seed=1,
        device="cpu",
        dtype="float32",
        learning=LEARNING.model_copy(update=changed),
        judging=JudgingSettings(answer_tokens=8),
        examples=(*(example(n, "train") for n in range(12)), *(example(n, "holdout") for n in range(20, 28))),
        rate_factor=0.5,
    )


def in_a_process(folder: Path, tell: Callable[..., None]) -> dict[str, Any]:
    """By a real worker."""
    report = Worker(folder).wait(120.0, lambda line: tell(line["phase"], **line))
    assert not isinstance(report, Cancelled)
    return report


def in_this_process(folder: Path, tell: Callable[..., None]) -> dict[str, Any]:
    """As the worker does, without the seconds that a new process takes."""
    return run(read_job(folder), folder, tell)


@pytest.mark.parametrize(
    ("name", "changed", "carry_out"),
    [
        ("llama", {"optimizer": "adamw", "schedule": "cosine"}, in_a_process),
        ("qwen2", {"optimizer": "lamb", "schedule": "linear", "biases": True, "learning_rate": 0.1}, in_this_process),
        ("gpt2", {"optimizer": "rmsprop", "schedule": "plateau", "biases": True}, in_this_process),
        ("qwen3", {"optimizer": "sgd", "schedule": "constant", "learning_rate": 0.5}, in_this_process),
        ("gpt2", {"optimizer": "adam", "schedule": "linear", "lora_plus_ratio": 4.0}, in_this_process),
        ("llama", {"biases": True, "weight_decay": 0.01, "momentum": 0.8}, in_this_process),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_a_whole_update_works_unchanged(
    name: str, changed: dict[str, Any], carry_out: Callable[..., dict[str, Any]], bases: Any, tmp_path: Path
) -> None:
    model, candidate = bases(name), tmp_path / "candidate"
    job = job_for(model, **changed)
    write_job(job, tmp_path)
    rates: list[float] = []

    def tell(*_: str, **line: Any) -> None:
        rates.extend([line["learning_rate"]] if "learning_rate" in line else [])

    report = carry_out(tmp_path, tell)

    measured = report["measurements"]
    assert sum(measured["holdout_candidate"]) < sum(measured["holdout_parent"])
    assert measured["nonfinite"] == []
    assert len(rates) == report["training"]["steps"] > 0
    assert max(rates) == pytest.approx(0.5 * job.learning.learning_rate)
    biases = saved_biases(candidate)
    assert bool(biases) == (job.learning.biases and name in ("qwen2", "gpt2"))
    assert all(bias.any() for bias in biases.values())
    await assert_served(model, candidate)


async def assert_served(model: Path, candidate: Path) -> None:
    """The candidate loads, answers the probe as recorded, and the engine serves what it answers."""
    base, probe = load_base(model, device="cpu", dtype="float32"), load_file(candidate / "probe.safetensors")["logits"]
    engine = TransformersEngine(base, EngineOptions(cache_tokens=1024, max_concurrent_requests=2, threads=1))
    with contextlib.closing(engine):
        generation = engine.open_generation(1, candidate)
        prompt = tuple(base.tokenizer("question number 3")["input_ids"])
        request = TokenRequest("request", prompt, 8, Sampling(temperature=0.0))
        served = [token for chunk in [c async for c in generation.stream(request)] for token in chunk.token_ids]
        await generation.close(0.0)
    attach_saved(base.model, candidate)
    torch.testing.assert_close(probe_logits(base.model, probe_ids(base.tokenizer)), probe)
    ids = list(prompt)
    for _ in range(8):
        ids.append(int(probe_logits(base.model, ids).argmax()))
    assert served == ids[len(prompt) :]


def test_biases_can_be_switched_on_and_off_between_updates(bases: Any, tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(4)]
    for number, biases in ((1, False), (2, True), (3, False)):
        parent = str(folders[number - 1] / "candidate") if number > 1 else None
        job = job_for(bases("gpt2"), biases=biases, passes=1)
        write_job(dataclasses.replace(job, update=number, parent=number - 1, parent_directory=parent), folders[number])
        report = in_this_process(folders[number], lambda *_, **__: None)
        assert report["measurements"]["nonfinite"] == []

    without, learned, kept = (saved_biases(folders[number] / "candidate") for number in (1, 2, 3))
    assert without == {}
    assert len(learned) == 8
    assert all(bias.any() for bias in learned.values())
    assert kept.keys() == learned.keys()
    assert all((kept[name] == learned[name]).all() for name in learned)
