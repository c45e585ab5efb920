"""How much of a step is taken: the way from parent to candidate, the search on it, and updates that go too far."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.judging import Limits, Measurements, Verdict, decide
from selflearn.learning.job import Job, JobExample, Role
from selflearn.learning.regularisers import frozen_copy, low_rank
from selflearn.learning.scaling import Step, Tried, bisect, largest_promoted, only_too_far
from selflearn.learning.update import run
from selflearn.models.adapter import attach_new, attach_saved, factors, lora_layers, probe_logits, trained_biases
from selflearn.models.base import load_base
from selflearn.models.chat import probe_ids
from tests import architectures

JUDGING = JudgingSettings(min_holdout=4, shown_answers=0, answer_tokens=8, min_match=-9)
COUNT = 12


def measured(gain: float, divergence: float, **changed: Any) -> Measurements:
    """A candidate that improves by ``gain`` and departs by ``divergence``, both in nats per token."""
    values: dict[str, Any] = {
        "holdout_parent": [2.0 + 0.01 * index for index in range(COUNT)],
        "holdout_candidate": [2.0 + 0.01 * index - gain + 0.001 * (index % 3) for index in range(COUNT)],
        "retained_parent": [1.0] * COUNT,
        "retained_candidate": [1.0] * COUNT,
        "anchor_base": [1.0] * COUNT,
        "anchor_candidate": [1.0] * COUNT,
        "anchor_divergence": [divergence] * COUNT,
        "weight_drift": {"q": 0.01},
        "nonfinite": [],
        "learned_before": True,
        "new_examples": 20,
        "contradicting_examples": 0,
        **changed,
    }
    return Measurements(**values)


def verdict(gain: float, divergence: float, **changed: Any) -> Verdict:
    return decide(measured(gain, divergence, **changed), Limits.of(JUDGING))


def way(far: float, gain: float = 0.5) -> Callable[[float], Verdict]:
    """Verdicts on a way whose end diverges by ``far``: the divergence grows with the square, the gain in proportion."""
    return lambda part: verdict(gain * part, far * part * part)


# The search


@pytest.mark.parametrize(
    ("far", "expected"),
    [(0.12, [0.5, 0.75, 0.875]), (0.25, [0.5, 0.75, 0.625]), (1.0, [0.5, 0.25, 0.375]), (900.0, [0.5, 0.25, 0.125])],
)
def test_it_closes_in_on_the_largest_part_that_passes(far: float, expected: list[float]) -> None:
    tried = bisect(way(far), 3)

    assert [each.scale for each in tried] == expected
    passing = [part for part in expected if far * part * part <= JUDGING.max_kl_drift]
    assert largest_promoted(tried) == (max(passing) if passing else None)


def test_after_a_part_that_learned_too_little_it_tries_a_larger_one() -> None:
    tried = bisect(lambda part: verdict(0.5 * part - 0.3, 0.0), 2)

    assert [each.scale for each in tried] == [0.5, 0.75]
    assert [each.verdict.outcome for each in tried] == ["refuse", "promote"]
    assert largest_promoted(tried) == 0.75


@pytest.mark.parametrize(
    ("of", "found"),
    [
        (verdict(0.5, 0.5), True),
        (verdict(0.5, 0.0), False),  # it passes
        (verdict(-0.5, 0.5), False),  # it learned nothing either
        (verdict(0.5, 0.5, contradicting_examples=20), False),
        (verdict(0.5, 0.5, nonfinite=["q"]), False),
        (verdict(0.5, 0.0, retained_candidate=[2.0] * COUNT), True),
        (verdict(0.5, 0.0, weight_drift={"q": 0.9}), True),
        (verdict(0.0, 0.5, holdout_candidate=[1.7, 2.3] * 6), True),  # in doubt
        (verdict(0.5, 0.0, anchor_divergence=[0.0, 0.15] * 6), True),  # the limit lies in the interval
        (verdict(0.5, 0.5, retained_parent=[1.0], retained_candidate=[1.0]), False),  # and nobody knows what it forgot
    ],
)
def test_only_what_goes_too_far_and_nothing_else_is_worth_a_search(of: Verdict, found: bool) -> None:
    assert only_too_far(of, JUDGING.min_holdout) is found


def test_what_was_tried_is_told_in_json() -> None:
    told = json.loads(json.dumps(Tried(0.5, verdict(0.5, 0.5)).as_dict()))

    assert (told["scale"], told["outcome"]) == (0.5, "refuse")
    failed = [check for check in told["checks"] if check["outcome"] == "fail"]
    assert failed == [{"name": "kl_drift", "outcome": "fail", "value": pytest.approx(0.5), "limit": 0.1}]


# The way


def test_from_the_base_the_change_of_every_layer_is_in_proportion(tiny_model: Path) -> None:
    model = load_base(tiny_model, device="cpu", dtype="float32").model
    attach_new(model, rank=4, alpha=8.0, seed=1)
    with torch.no_grad():
        for number, layer in enumerate(lora_layers(model).values()):
            torch.nn.init.normal_(factors(layer)[1], generator=torch.Generator().manual_seed(number))
    end = frozen_copy(low_rank(model))
    Step.from_base(end).take(model, 0.25)

    for name, layer in lora_layers(model).items():
        a, b = factors(layer)
        assert torch.equal(a, end[name].a)
        assert torch.allclose(b @ a, 0.25 * (end[name].b @ end[name].a), atol=1e-6)
    Step.from_base(end).take(model, 1.0)
    assert all(torch.equal(factors(layer)[1], end[name].b) for name, layer in lora_layers(model).items())


def test_over_a_parent_its_ends_are_parent_and_candidate_to_the_last_bit() -> None:
    model = architectures.tiny_model("qwen2")
    attach_new(model, rank=4, alpha=8.0, seed=1, biases=True)

    def disturbed(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in lora_layers(model).values():
                for factor in factors(layer):
                    factor.add_(torch.randn(factor.shape, generator=generator))
            for bias in trained_biases(model).values():
                bias.add_(torch.randn(bias.shape, generator=generator))

    disturbed(1)
    start = frozen_copy(low_rank(model))
    disturbed(2)
    end = frozen_copy(low_rank(model))
    for part, expected in ((0.0, start), (1.0, end)):
        Step(start, end).take(model, part)
        for name, layer in low_rank(model).items():
            assert torch.equal(layer.a, expected[name].a)
            assert torch.equal(layer.b, expected[name].b)
    Step(start, end).take(model, 0.5)
    biases = trained_biases(model)
    assert biases
    for name, bias in biases.items():
        of = name.removesuffix(".bias")
        assert torch.allclose(bias, (start[of].bias + end[of].bias) / 2, atol=1e-6)  # type: ignore[operator]
    assert all(factor.requires_grad for layer in lora_layers(model).values() for factor in factors(layer))


# Whole updates


def example(number: int, role: Role, said: str = "the answer is") -> JobExample:
    messages = [{"role": "user", "content": f"question number {number}"}]
    return JobExample(number, role, f"digest{number}", messages, f"{said} {number % 3}")


def job(model: Path, cache: Path, parent: Path | None = None, scale: float | None = None, **judging: Any) -> Job:
    said = "the answer is" if parent is None else "i am told it is"
    examples = [example(n, "train", said) for n in range(12)] + [example(n, "holdout", said) for n in range(20, 32)]
    if parent is not None:
        examples += [example(n, "retained") for n in range(40, 48)]
    learning = LearningSettings(rank=4, passes=2, batch_size=4, learning_rate=1e-2, fisher_sequences=4)
    return Job(
        update=1 if parent is None else 2,
        learner="default",
        model_directory=str(model),
        cache_directory=str(cache),
        parent=0 if parent is None else 1,
        parent_directory=None if parent is None else str(parent),
        seed=1,
        device="cpu",
        dtype="float32",
        learning=learning,
        judging=LENIENT.model_copy(update=judging),
        examples=tuple(examples),
        scale=scale,
    )


#: Every limit out of the way but those that a test sets.
LENIENT = JudgingSettings(
    min_holdout=4,
    shown_answers=0,
    answer_tokens=8,
    min_match=-9,
    max_retained_rise=9.0,
    max_ancestor_rise=9.0,
    max_objective_rise=9.0,
    max_anchor_rise=9.0,
    max_kl_drift=9.0,
    max_weight_drift=9.0,
    max_repetition=1.0,
    max_repetition_rise=1.0,
    max_broken_rise=1.0,
    max_entropy_fall=1.0,
)


def silent(*_: object, **__: object) -> None:
    pass


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(tiny_model: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An update that nothing hinders."""
    folder = tmp_path_factory.mktemp("whole")
    return folder / "candidate", run(job(tiny_model, cache), folder, silent)


