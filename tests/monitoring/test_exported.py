"""What rules and dashboard ask for is what a running daemon exports, with labels whose number is bounded."""

from __future__ import annotations

import re
from collections.abc import Callable

import promql_parser
import pytest

from selflearn.monitoring import metrics
from tests.daemons import Outcome
from tests.monitoring.conftest import Seen
from tests.monitoring.expressions import (
    TARGET_LABELS,
    Expression,
    expressions,
    named_labels,
    nodes,
    readings,
    recorded,
)

EXPRESSIONS = list(expressions())
#: Made by Prometheus itself.
ITS_OWN = {"up"}
#: Endings that say the unit; what has none of them is a number of things, a share, or 1 for what is so.
UNITS = ("_seconds", "_nats", "_ratio", "_total", "_info", "_bytes")
COUNTED = {
    "requests_running",
    "requests_waiting",
    "examples",
    "examples_needed",
    "quarantined_examples",
    "funnel",
    "refusals_since_promotion",
    "update_running",
    "worker_alive",
    "canary_share",
    "watchdog_conversations",
}
#: Of the contract: losses (nats per token), and the gate's numbers, whose unit is that of their check.
LOSSES = {"train_loss", "holdout_loss", "gate_value", "gate_limit"}


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=lambda each: f"{each.where}: {each.text[:40]}")
def test_every_expression_reads_what_is_exported(expression: Expression, seen: Seen) -> None:
    for reading in readings(expression.parsed):
        if reading.metric in recorded() | ITS_OWN:
            continue
        assert reading.metric in seen.series, f"{expression.where} reads {reading.metric}, which no scrape had"
        for label, operator, value in reading.matchers:
            assert label in seen.labels(reading.metric) | TARGET_LABELS, f"{reading.metric} has no label {label}"
            if operator == "MatchOp.Equal" and label not in TARGET_LABELS:
                assert seen.has(reading.metric, **{label: value}), f"no {reading.metric}{{{label}={value!r}}}"


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=lambda each: f"{each.where}: {each.text[:40]}")
def test_every_expression_groups_and_shows_labels_that_are_there(expression: Expression, seen: Seen) -> None:
    for node in nodes(expression.parsed):
        if wanted := named_labels(node):
            assert wanted <= _labels(node, seen), f"{expression.where}: {node.prettify()}"
    assert expression.shown <= _labels(expression.parsed, seen), expression.where


def _labels(node: promql_parser.Expr, seen: Seen) -> set[str]:
    """The labels of everything that a part of an expression reads."""
    names = {reading.metric for reading in readings(node)}
    by_record = {expression.where.removeprefix("rule "): expression for expression in EXPRESSIONS}
    found = set(TARGET_LABELS)
    for name in names - ITS_OWN:
        found |= _labels(by_record[name].parsed, seen) if name in recorded() else seen.labels(name)
    return found


def test_the_exposition_is_clean(seen: Seen, promtool: Callable[..., Outcome]) -> None:
    ended = promtool("check", "metrics", given=seen.scrapes[-1])
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_every_metric_has_help_and_names_its_unit(seen: Seen) -> None:
    text = seen.scrapes[-1]
    names = re.findall(r"^# TYPE (selflearn_\w+) (?:counter|gauge|histogram)$", text, re.MULTILINE)
    assert len(names) > 40
    for name in names:
        (help_text,) = re.findall(rf"^# HELP {name} (.*)$", text, re.MULTILINE)
        assert len(help_text) > 10, name
        assert help_text.endswith("."), name
        bare = name.removeprefix("selflearn_")
        assert bare.endswith(UNITS) or bare in COUNTED | LOSSES, f"{name} does not say its unit"


def test_labels_are_bounded(seen: Seen) -> None:
    bounded = {
        "track": set(metrics.TRACKS),
        "outcome": set(metrics.UPDATE_OUTCOMES),
        "signal": set(metrics.ALARM_SIGNALS),
        "side": {"before", "served", "canary"},
        "stage": {"received", "feedback", "examples", "eligible", "trained"},
    }
    for name, series in seen.series.items():
        for labels in series:
            for label, value in labels.items():
                assert value in bounded.get(label, {value}), f"{name}{labels}"
                assert len(value) <= 64, f"{name}{labels}"


def test_only_versions_that_are_there_have_series(seen: Seen) -> None:
    text = seen.scrape()
    numbers = {
        name: re.findall(rf'^selflearn_{name}{{.*version="(\d+)"}} 1\.0$', text, re.MULTILINE)
        for name in ("version_info", "promoted_info", "canary_info")
    }
    assert numbers == {"version_info": ["0"], "promoted_info": ["0"], "canary_info": ["1"]}
    assert seen.has("selflearn_version_info", version="1")  # it was there as long as version 1 answered
    assert 'side="canary"' in text
    assert 'side="served"' not in text
