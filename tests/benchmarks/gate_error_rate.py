"""How often the gate promotes what learned nothing when it looks for months, and how often it sees what did learn.

    python -m tests.benchmarks.gate_error_rate [--looks 10000] [--streams 20] [--coverage]

Streams of updates are drawn, each look with a fresh sample of gains per held-out example, and decided as the gate's
check ``learned`` decides: at the level that is left (:mod:`selflearn.judging.looks`), and for comparison at the same
level in every look. ``--coverage`` measures how often the intervals miss the true mean, by side. There is no model.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from selflearn.config import JudgingSettings
from selflearn.judging import looks, statistics
from selflearn.judging.statistics import p_value, paired_bootstrap

Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]
LIMITS = JudgingSettings()


def _rare_loss(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Nine of ten gain 0.3, one loses 2.7: mean 0."""
    lost = generator.random(shape) < 0.1
    return np.where(lost, generator.normal(-2.7, 1.0, shape), generator.normal(0.3, 0.3, shape))


#: Differences of mean 0 and, but for the rare loss, of spread 1.
GAINS: Mapping[str, Draw] = {
    "normal": lambda generator, shape: generator.normal(0.0, 1.0, shape),
    "heavy tails (t, 3 df)": lambda generator, shape: generator.standard_t(3, shape) / np.sqrt(3.0),
    "few large gains": lambda generator, shape: _lognormal(generator, shape),
    "few large losses": lambda generator, shape: -_lognormal(generator, shape),
    "one in ten lost": _rare_loss,
}


def _lognormal(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    mean, deviation = np.exp(0.5), np.sqrt((np.e - 1.0) * np.e)
    gains: NDArray[np.float64] = (generator.lognormal(0.0, 1.0, shape) - mean) / deviation
    return gains


def p_values(draw: Draw, look_count: int, samples: int, seed: int) -> list[float]:
    """Of a stream of looks at updates that learned nothing."""
    rows = draw(np.random.default_rng(seed), (look_count, samples))
    return [p_value(row.tolist(), 0.0) for row in rows]


def promotions(found: Iterable[float], *, least_level: float | None) -> list[int]:
    """The looks (1, 2, …) that promote, by their p-values; without a floor for the level, all have the same one."""
    budget, promoted = 1.0 - LIMITS.confidence, list[int]()
    for number, value in enumerate(found, start=1):
        look = number - (promoted[-1] if promoted else 0)
        wanted = budget / 2 if least_level is None else looks.level(budget, look, least_level)
        if value <= wanted:
            promoted.append(number)
    return promoted


def power(effect: float, samples: int, in_vain: int, trials: int = 400) -> float:
    """How often an update is seen that gains ``effect`` spreads on average, after so many looks in vain."""
    wanted = looks.level(1.0 - LIMITS.confidence, in_vain + 1, LIMITS.least_level)
    rows = np.random.default_rng(1).normal(effect, 1.0, (trials, samples))
    return float(np.mean([p_value(row.tolist(), 0.0) <= wanted for row in rows]))


def misses(samples: int, draw: Draw, trials: int) -> tuple[float, float]:
    """How often the interval at the default confidence lies above the true mean, and how often below it."""
    rows = draw(np.random.default_rng(samples), (trials, samples))
    found = [paired_bootstrap(row.tolist(), confidence=LIMITS.confidence, seed=i) for i, row in enumerate(rows)]
    return float(np.mean([i.low > 0.0 for i in found])), float(np.mean([i.high < 0.0 for i in found]))


def main() -> None:
    arguments = _arguments()
    if arguments.coverage:
        _print_coverage(arguments.trials)
        return
    print(f"False promotions in {arguments.looks} looks at updates that learned nothing (mean of {arguments.streams})")
    print("| gains | n | every look at 2.5% | spending | spending, no floor |\n|---|---|---|---|---|")
    for name, draw in GAINS.items():
        for samples in (8, 16, 64):
            streams = [p_values(draw, arguments.looks, samples, seed) for seed in range(arguments.streams)]
            found = [
                float(np.mean([len(promotions(each, least_level=least)) for each in streams]))
                for least in (None, LIMITS.least_level, 0.0)
            ]
            print(f"| {name} | {samples} | " + " | ".join(f"{value:.2f}" for value in found) + " |", flush=True)
    print("\nShare of updates seen, by mean gain in spreads and looks in vain before\n")
    print("| gain | n | 0 | 1 | 4 | 16 | 64 and more |\n|---|---|---|---|---|---|---|")
    for effect in (0.25, 0.5, 1.0, 2.0):
        for samples in (8, 16, 32, 64):
            seen = [power(effect, samples, in_vain) for in_vain in (0, 1, 4, 16, 64)]
            print(f"| {effect} | {samples} | " + " | ".join(f"{value:.0%}" for value in seen) + " |", flush=True)


def _print_coverage(trials: int) -> None:
    statistics.RESAMPLES = 2_000
    print("| differences | n | interval above the mean | below it | nominal |\n|---|---|---|---|---|")
    for name, draw in GAINS.items():
        for samples in (8, 16, 64):
            above, below = misses(samples, draw, trials)
            print(f"| {name} | {samples} | {above:.1%} | {below:.1%} | 2.5% |", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--looks", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--trials", type=int, default=2_000, help="samples for each row of --coverage")
    parser.add_argument("--coverage", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