def drift(report: dict[str, Any]) -> float:
    return float(max(report["measurements"]["weight_drift"].values()))


def adapter(folder: Path) -> bytes:
    return (folder / "candidate" / "adapter_model.safetensors").read_bytes()


def test_an_update_that_passes_is_taken_whole_and_nothing_else_is_tried(whole: tuple[Path, dict[str, Any]]) -> None:
    report = whole[1]
    assert [(each["scale"], each["outcome"]) for each in report["tried"]] == [(1.0, "promote")]
    assert (report["measurements"]["scale"], report["measurements"]["tried_scales"]) == (1.0, 1)


@pytest.mark.parametrize("over", ["the base", "a parent"])
def test_one_that_goes_too_far_is_made_smaller_until_it_passes(
    tiny_model: Path, cache: Path, tmp_path: Path, whole: tuple[Path, dict[str, Any]], over: str
) -> None:
    parent = whole[0] if over == "a parent" else None
    free = whole[1] if parent is None else run(job(tiny_model, cache, parent), tmp_path / "free", silent)
    # Halfway in weights there is far less KL than half of it: so much is allowed that three quarters may just pass.
    limit = 0.6 * sum(free["measurements"]["anchor_divergence"]) / len(free["measurements"]["anchor_divergence"])
    report = run(job(tiny_model, cache, parent, max_kl_drift=limit), tmp_path / "scaled", silent)

    tried = [(each["scale"], each["outcome"]) for each in report["tried"]]
    assert tried[0] == (1.0, "refuse")
    assert len(tried) == 4
    kept = report["measurements"]["scale"]
    assert kept == max(scale for scale, outcome in tried if outcome == "promote") < 1.0
    assert report["measurements"]["tried_scales"] == 4
    judged = decide(
        Measurements.from_dict(report["measurements"]), Limits.of(LENIENT.model_copy(update={"max_kl_drift": limit}))
    )
    assert judged.outcome == "promote"

    base = load_base(tiny_model, device="cpu", dtype="float32")
    attach_saved(base.model, tmp_path / "scaled" / "candidate")
    recorded = load_file(tmp_path / "scaled" / "candidate" / "probe.safetensors")["logits"]
    assert torch.equal(probe_logits(base.model, probe_ids(base.tokenizer)), recorded)
    if parent is None:
        assert drift(report) == pytest.approx(kept * drift(free), rel=1e-3)

        again = run(job(tiny_model, cache, scale=kept, max_kl_drift=limit), tmp_path / "again", silent)
        assert adapter(tmp_path / "again") == adapter(tmp_path / "scaled")
        assert len(again["tried"]) == 1


