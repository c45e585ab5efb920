"""What each part of our own update costs, and how a step grows with what it is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from selflearn.config import LearningSettings
from selflearn.learning.anchors import Anchors
from selflearn.learning.importance import Importance, estimate, normalised
from selflearn.learning.reference import fisher_rows, reference_of
from selflearn.learning.regularisers import frozen_copy, low_rank, weight_pulls
from selflearn.models.base import LoadedBase
from selflearn.models.forward import TokenSequence
from tests.benchmarks.report import Report, milliseconds, tell
from tests.benchmarks.update_data import long_chats, short_chats
from tests.benchmarks.update_ours import BARE, adapted, material, seconds_of

REPEATS = 20
#: Each adds its settings to those before it; the last is what the product does by default.
PARTS: Mapping[str, Sequence[str]] = {
    "examples alone": (),
    "+ replay": ("replay_share",),
    "+ KL on anchors": ("kl_weight",),
    "+ EWC": ("ewc_weight",),
}


@dataclass(frozen=True, slots=True)
class Grown:
    """How much is measured of each."""

    steps: int
    rounds: int
    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    ranks: tuple[int, ...]
    histories: tuple[int, ...]


FULL = Grown(4, 3, (2, 8, 32), (64, 128, 256, 512), (4, 16, 64), (16, 256, 4096))
QUICK = Grown(1, 1, (2, 4), (64, 96), (4, 16), (16, 64))


def measure_parts(report: Report, base: LoadedBase, cache: Path, size: Grown) -> None:
    """Replay, KL and EWC are switched on one after another; EWC and the Fisher are timed by themselves as well."""
    default = LearningSettings()
    tell("parts: what is made once for a base")
    started = time.perf_counter()
    anchors, importance = reference_of(base, cache)
    once = time.perf_counter() - started
    rows = short_chats(base.tokenizer, 2 * default.batch_size * size.steps)
    middle = len(rows) // 2
    view = adapted(base, default.rank)
    on = dict(BARE)
    steps: dict[str, dict[str, Any]] = {}
    for name, added in PARTS.items():
        on |= {setting: getattr(default, setting) for setting in added}
        steps[name] = dict(on)
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(size.rounds + 1):
        for name, settings in steps.items():
            tell(f"parts: round {number}: {name}")
            pulls = material(rows[:middle], rows[middle:], anchors.train, importance)
            seconds = seconds_of(view, pulls, LearningSettings(**settings)) / size.steps
            if number:  # whatever is done only once was done in the first
                found[name].append(seconds)
    _tell_parts(report, {name: median(values) for name, values in found.items()}, once)
    _tell_alone(report, view, anchors, importance, rows, median(found["+ EWC"]))


def _tell_parts(report: Report, seconds: Mapping[str, float], once: float) -> None:
    whole = list(seconds.values())[-1]
    table, before = [], 0.0
    for name, value in seconds.items():
        report.write("parts", name=name, seconds=value, share=(value - before) / whole)
        table.append([name, milliseconds(value), 100 * (value - before) / whole])
        before = value
    report.table("What a step consists of", ("step", "ms", "share of the whole, %"), table)
    report.write("once", seconds=once)
    report.table("Once for each base", ("what", "seconds"), [["anchors answered, base importance", once]])


def _tell_alone(
    report: Report, base: LoadedBase, anchors: Anchors, importance: Importance, rows: list[TokenSequence], step: float
) -> None:
    """EWC and Fisher without anything around them: differences of steps are too coarse for a hundredth."""
    settings = LearningSettings()
    adapter = low_rank(base.model)
    pulls = weight_pulls(adapter, frozen_copy(adapter), normalised(importance), settings)
    ewc = _seconds(lambda: torch.stack([pull() for pull in pulls.values()]).sum().backward(), REPEATS)
    base.model.zero_grad(set_to_none=True)
    looked_at = fisher_rows(rows, [anchor.sequence for anchor in anchors.train], settings.fisher_sequences)
    generator = torch.Generator().manual_seed(0)
    fisher = _seconds(lambda: estimate(base.model, looked_at, device=base.device, generator=generator), 1)
    report.write("alone", ewc_seconds=ewc, ewc_share=ewc / step, fisher_seconds=fisher, sequences=len(looked_at))
    cells = [
        ["EWC, forward and backward", milliseconds(ewc), 100 * ewc / step],
        [f"Fisher of {len(looked_at)} sequences, once per update", milliseconds(fisher), None],
    ]
    report.table("By themselves", ("what", "ms", "share of a default step, %"), cells)


def _seconds(work: Callable[[], object], repeats: int) -> float:
    work()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def measure_growth(report: Report, base: LoadedBase, size: Grown) -> None:
    """One step on examples alone, with one thing changed at a time."""
    cases: list[tuple[str, int, int, list[TokenSequence], dict[str, Any], int]] = []
    short = short_chats(base.tokenizer, max(size.batches) * size.steps)
    batch, rank = LearningSettings().batch_size, LearningSettings().rank
    cases += [("batch", n, rank, short[: n * size.steps], {"batch_size": n}, 0) for n in size.batches]
    cases += [("rank", n, n, short[: batch * size.steps], {}, 0) for n in size.ranks]
    for length in size.lengths:
        cases.append(("tokens of each row", length, rank, long_chats(base.tokenizer, batch, length), {}, 0))
    cases += [("past examples", n, rank, short[: batch * size.steps], {"replay_share": 1.0}, n) for n in size.histories]
    table = []
    for what, number, chosen_rank, rows, settings, history in cases:
        tell(f"growth: {what} {number}")
        past = [short[index % len(short)] for index in range(history)]
        pulls = material(rows, past, (), {})
        options = LearningSettings(**{**BARE, **settings, "rank": chosen_rank})
        steps = -(-len(rows) // options.batch_size)
        view = adapted(base, chosen_rank)
        seconds = [seconds_of(view, pulls, options) / steps for _ in range(size.rounds + 1)][1:]
        tokens = sum(len(row.ids) for row in rows) / steps * (2 if history else 1)
        report.write("growth", what=what, number=number, seconds=median(seconds), tokens=tokens)
        table.append([what, number, tokens, milliseconds(median(seconds)), tokens / median(seconds)])
    report.table("How a step grows", ("what", "how many", "tokens in a step", "ms", "tokens/s"), table)
