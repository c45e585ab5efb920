"""Parts of a step over a parent: factors in proportion against products in proportion, and what one more part costs.

Run as ``python -m tests.benchmarks.scaling MODEL CACHE FACTS``. It trains a version on so many facts and one on top of
it on as many others, far too fast, and goes part of the way in three manners: A and B in proportion (what updates do),
ΔW in proportion cut back to the rank of the parent (the best approximation of that rank), and ΔW in proportion at the
whole rank, which no version may grow to.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.judging.measures import losses
from selflearn.learning.anchors import Anchors, measure_anchors
from selflearn.learning.cache import cache_directory
from selflearn.learning.care.compaction import compact
from selflearn.learning.job import Job, JobExample, Role
from selflearn.learning.penalties import LowRank
from selflearn.learning.reference import reference_of
from selflearn.learning.regularisers import frozen_copy, low_rank
from selflearn.learning.scaling import Step
from selflearn.learning.update import run
from selflearn.models.adapter import attach_saved, replace_factors
from selflearn.models.base import LoadedBase, load_base
from selflearn.models.chat import encode_example
from selflearn.models.forward import TokenSequence

FACTS = Path(__file__).with_name("facts.jsonl")
PARTS = (0.25, 0.5, 0.75)
LEARNING = LearningSettings(learning_rate=5e-3, passes=6, adapt_rate=False, kl_weight=0.0, ewc_weight=0.0)
JUDGING = JudgingSettings(scale_steps=0, shown_answers=0)

Adapter = dict[str, LowRank]
Chat = tuple[str, str]


def main(model: Path, cache: Path, facts: int) -> None:
    rows = [json.loads(line) for line in FACTS.read_text(encoding="utf-8").splitlines()]
    halves = rows[:facts], rows[facts : 2 * facts]
    kept = cache_directory(cache, load_base(model, device="cpu", dtype="bfloat16").sha256)
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / "1", Path(folder) / "2"
        run(_job(model, kept, halves[0], [], None), first, _silent)
        phases = _Phases()
        run(_job(model, kept, halves[1], halves[0], first / "candidate"), second, phases.tell)
        print("processor seconds of the second update:", phases.seconds(), flush=True)
        _compare(model, kept, first / "candidate", second / "candidate", halves)


class _Phases:
    """How much processor time had passed at each line of progress: the wall clock tells more of who else is there."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, str]] = []

    def tell(self, phase: str, **numbers: Any) -> None:
        self.lines.append((time.process_time(), f"{phase} {numbers.get('of', '')} {numbers.get('size', '')}".strip()))

    def seconds(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for (began, name), (ended, _) in zip(self.lines, self.lines[1:], strict=False):
            found[name] = round(found.get(name, 0.0) + ended - began, 1)
        return found


def _silent(*_: object, **__: object) -> None:
    pass


def _job(
    model: Path, cache: Path, facts: Sequence[dict[str, Any]], past: Sequence[dict[str, Any]], parent: Path | None,
) -> Job:  # fmt: skip
    chosen: list[tuple[Role, str, str]] = [
        ("train", asked, fact["answer"]) for fact in facts for asked in fact["taught"]
    ]
    chosen += [("holdout", fact["judging"], fact["answer"]) for fact in facts]
    chosen += [("retained", fact["judging"], fact["answer"]) for fact in past]
    examples = [
        JobExample(number, role, str(number), [{"role": "user", "content": asked}], answer)
        for number, (role, asked, answer) in enumerate(chosen, 1)
    ]
    return Job(
        update=1 if parent is None else 2,
        learner="default",
        model_directory=str(model),
        cache_directory=str(cache),
        parent=0 if parent is None else 1,
        parent_directory=None if parent is None else str(parent),
        seed=1,
        device="cpu",
        dtype="bfloat16",
        learning=LEARNING,
        judging=JUDGING,
        examples=tuple(examples),
    )


def _compare(
    model: Path, cache: Path, parent: Path, candidate: Path, halves: Sequence[Sequence[dict[str, Any]]]
) -> None:
    base = load_base(model, device="cpu", dtype="bfloat16")
    anchors, _ = reference_of(base, cache, _silent)
    start = _adapter(model, parent)
    attach_saved(base.model, candidate)
    end = frozen_copy(low_rank(base.model))
    past, new = ([_sequence(base, fact["judging"], fact["answer"]) for fact in half] for half in halves)
    print(f"{'part':>5} {'how':<22} {'distance':>9} {'new':>7} {'past':>7} {'KL':>7} {'anchors':>8}")
    for part in (0.0, *PARTS, 1.0):
        for name, put in _manners(base, start, end, part).items():
            put()
            told = _told(base, anchors, new, past)
            distance = _distance(start, end, part, low_rank(base.model))
            print(
                f"{part:5.2f} {name:<22} {distance:9.4f} {told[0]:7.3f} {told[1]:7.3f} {told[2]:7.4f} {told[3]:8.4f}",
                flush=True,
            )


def _adapter(model: Path, directory: Path) -> Adapter:
    base = load_base(model, device="cpu", dtype="bfloat16")
    attach_saved(base.model, directory)
    return frozen_copy(low_rank(base.model))


def _manners(base: LoadedBase, start: Adapter, end: Adapter, part: float) -> dict[str, Callable[[], Any]]:
    wide = {
        name: (
            torch.cat([start[name].a, end[name].a]),
            torch.cat([(1 - part) * start[name].b, part * end[name].b], dim=1),
        )
        for name in end
    }
    rank = next(iter(end.values())).a.shape[0]
    return {
        "factors": lambda: Step(start, end).take(base.model, part),
        f"products, rank {rank}": lambda: replace_factors(base.model, compact(wide, 1.0, most=rank)[0]),
        f"products, rank {2 * rank}": lambda: replace_factors(base.model, wide),
    }


def _distance(start: Adapter, end: Adapter, part: float, now: Adapter) -> float:
    """How far ΔW is from the straight line, in lengths of the step, over all layers."""
    off = length = 0.0
    for name, layer in now.items():
        before, after = start[name].b @ start[name].a, end[name].b @ end[name].a
        off += float(((layer.b @ layer.a).detach() - before.lerp(after, part)).square().sum())
        length += float((after - before).square().sum())
    return math.sqrt(off / length)


def _told(
    base: LoadedBase, anchors: Anchors, new: Sequence[TokenSequence], past: Sequence[TokenSequence]
) -> tuple[float, float, float, float]:
    found, divergence = measure_anchors(base, anchors.judge)
    rise = fmean(after - anchor.loss for after, anchor in zip(found, anchors.judge, strict=True))
    fresh, old = (fmean(losses(base.model, rows, base.device)) for rows in (new, past))
    return fresh, old, fmean(divergence), rise


def _sequence(base: LoadedBase, asked: str, answer: str) -> TokenSequence:
    ids, prompt_length = encode_example(base.tokenizer, [{"role": "user", "content": asked}], answer)
    return TokenSequence(tuple(ids), prompt_length)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
