"""The Grafana dashboard and its provisioning: whole, without overlaps, and in agreement with each other."""

from __future__ import annotations

import itertools
from typing import Any

import yaml

from tests.monitoring.expressions import DASHBOARD, DEPLOY, dashboard, expressions

COLUMNS = 24
PROVISIONING = DEPLOY / "grafana" / "provisioning"
#: Panels that Grafana has without plugins.
TYPES = {"row", "stat", "timeseries", "table", "bargauge", "state-timeline"}


def panels() -> list[dict[str, Any]]:
    return list(dashboard()["panels"])


def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    at = panel["gridPos"]
    return set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))


def test_it_has_what_grafana_needs() -> None:
    whole = dashboard()
    assert (whole["uid"], whole["title"]) == ("selflearn", "selflearn")
    assert whole["schemaVersion"] >= 39
    assert whole["panels"]
    for panel in panels():
        assert panel["type"] in TYPES
        assert panel["title"]
        assert bool(panel.get("targets")) == (panel["type"] != "row")


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    taken: dict[tuple[int, int], str] = {}
    for panel in panels():
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= COLUMNS, panel["title"]
        for cell in cells(panel):
            assert cell not in taken, f"{panel['title']!r} lies over {taken[cell]!r}"
            taken[cell] = panel["title"]


def test_targets_of_a_panel_have_letters_of_their_own() -> None:
    for panel in panels():
        letters = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(letters)) == len(letters), panel["title"]


def test_all_of_it_asks_the_chosen_data_source_for_the_chosen_daemons() -> None:
    whole = dashboard()
    sources = [target["datasource"] for panel in panels() for target in panel.get("targets", ())]
    sources += [note["datasource"] for note in whole["annotations"]["list"]]
    assert {source["uid"] for source in sources} == {"${datasource}"}
    assert {variable["name"] for variable in whole["templating"]["list"]} == {"datasource", "instance"}
    for expression in expressions():
        if not expression.where.startswith("rule "):
            assert 'instance=~"$instance"' in expression.text, expression


def test_it_shows_what_an_operator_asks_for() -> None:
    rows = [panel["title"] for panel in panels() if panel["type"] == "row"]
    assert rows == [
        "What is served",
        "Traffic and latency by version",
        "Learning funnel",
        "Updates",
        "Drift",
        "Watchdog, swaps and failures",
        "Daemon",
    ]
    assert [note["name"] for note in dashboard()["annotations"]["list"]] == ["Versions", "Rollbacks", "Alarms"]


def test_provisioning_finds_prometheus_and_the_dashboard() -> None:
    sources = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text(encoding="utf-8"))
    providers = yaml.safe_load((PROVISIONING / "dashboards" / "selflearn.yml").read_text(encoding="utf-8"))
    assert [source["type"] for source in sources["datasources"] if source["isDefault"]] == ["prometheus"]
    assert providers["providers"][0]["options"]["path"] == "/var/lib/grafana/dashboards"
    assert DASHBOARD.parent.name == "dashboards"
