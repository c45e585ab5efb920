"""The alert rules, by the real promtool: they parse, each fires when it should and is quiet when it should."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.daemons import Outcome
from tests.monitoring.expressions import DEPLOY, RULES, alerts

TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))
ALERTS = alerts()


def by_name(alert: dict[str, Any]) -> str:
    return str(alert["alert"])


def alert_cases() -> list[dict[str, Any]]:
    """All alert tests of all files."""
    files = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in TESTS]
    return [case for file in files for test in file["tests"] for case in test.get("alert_rule_test", ())]


def test_promtool_accepts_rules_and_configuration(promtool: Callable[..., Outcome]) -> None:
    checked = promtool("check", "rules", RULES)
    assert checked.code == 0, checked.out + checked.err
    checked = promtool("check", "config", "--syntax-only", RULES.with_name("prometheus.yml"))
    assert checked.code == 0, checked.out + checked.err


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_the_rules_pass_their_own_tests(file: Path, promtool: Callable[..., Outcome]) -> None:
    ended = promtool("test", "rules", file)
    assert ended.code == 0, ended.out + ended.err


@pytest.mark.parametrize("alert", ALERTS, ids=by_name)
def test_each_alert_is_seen_firing_and_quiet(alert: dict[str, Any]) -> None:
    cases = [bool(case["exp_alerts"]) for case in alert_cases() if case["alertname"] == by_name(alert)]
    assert set(cases) == {True, False}


@pytest.mark.parametrize("alert", ALERTS, ids=by_name)
def test_each_alert_says_how_bad_what_and_where_to_read_on(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning")
    annotations = alert["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert "$labels.instance" in annotations["summary"]
    assert "$value" in annotations["description"]


@pytest.mark.parametrize("alert", ALERTS, ids=by_name)
def test_each_runbook_has_its_heading(alert: dict[str, Any]) -> None:
    file, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (DEPLOY.parent / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert anchor == by_name(alert).lower()
    assert by_name(alert) in headings, f"{file} has no heading {by_name(alert)}"


def test_no_runbook_is_left_over() -> None:
    text = (DEPLOY.parent / "docs" / "operations.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### (Selflearn\w+)$", text, re.MULTILINE)) == set(map(by_name, ALERTS))
