"""Numbers about learning that a restart must not lose, from a real database."""

from __future__ import annotations

import json
from typing import Any

import pytest

from selflearn.daemon.gauges import show_past, show_progress, show_refusals
from selflearn.monitoring import Metrics
from tests.stores import LEARNER, Bench

CHECKS: list[dict[str, Any]] = [
    {"name": "kl_drift", "value": 0.05, "limit": 0.1},
    {"name": "anchored", "value": None, "limit": 0.05},
]
DRIFT = {"model.layers.0.self_attn.q_proj": 0.1, "model.layers.1.self_attn.q_proj": 0.2}


def ended(bench: Bench, number: int, state: str, checks: list[dict[str, Any]] | None = None) -> None:
    """An update that ended so, at 1000 seconds times its number; with ``checks`` it was judged."""
    judged = checks is not None
    row = {
        "id": number,
        "state": state,
        "report": json.dumps({"measurements": {"weight_drift": DRIFT}}) if judged else None,
        "verdict": json.dumps({"outcome": "refuse", "checks": checks}) if judged else None,
        "finished_at": 1000.0 * number,
    }
    bench.store.write(
        lambda connection: connection.execute(
            "INSERT INTO updates (id, learner, parent, state, trigger, seed, config, snapshot_digest, started_at,"
            " finished_at, report, verdict)"
            " VALUES (:id, 'default', 0, :state, 'test', 1, '{}', '', 1.0, :finished_at, :report, :verdict)",
            row,
        )
    )


def test_a_new_daemon_knows_the_last_promotion_and_the_last_verdict(bench: Bench) -> None:
    ended(bench, 1, "promoted", [])
    ended(bench, 2, "refused", CHECKS)
    ended(bench, 3, "failed")
    metrics = Metrics()
    show_past(metrics, bench.store, LEARNER)
    text = metrics.exposition().decode()
    assert "selflearn_update_last_success_timestamp_seconds 1000.0" in text
    assert 'selflearn_gate_value{check="kl_drift"} 0.05' in text
    assert 'selflearn_gate_value{check="anchored"}' not in text
    assert 'selflearn_gate_limit{check="anchored"} 0.05' in text
    assert 'selflearn_weight_drift_ratio{layer_group="q_proj"} 0.2' in text
    assert "selflearn_kl_drift_nats 0.05" in text


def test_without_any_update_there_is_nothing_to_show(bench: Bench) -> None:
    metrics = Metrics()
    show_past(metrics, bench.store, LEARNER)
    text = metrics.exposition().decode()
    assert "selflearn_update_last_success_timestamp_seconds 0.0" in text
    assert "selflearn_gate_value{" not in text


@pytest.mark.parametrize(
    ("states", "refusals"),
    [
        ((), 0),
        (("refused", "refused"), 2),
        (("refused", "promoted"), 0),
        (("refused", "promoted", "refused", "inconclusive", "failed", "refused"), 2),
    ],
)
def test_refusals_count_from_the_last_promotion(bench: Bench, states: tuple[str, ...], refusals: int) -> None:
    for number, state in enumerate(states, start=1):
        ended(bench, number, state)
    metrics = Metrics()
    show_refusals(metrics, bench.store, LEARNER)
    assert f"selflearn_refusals_since_promotion {refusals}.0" in metrics.exposition().decode()


def test_lines_of_progress() -> None:
    metrics = Metrics()
    step = {"phase": "training", "step": 3, "steps": 12, "loss": 2.0, "kl": 0.01, "ewc": 0.5}
    for line in (step, {"phase": "training", "step": 4, "holdout_loss": 1.5}, {"phase": "measuring", "of": "parent"}):
        show_progress(metrics, line)
    text = metrics.exposition().decode()
    assert "selflearn_update_progress_ratio 0.25" in text
    assert "selflearn_train_loss 2.0" in text
    assert "selflearn_holdout_loss 1.5" in text
