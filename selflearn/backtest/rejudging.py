"""Decides anew on what was measured: how the gate would have judged the recorded updates under other limits.

Nothing is trained, so every update keeps the parent that it had, even where another verdict would have given it another
one: for limits that let through or refuse much else, replay the history.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selflearn.backtest.configurations import Configuration
from selflearn.backtest.history import History, RecordedUpdate, read_history
from selflearn.backtest.results import measured_of
from selflearn.backtest.stage import copy_record
from selflearn.daemon.steps import judge
from selflearn.store import Store


def rejudge(
    state: Path,
    learner: str,
    configurations: Sequence[Configuration],
    *,
    updates: str | None = None,
    last: int | None = None,
) -> dict[str, Any]:
    """For each configuration the verdict on every recorded update; reads a copy of the database and changes nothing.

    Raises :class:`~selflearn.errors.NotFound` or :class:`~selflearn.errors.ConfigurationError`.
    """
    place = tempfile.TemporaryDirectory(prefix="selflearn-backtest-")
    with place as directory, Store.open(copy_record(state, Path(directory))) as store:
        history = read_history(store.connection(), learner, updates=updates, last=last)
    return {
        "judge_only": True,
        "learner": learner,
        "updates": [update.number for update in history.updates],
        "skipped": {str(number): outcome for number, outcome in history.skipped.items()},
        "configurations": [_judged(each, history) for each in configurations],
    }


def _judged(configuration: Configuration, history: History) -> dict[str, Any]:
    steps = [_verdict(configuration, update) for update in history.updates]
    outcomes = [step["outcome"] for step in steps]
    counted = {outcome: outcomes.count(outcome) for outcome in ("promoted", "refused", "inconclusive")}
    changed = [step["update"] for step in steps if step["outcome"] != step["recorded"]]
    changes = dict(configuration.changes)
    return {"name": configuration.name, "changes": changes, "steps": steps, **counted, "changed": changed}


def _verdict(configuration: Configuration, update: RecordedUpdate) -> Mapping[str, Any]:
    _, judging = configuration.settings(update.config)
    verdict = judge(update.report, judging)
    outcome = {"promote": "promoted", "refuse": "refused"}.get(verdict.outcome, verdict.outcome)
    told = {"outcome": outcome, "recorded": update.outcome, "reason": verdict.reason}
    return {"update": update.number, **told, "measured": measured_of(verdict.as_dict())}