@pytest.mark.parametrize("steps", [0, 2])
def test_where_no_size_passes_the_whole_is_kept_as_it_was_trained(
    tiny_model: Path, cache: Path, tmp_path: Path, whole: tuple[Path, dict[str, Any]], steps: int
) -> None:
    report = run(job(tiny_model, cache, max_weight_drift=1e-6, scale_steps=steps), tmp_path, silent)

    assert [each["outcome"] for each in report["tried"]] == ["refuse"] * (1 + steps)
    assert (report["measurements"]["scale"], report["measurements"]["tried_scales"]) == (1.0, 1)
    assert adapter(tmp_path) == (whole[0] / "adapter_model.safetensors").read_bytes()
    assert report["measurements"]["evidence"]["candidate"]["collapse"]["answers"] > 0


def test_a_smaller_one_is_compacted_like_the_whole(
    tiny_model: Path, cache: Path, tmp_path: Path, whole: tuple[Path, dict[str, Any]]
) -> None:
    given = job(tiny_model, cache, max_weight_drift=0.7 * drift(whole[1]))
    given = dataclasses.replace(given, learning=given.learning.model_copy(update={"keep_energy": 0.5}))
    report = run(given, tmp_path, silent)

    assert report["measurements"]["scale"] < 1.0
    told = report["training"]["compaction"]
    saved = load_file(tmp_path / "candidate" / "adapter_model.safetensors")
    ranks = {tensor.shape[0] for name, tensor in saved.items() if "lora_A" in name}
    assert ranks == {told["rank_after"]}
    assert told["rank_after"] < told["rank_before"] == 4
