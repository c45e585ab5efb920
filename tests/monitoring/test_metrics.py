"""Metrics: every name of the contract, bounded labels, and a scrape that survives a failing source."""

from __future__ import annotations

from pathlib import Path

import pytest

from selflearn.monitoring import Metrics
from selflearn.monitoring.metrics import ALARM_SIGNALS, FAILURES, ROLLBACKS, UPDATE_OUTCOMES
from selflearn.monitoring.reference import page

CONTRACT = (
    "requests_total",
    "time_to_first_token_seconds",
    "time_per_output_token_seconds",
    "request_duration_seconds",
    "requests_running",
    "requests_waiting",
    "prompt_tokens_total",
    "generation_tokens_total",
    "interactions_total",
    "feedback_total",
    "examples",
    "quarantined_examples",
    "redactions_total",
    "updates_total",
    "update_duration_seconds",
    "update_last_success_timestamp_seconds",
    "learning_skipped_total",
    "train_loss",
    "ewc_penalty_ratio",
    "gate_value",
    "gate_limit",
    "weight_drift_ratio",
    "kl_drift_nats",
    "anchor_loss_delta_nats",
    "version_info",
    "rollbacks_total",
    "store_write_errors_total",
    "swap_duration_seconds",
    "answers_total",
    "canary_share",
    "version_failures_total",
    "worker_alive",
    "update_left_seconds",
    "update_paused_seconds_total",
    "negative_feedback_total",
    "funnel",
    "refusals_since_promotion",
    "examples_needed",
    "update_running",
    "update_progress_ratio",
    "worker_failures_total",
    "train_kl_nats",
    "holdout_loss",
    "promoted_info",
    "canary_info",
    "served_since_timestamp_seconds",
    "watchdog_alarms_total",
    "watchdog_share_ratio",
    "watchdog_conversations",
)
#: What an alert takes the increase of: a series that began with its first event would never show one.
COUNTED_BY_ALERTS = {
    "rollbacks_total": {("reason", reason) for reason in ROLLBACKS},
    "watchdog_alarms_total": {("signal", signal) for signal in ALARM_SIGNALS},
    "version_failures_total": {("reason", reason) for reason in FAILURES},
    "updates_total": {("outcome", outcome) for outcome in UPDATE_OUTCOMES},
}


def scrape(metrics: Metrics) -> str:
    return metrics.exposition().decode()


def test_every_name_of_the_contract_is_there_from_the_start() -> None:
    types = {line.split()[2] for line in scrape(Metrics()).splitlines() if line.startswith("# TYPE")}
    assert {f"selflearn_{name}" for name in CONTRACT} <= types


def test_two_daemons_do_not_share_numbers() -> None:
    first, second = Metrics(), Metrics()
    first.interactions.inc()
    assert "selflearn_interactions_total 1.0" in scrape(first)
    assert "selflearn_interactions_total 0.0" in scrape(second)


def test_one_version_at_a_time() -> None:
    metrics = Metrics()
    metrics.set_served(0, "aa")
    metrics.set_served(7, "bb")
    lines = [line for line in scrape(metrics).splitlines() if line.startswith("selflearn_version_info{")]
    assert lines == ['selflearn_version_info{sha256="bb",version="7"} 1.0']


@pytest.mark.parametrize("name", COUNTED_BY_ALERTS)
def test_what_alerts_count_begins_at_zero(name: str) -> None:
    text = scrape(Metrics())
    for label, value in COUNTED_BY_ALERTS[name]:
        assert f'selflearn_{name}{{{label}="{value}"}} 0.0' in text


def test_what_is_promoted_stands_beside_what_answers() -> None:
    metrics = Metrics()
    metrics.set_served(6, "aa")
    metrics.set_promoted(6, "aa", 1000.0)
    metrics.set_promoted(7, "bb", 2000.0)
    metrics.set_canary((8, "cc"), 0.25)
    text = scrape(metrics)
    assert 'selflearn_version_info{sha256="aa",version="6"} 1.0' in text
    assert 'selflearn_promoted_info{sha256="bb",version="7"} 1.0' in text
    assert 'selflearn_promoted_info{sha256="aa",version="6"}' not in text
    assert 'selflearn_canary_info{sha256="cc",version="8"} 1.0' in text
    assert "selflearn_served_since_timestamp_seconds 2000.0" in text
    metrics.set_canary(None, 0.0)
    metrics.set_promoted(0, "base", None)
    text = scrape(metrics)
    assert "selflearn_canary_info{" not in text
    assert "selflearn_served_since_timestamp_seconds 0.0" in text


