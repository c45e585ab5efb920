"""The watchdog on simulated conversations: how soon it sees a worse version, and how often it blames a good one.

``python -m tests.benchmarks.watchdog`` takes about a minute. The judgement is the product's own; the conversations are
drawn at known rates. One look after every conversation at first, later at 1.1 times as many each time.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from selflearn.config import WatchdogSettings
from selflearn.judging.sequences import Array, Counted, log_evidence_of_rise
from selflearn.judging.watchdog import SIGNALS
from tests.benchmarks.report import Report, tell

RATES = (0.02, 0.05, 0.10)
RISES = (0.02, 0.05, 0.10, 0.20)
HORIZON = 10_000
LOOKS = np.unique(np.concatenate([np.arange(1, 30), np.geomspace(30, HORIZON, 62)]).astype(int))
SETTINGS = WatchdogSettings()
THRESHOLD = math.log(len(SIGNALS) / SETTINGS.false_alarm_rate)
Z_OF_ALPHA = 2.712  # of a one-sided test at false_alarm_rate / 3


@dataclass(frozen=True, slots=True)
class Case:
    """A version with ``rate`` before, from ``history`` conversations, and ``rate + rise`` after."""

    rate: float
    rise: float
    history: int


def first_alarms(case: Case, runs: int, random: np.random.Generator, naive: bool = False) -> Array:
    """At which conversation each of ``runs`` versions raises its alarm; infinity if it never does."""
    found = np.full(runs, np.inf)
    for run in range(runs):
        before = Counted(int(random.binomial(case.history, case.rate)), case.history)
        bad = (random.random(HORIZON) < case.rate + case.rise).cumsum()[LOOKS - 1]
        alarms = _naive(before, bad) if naive else _product(before, bad)
        if alarms.any():
            found[run] = LOOKS[alarms.argmax()]
    return found


def _product(before: Counted, bad: np.ndarray) -> np.ndarray:
    evidence = log_evidence_of_rise(before, bad, LOOKS)
    return np.asarray((evidence >= THRESHOLD) & (bad / LOOKS - before.share >= SETTINGS.margin))


def _naive(before: Counted, bad: np.ndarray) -> np.ndarray:
    """A test of two proportions that takes no account of how often it is made, from 30 conversations on."""
    pooled = (before.bad + bad) / (before.total + LOOKS)
    error = np.sqrt(np.maximum(pooled * (1 - pooled), 1e-12) * (1 / before.total + 1 / LOOKS))
    rise = bad / LOOKS - before.share
    return np.asarray((rise / error >= Z_OF_ALPHA) & (rise >= SETTINGS.margin) & (LOOKS >= 30))


def detection(report: Report, runs: int, random: np.random.Generator) -> None:
    """How many conversations a worse version gets through."""
    rows = []
    for case in _cases((1000, 5000), RISES):
        found = first_alarms(case, runs, random)
        seen = np.isfinite(found)
        # Of the runs without an alarm the delay is beyond the horizon: a median among them is not known.
        median, high = (float(np.quantile(found, q, method="higher")) for q in (0.5, 0.9))
        report.write("detection", rate=case.rate, rise=case.rise, history=case.history, share=float(seen.mean()))
        shown = [f"{value:.0f}" if math.isfinite(value) else "–" for value in (median, high)]
        rows.append([f"{case.rate:.0%}", f"+{case.rise:.0%}", case.history, *shown, f"{seen.mean():.0%}"])
        if case.rise >= 0.1 and seen.mean() < 0.95:
            report.problem(f"a rise of {case.rise:.0%} from {case.rate:.0%} was seen in {seen.mean():.0%} of the runs")
    headings = ("bad before", "after", "history", "delay (median)", "delay (90%)", f"seen within {HORIZON}")
    report.table(f"Conversations until the alarm, {runs} runs each", headings, rows)


def false_alarms(report: Report, runs: int, random: np.random.Generator) -> None:
    """How many versions that are no worse are blamed within the horizon, and what a test without correction does."""
    rows = []
    for case in _cases((1000,), (0.0,)):
        for name, naive in (("watchdog", False), ("test at every look, not corrected", True)):
            alarms = int(np.isfinite(first_alarms(case, runs, random, naive)).sum())
            low, high = _wilson(alarms, runs)
            report.write("false alarms", judge=name, rate=case.rate, alarms=alarms, runs=runs, low=low, high=high)
            rows.append([name, f"{case.rate:.0%}", f"{alarms} of {runs}", f"{low:.1%} to {high:.1%}"])
            if not naive and low > SETTINGS.false_alarm_rate / len(SIGNALS):
                report.problem(f"{alarms} of {runs} good versions were blamed at {case.rate:.0%}")
    headings = ("judge", "bad", f"false alarms in {HORIZON} conversations", "95% interval")
    report.table("Versions that are no worse, one signal", headings, rows)


def dependence(report: Report, runs: int, random: np.random.Generator) -> None:
    """Answers of one conversation are liked or not together: what happens if each is counted for itself."""
    rows = []
    conversations, answers, rate = 1000, 10, 0.1
    looks = np.arange(20, conversations + 1, 20)
    for name, per in (("conversations", 1), ("answers", answers)):
        alarms = 0
        for _ in range(runs):
            # In a bad conversation (one in ten) every answer is rated down.
            old = int(random.binomial(conversations, rate))
            bad = (random.random(conversations) < rate).cumsum()[looks - 1]
            evidence = log_evidence_of_rise(Counted(old * per, conversations * per), bad * per, looks * per)
            alarms += bool((evidence >= THRESHOLD).any())
        low, high = _wilson(alarms, runs)
        report.write("dependence", counted=name, alarms=alarms, runs=runs)
        rows.append([name, f"{alarms} of {runs}", f"{low:.1%} to {high:.1%}"])
    headings = ("counted are", f"false alarms in {conversations} conversations of {answers} answers", "95% interval")
    report.table("Why conversations are counted and not answers", headings, rows)


def _cases(histories: tuple[int, ...], rises: tuple[float, ...]) -> Iterator[Case]:
    return (Case(rate, rise, history) for history in histories for rate in RATES for rise in rises)


def _wilson(bad: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The score interval of a share (Wilson, 1927)."""
    share, spread = bad / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=60, help="versions for each row of the table of delays")
    parser.add_argument("--good", type=int, default=400, help="versions for each row of the table of false alarms")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    report, random = Report(), np.random.default_rng(given.seed)
    tell("detection")
    detection(report, given.runs, random)
    tell("false alarms")
    false_alarms(report, given.good, random)
    dependence(report, given.good // 2, random)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
