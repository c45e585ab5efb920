"""The Prometheus metrics of one daemon, in a registry of their own.

Every name of the public contract is registered here, so that a scrape of a fresh daemon already shows the series.
Labels are bounded words only: never an id, a text that an operator typed, or a path that a client sent.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter as Counts
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

PREFIX = "selflearn"
LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
TOKEN_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12)
UPDATE_BUCKETS = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0)
UPDATE_OUTCOMES = ("promoted", "refused", "inconclusive", "failed", "cancelled", "interrupted")
TRACKS = ("stable", "canary", "pinned")
ANSWER_STATES = ("completed", "failed", "cancelled")
FAILURES = ("damaged", "proof", "engine", "died")
ALARM_SIGNALS = ("negative_feedback", "collapse", "errors", "anchor")
ROLLBACKS = ("operator", "damaged", "forgotten", *ALARM_SIGNALS)
SKIPS = (
    "running",
    "rebuilding",
    "disabled",
    "paused",
    "pinned",
    "held",
    "cooldown",
    "busy",
    "too_few_examples",
    "too_few_judges",
    "source_share",
)
EXAMPLE_STATES = ("fresh", "held", "due", "trained", "reserve", "suspect", "quarantined", "forgotten")

_log = logging.getLogger(__name__)


class Metrics:
    """All metrics of one daemon. Thread-safe; every instance is independent of every other."""

    content_type: str = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        # Nobody reads when a series began, and that would be a quarter of all series.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it is theirs
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._refreshers: list[Callable[[], None]] = []
        self._register_requests()
        self._register_experience()
        self._register_learning()
        self._register_versions()

    def _register_requests(self) -> None:
        self.requests = self._counter("requests", "HTTP requests answered.", ("endpoint", "code"))
        by_track = ("track",)
        self.request_duration = self._histogram(
            "request_duration_seconds", "Time from a chat request to its last byte.", LATENCY_BUCKETS, by_track
        )
        self.time_to_first_token = self._histogram(
            "time_to_first_token_seconds", "Time from a chat request to its first token.", LATENCY_BUCKETS, by_track
        )
        self.time_per_output_token = self._histogram(
            "time_per_output_token_seconds",
            "Mean time per token after the first, of one answer.",
            TOKEN_BUCKETS,
            by_track,
        )
        self.requests_running = self._gauge("requests_running", "Chat requests being decoded.")
        self.requests_waiting = self._gauge("requests_waiting", "Chat requests waiting for a place.")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens read from prompts.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens generated.")
        self.answers = self._counter(
            "answers", "Answers by why their version gave them, and by how they ended.", ("track", "state")
        )
        _begin(self.answers, *itertools.product(TRACKS, ANSWER_STATES))
        for timed in (self.request_duration, self.time_to_first_token, self.time_per_output_token):
            _begin(timed, *TRACKS)

    def _register_experience(self) -> None:
        self.interactions = self._counter("interactions", "Interactions recorded durably.")
        self.feedback = self._counter("feedback", "Feedback received, refused included.", ("kind", "status"))
        self.negative_feedback = self._counter(
            "negative_feedback", "Feedback of somebody who may teach that says that an answer is bad."
        )
        self.funnel = self._gauge("funnel", "What came as far as each stage, from received to trained.", ("stage",))
        self.examples = self._gauge("examples", "Examples by state.", ("state",))
        self.quarantined_examples = self._gauge("quarantined_examples", "Examples in quarantine, by why.", ("reason",))
        self.redactions = self._counter("redactions", "Secrets and personal data that were not stored.", ("kind",))
        self._redacted: Counts[str] = Counts()
        self.store_write_errors = self._counter("store_write_errors", "Writes that the database refused.")
        _begin(self.examples, *EXAMPLE_STATES)

    def _register_learning(self) -> None:
        self.updates = self._counter("updates", "Updates ended, by outcome.", ("outcome",))
        self.update_duration = self._histogram(
            "update_duration_seconds", "Time from the snapshot to the verdict.", UPDATE_BUCKETS
        )
        self.update_last_success = self._gauge(
            "update_last_success_timestamp_seconds", "When the last update was promoted, unix time; 0 if never."
        )
        self.refusals = self._gauge("refusals_since_promotion", "Updates that the gate refused since it promoted one.")
        self.examples_needed = self._gauge("examples_needed", "New examples that trigger an update, a setting.")
        self.learning_skipped = self._counter("learning_skipped", "Looks that started no update.", ("reason",))
        _begin(self.updates, *UPDATE_OUTCOMES)
        _begin(self.learning_skipped, *SKIPS)
        self._register_training()
        self._register_verdict()

    def _register_training(self) -> None:
        self.update_running = self._gauge("update_running", "1 while an update runs, from snapshot to verdict.")
        self.worker_alive = self._gauge("worker_alive", "1 while a training worker runs.")
        self.worker_failures = self._counter("worker_failures", "Training workers that ended without a usable report.")
        self.update_progress = self._gauge("update_progress_ratio", "Steps done of the steps planned, last update.")
        self.train_loss = self._gauge("train_loss", "Training loss of the last step, nats per token.")
        self.train_kl = self._gauge("train_kl_nats", "KL(base || student) on the anchors in the last step, per token.")
        self.ewc_penalty_ratio = self._gauge("ewc_penalty_ratio", "EWC penalty over training loss, last step.")
        self.holdout_loss = self._gauge("holdout_loss", "Loss of the fresh holdout at the last look, nats per token.")
        self.update_seconds_left = self._gauge(
            "update_left_seconds", "Expected time until the worker reports; 0 when none runs, or nobody can know yet."
        )
        self.update_paused_seconds = self._counter(
            "update_paused_seconds", "Time that updates, now over, waited for serving."
        )

    def _register_verdict(self) -> None:
        self.gate_value = self._gauge("gate_value", "What the gate measured for the last update.", ("check",))
        self.gate_limit = self._gauge("gate_limit", "What the gate allowed for the last update.", ("check",))
        self.weight_drift = self._gauge(
            "weight_drift_ratio", "Largest ||dW||/||W|| of the last judged update.", ("layer_group",)
        )
        self.kl_drift = self._gauge("kl_drift_nats", "KL(base || candidate) on the anchors, last judged update.")
        self.anchor_loss_delta = self._gauge("anchor_loss_delta_nats", "Rise of the anchor loss, last judged update.")

    def _register_versions(self) -> None:
        named = ("version", "sha256")
        self.version_info = self._gauge("version_info", "1 for the version that answers, and its weights.", named)
        self.promoted_info = self._gauge("promoted_info", "1 for the version that the rollout log names.", named)
        self.canary_info = self._gauge("canary_info", "1 for the version that answers as canary; none: none.", named)
        self.served_since = self._gauge(
            "served_since_timestamp_seconds", "Since when the log names that version, unix time; 0 if always the base."
        )
        self.rollbacks = self._counter("rollbacks", "Rollbacks of the served version.", ("reason",))
        self.swap_duration = self._histogram(
            "swap_duration_seconds", "Time to load, prove and switch to a version.", LATENCY_BUCKETS
        )
        self.canary_share = self._gauge("canary_share", "Share of the conversations that a canary answers; 0: none.")
        self.version_failures = self._counter(
            "version_failures", "Versions that could not come into service, or died in it.", ("reason",)
        )
        _begin(self.rollbacks, *ROLLBACKS)
        _begin(self.version_failures, *FAILURES)
        self._register_watchdog()

    def _register_watchdog(self) -> None:
        self.watchdog_alarms = self._counter(
            "watchdog_alarms", "Alarms about a version in service, whatever followed from them.", ("signal",)
        )
        _begin(self.watchdog_alarms, *ALARM_SIGNALS)
        self.watchdog_share = self._gauge(
            "watchdog_share_ratio", "Bad share of what the watchdog counted of a version.", ("signal", "side")
        )
        self.watchdog_conversations = self._gauge(
            "watchdog_conversations", "Conversations that the watchdog counted of a version.", ("side",)
        )

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(name, text, labels, namespace=PREFIX, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(name, text, labels, namespace=PREFIX, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(name, text, labels, namespace=PREFIX, registry=self.registry, buckets=buckets)

    def before_scrape(self, refresh: Callable[[], None]) -> None:
        """Registers a callback that sets gauges just before each scrape. One that raises is logged and skipped."""
        self._refreshers.append(refresh)

    def exposition(self) -> bytes:
        """The text of a scrape, in the Prometheus format (``content_type``)."""
        for refresh in self._refreshers:
            try:
                refresh()
            except Exception as error:  # a scrape must show the other series even if the database is gone
                _log.warning("a metric could not be refreshed: %s", error)
        return generate_latest(self.registry)

    def set_served(self, version: int, sha256: str) -> None:
        """Makes ``version`` (with the hash of the weights that were loaded) the only series of ``version_info``."""
        _only(self.version_info, (str(version), sha256))

    def set_promoted(self, version: int, sha256: str, since: float | None) -> None:
        """Shows what the rollout log says is served (its registered hash), and since when (unix seconds)."""
        _only(self.promoted_info, (str(version), sha256))
        self.served_since.set(since or 0.0)

    def set_canary(self, canary: tuple[int, str] | None, share: float) -> None:
        """Shows the canary (version and hash), None if there is none, and its share of the conversations."""
        _only(self.canary_info, None if canary is None else (str(canary[0]), canary[1]))
        self.canary_share.set(share)

    def set_funnel(self, stages: Mapping[str, int]) -> None:
        """Sets how much came as far as each stage."""
        for stage, number in stages.items():
            self.funnel.labels(stage).set(number)

    def hide_watched(self, *sides: str) -> None:
        """Takes out what the watchdog counted of sides that are compared no more."""
        for side in sides:
            self.watchdog_conversations.remove(side)
            for signal in ALARM_SIGNALS:
                self.watchdog_share.remove(signal, side)

    def observe_feedback(self, kind: str, status: str, *, negative: bool = False) -> None:
        """Counts feedback by its kind and by what became of it; ``negative`` if it says that an answer is bad."""
        self.feedback.labels(kind, status).inc()
        if negative:
            self.negative_feedback.inc()

    def set_examples(self, by_state: Mapping[str, int]) -> None:
        """Sets the number of examples of each state; states not named become 0."""
        for state in {*EXAMPLE_STATES, *by_state}:
            self.examples.labels(state).set(by_state.get(state, 0))

    def set_quarantined(self, by_reason: Mapping[str, int]) -> None:
        """Sets the number of examples in quarantine for each reason; the caller sees to it that reasons are few."""
        for reason, number in by_reason.items():
            self.quarantined_examples.labels(reason).set(number)

    def set_redactions(self, by_kind: Mapping[str, int]) -> None:
        """Brings the counter of redactions up to these totals, which never fall."""
        for kind, number in by_kind.items():
            self.redactions.labels(kind).inc(max(0, number - self._redacted[kind]))
            self._redacted[kind] = max(number, self._redacted[kind])

    def observe_answer(
        self,
        *,
        track: str,
        state: str,
        prompt_tokens: int,
        completion_tokens: int,
        first_token_seconds: float | None,
        total_seconds: float,
    ) -> None:
        """Counts one answer that ended, by ``TRACKS`` and ``ANSWER_STATES``; without a first token it has no time."""
        self.answers.labels(track, state).inc()
        self.prompt_tokens.inc(prompt_tokens)
        self.generation_tokens.inc(completion_tokens)
        self.request_duration.labels(track).observe(total_seconds)
        if first_token_seconds is None:
            return
        self.time_to_first_token.labels(track).observe(first_token_seconds)
        if completion_tokens > 1:
            seconds = (total_seconds - first_token_seconds) / (completion_tokens - 1)
            self.time_per_output_token.labels(track).observe(seconds)

    def observe_step(self, *, loss: float, kl: float, ewc: float, progress: float) -> None:
        """Shows the last training step: losses in nats per token, ``progress`` is the share of the steps done."""
        self.train_loss.set(loss)
        self.train_kl.set(kl)
        if loss:
            self.ewc_penalty_ratio.set(ewc / loss)
        self.update_progress.set(progress)

    def observe_update(self, outcome: str, *, duration_seconds: float, finished_at: float) -> None:
        """Counts an update that ended with one of ``UPDATE_OUTCOMES``."""
        self.updates.labels(outcome).inc()
        self.update_duration.observe(duration_seconds)
        if outcome == "promoted":
            self.update_last_success.set(finished_at)

    def observe_verdict(self, verdict: Mapping[str, Any]) -> None:
        """Shows a verdict's checks (its dict form). Checks without a number keep no series."""
        self.gate_value.clear()
        self.gate_limit.clear()
        for check in verdict.get("checks", ()):
            name = str(check["name"])
            if (value := _number(check.get("value"))) is not None:
                self.gate_value.labels(name).set(value)
            if (limit := _number(check.get("limit"))) is not None:
                self.gate_limit.labels(name).set(limit)

    def observe_drift(
        self, *, layer_groups: Mapping[str, float], kl_nats: float | None, anchor_rise_nats: float | None
    ) -> None:
        """Shows how far the last judged candidate is from the base."""
        self.weight_drift.clear()
        for group, ratio in layer_groups.items():
            self.weight_drift.labels(group).set(ratio)
        if kl_nats is not None:
            self.kl_drift.set(kl_nats)
        if anchor_rise_nats is not None:
            self.anchor_loss_delta.set(anchor_rise_nats)


def _begin(metric: Counter | Gauge | Histogram, *labels: str | tuple[str, ...]) -> None:
    """Makes series before their first event: Prometheus sees no increase in a counter that appears with a 1."""
    for each in labels:
        metric.labels(*((each,) if isinstance(each, str) else each))


def _only(info: Gauge, labels: tuple[str, ...] | None) -> None:
    """Makes one series of ``info`` 1 and takes the others out; the new one is there before the old one goes."""
    if labels is not None:
        info.labels(*labels).set(1)
    for sample in next(iter(info.collect())).samples:
        found = tuple(sample.labels.values())
        if found != labels:
            info.remove(*found)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