def test_what_the_watchdog_no_longer_compares_goes() -> None:
    metrics = Metrics()
    for side in ("before", "served"):
        metrics.watchdog_conversations.labels(side).set(12)
        metrics.watchdog_share.labels("errors", side).set(0.1)
    metrics.hide_watched("served", "canary")
    text = scrape(metrics)
    assert 'side="served"' not in text
    assert 'selflearn_watchdog_share_ratio{side="before",signal="errors"} 0.1' in text


def test_the_last_step_of_training() -> None:
    metrics = Metrics()
    metrics.observe_step(loss=2.0, kl=0.1, ewc=0.5, progress=0.75)
    metrics.observe_step(loss=0.0, kl=0.2, ewc=0.5, progress=1.0)
    text = scrape(metrics)
    assert "selflearn_train_kl_nats 0.2" in text
    assert "selflearn_ewc_penalty_ratio 0.25" in text
    assert "selflearn_update_progress_ratio 1.0" in text


def test_examples_that_are_gone_count_zero() -> None:
    metrics = Metrics()
    metrics.set_examples({"fresh": 3})
    metrics.set_examples({"trained": 3})
    text = scrape(metrics)
    assert 'selflearn_examples{state="fresh"} 0.0' in text
    assert 'selflearn_examples{state="trained"} 3.0' in text


def test_redactions_only_rise() -> None:
    metrics = Metrics()
    for total in (2, 2, 5, 4, 5):
        metrics.set_redactions({"email": total})
    assert 'selflearn_redactions_total{kind="email"} 5.0' in scrape(metrics)


def test_a_verdict_with_numbers_that_are_none() -> None:
    metrics = Metrics()
    checks = [
        {"name": "learned", "value": 0.5, "limit": 0.0},
        {"name": "finite", "value": None, "limit": None},
        {"name": "retained", "value": "nan", "limit": 0.1},
    ]
    metrics.observe_verdict({"outcome": "refuse", "checks": checks})
    text = scrape(metrics)
    assert 'selflearn_gate_value{check="learned"} 0.5' in text
    assert 'selflearn_gate_value{check="finite"}' not in text
    assert 'selflearn_gate_limit{check="retained"} 0.1' in text


def test_times_of_an_answer() -> None:
    metrics = Metrics()
    ended = {"track": "canary", "state": "completed"}
    metrics.observe_answer(**ended, prompt_tokens=7, completion_tokens=11, first_token_seconds=0.5, total_seconds=1.5)
    metrics.observe_answer(**ended, prompt_tokens=3, completion_tokens=0, first_token_seconds=None, total_seconds=0.1)
    text = scrape(metrics)
    assert 'selflearn_answers_total{state="completed",track="canary"} 2.0' in text
    assert 'selflearn_answers_total{state="failed",track="stable"} 0.0' in text
    assert "selflearn_prompt_tokens_total 10.0" in text
    assert 'selflearn_time_per_output_token_seconds_sum{track="canary"} 0.1' in text
    assert 'selflearn_time_to_first_token_seconds_count{track="canary"} 1.0' in text
    assert 'selflearn_request_duration_seconds_count{track="canary"} 2.0' in text


def test_updates() -> None:
    metrics = Metrics()
    metrics.observe_update("refused", duration_seconds=5.0, finished_at=1000.0)
    assert "selflearn_update_last_success_timestamp_seconds 0.0" in scrape(metrics)
    metrics.observe_update("promoted", duration_seconds=5.0, finished_at=2000.0)
    text = scrape(metrics)
    assert "selflearn_update_last_success_timestamp_seconds 2000.0" in text
    assert 'selflearn_updates_total{outcome="refused"} 1.0' in text


def test_a_scrape_refreshes_gauges_and_survives_a_failing_source(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()

    def broken() -> None:
        raise OSError("disk gone")

    metrics.before_scrape(broken)
    metrics.before_scrape(lambda: metrics.requests_running.set(3))
    assert "selflearn_requests_running 3.0" in scrape(metrics)
    assert "disk gone" in caplog.text


def test_the_page_of_metrics_is_what_they_say() -> None:
    written = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert written == page(), "run: python -m selflearn.monitoring.reference docs/metrics.md"
    for name in CONTRACT:
        assert f"| `selflearn_{name}` |" in written
