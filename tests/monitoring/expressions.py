"""Every PromQL expression that is shipped, and what it reads."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "selflearn.json"
#: What Grafana puts in place of its variables, as far as they are not within a string.
VARIABLES = {"$__rate_interval": "5m", "$__interval": "1m"}
#: Labels that Prometheus adds to whatever it scrapes.
TARGET_LABELS = frozenset({"job", "instance"})


@dataclass(frozen=True, slots=True)
class Expression:
    """One expression, where it stands, and the labels that the text around it names (``{{version}}``)."""

    where: str
    text: str
    shown: frozenset[str] = frozenset()

    @property
    def parsed(self) -> promql_parser.Expr:
        text = self.text
        for name, value in VARIABLES.items():
            text = text.replace(name, value)
        return promql_parser.parse(text)


@dataclass(frozen=True, slots=True)
class Reading:
    """A selector: the metric, and its matchers as (label, operator, value)."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]


def rules() -> list[dict[str, Any]]:
    """The rules of all groups."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


@functools.cache
def recorded() -> frozenset[str]:
    """The names of the recording rules."""
    return frozenset(rule["record"] for rule in rules() if "record" in rule)


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return loaded


def expressions() -> Iterator[Expression]:
    """All of the rules and of the dashboard, its annotations included."""
    for rule in rules():
        yield Expression(f"rule {rule.get('alert') or rule['record']}", rule["expr"])
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield Expression(f"panel {panel['title']!r}", target["expr"], _placeholders(target["legendFormat"]))
    for note in dashboard()["annotations"]["list"]:
        yield Expression(
            f"annotation {note['name']}", note["expr"], _placeholders(note["titleFormat"] + note["textFormat"])
        )


def _placeholders(text: str) -> frozenset[str]:
    return frozenset(part.partition("}}")[0].strip() for part in text.split("{{")[1:])


def nodes(expression: promql_parser.Expr) -> list[promql_parser.Expr]:
    """The expression and all its parts."""
    found: list[promql_parser.Expr] = []
    promql_parser.walk(expression, found.append)
    return found


def readings(expression: promql_parser.Expr) -> list[Reading]:
    """What an expression selects."""
    selectors = [node for node in nodes(expression) if isinstance(node, promql_parser.VectorSelector)]
    return [Reading(str(each.name), tuple(_matchers(each))) for each in selectors]


def _matchers(selector: promql_parser.VectorSelector) -> Iterator[tuple[str, str, str]]:
    for matcher in selector.matchers.matchers:
        yield matcher.name, str(matcher.op), matcher.value


def named_labels(node: promql_parser.Expr) -> set[str]:
    """The labels that a node itself groups by, matches on or copies."""
    if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
        return set(node.modifier.labels)
    if isinstance(node, promql_parser.BinaryExpr) and node.modifier is not None:
        matching, copied = node.modifier.matching, node.modifier.group_labels
        return {*(matching.labels if matching is not None else ()), *(copied or ())}
    return set()
