"""What the metrics show of learning: the judged update, the steps of the running one, and what was before a start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from selflearn.judging.layers import largest_by_kind
from selflearn.monitoring import Metrics
from selflearn.store import Store

_LAST_PROMOTED: Final = "SELECT max(finished_at) AS at FROM updates WHERE learner = ? AND state = 'promoted'"
_LAST_JUDGED: Final = (
    "SELECT verdict, json_extract(report, '$.measurements.weight_drift') AS drift FROM updates"
    " WHERE learner = ? AND verdict IS NOT NULL AND report IS NOT NULL ORDER BY id DESC LIMIT 1"
)
_REFUSALS: Final = (
    "SELECT count(*) AS number FROM updates WHERE learner = :learner AND state = 'refused' AND id >"
    " (SELECT coalesce(max(id), 0) FROM updates WHERE learner = :learner AND state = 'promoted')"
)


def show_verdict(metrics: Metrics, weight_drift: Mapping[str, float], verdict: Mapping[str, Any]) -> None:
    """Sets what the gate found: every check of a verdict (its dict form), and how far weights and behaviour went."""
    metrics.observe_verdict(verdict)
    values = {check["name"]: check.get("value") for check in verdict["checks"]}
    metrics.observe_drift(
        layer_groups=largest_by_kind(weight_drift),
        kl_nats=values.get("kl_drift"),
        anchor_rise_nats=values.get("anchored"),
    )


def show_progress(metrics: Metrics, line: Mapping[str, Any]) -> None:
    """Sets what a line of the worker's progress tells of training: a step, or a look at the holdout."""
    if "steps" in line:
        metrics.observe_step(
            loss=float(line["loss"]),
            kl=float(line["kl"]),
            ewc=float(line["ewc"]),
            progress=line["step"] / line["steps"],
        )
    elif "holdout_loss" in line:
        metrics.holdout_loss.set(float(line["holdout_loss"]))


def show_past(metrics: Metrics, store: Store, learner: str) -> None:
    """Sets what a restart would forget: when an update was promoted last, and what the gate found last."""
    promoted = store.read(_LAST_PROMOTED, (learner,))[0]["at"]
    metrics.update_last_success.set(promoted or 0.0)
    for row in store.read(_LAST_JUDGED, (learner,)):
        show_verdict(metrics, json.loads(row["drift"] or "{}"), json.loads(row["verdict"]))


def show_refusals(metrics: Metrics, store: Store, learner: str) -> None:
    """Sets how many updates the gate has refused since it promoted one."""
    metrics.refusals.set(store.read(_REFUSALS, {"learner": learner})[0]["number"])
