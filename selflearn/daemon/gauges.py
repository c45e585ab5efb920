"""What the metrics show of a judged update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selflearn.judging import Verdict
from selflearn.judging.layers import largest_by_kind
from selflearn.monitoring import Metrics


def show_verdict(metrics: Metrics, report: Mapping[str, Any], verdict: Verdict) -> None:
    """Sets what the gate found in a worker's report: every check, and how far the weights and the behaviour went."""
    metrics.observe_verdict(verdict.as_dict())
    values = {check.name: check.value for check in verdict.checks}
    metrics.observe_drift(
        layer_groups=largest_by_kind(report["measurements"]["weight_drift"]),
        kl_nats=values["kl_drift"],
        anchor_rise_nats=values["anchored"],
    )
