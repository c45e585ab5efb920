"""What the tests of monitoring share: promtool, and a daemon that has seen traffic, an update and a rollback."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.daemons import Daemon, Lab, Outcome, until

#: On top of the quick settings: event files, and a watchdog that looks often.
WATCHED = {"MONITORING__TENSORBOARD_UPDATES": "3", "WATCHDOG__INTERVAL_SECONDS": "0.2"}


@pytest.fixture(scope="session")
def promtool() -> Callable[..., Outcome]:
    """Runs the real promtool: ``promtool("check", "rules", file)``; ``given`` is its standard input."""
    beside = Path(sys.executable).with_name("promtool")
    found = str(beside) if beside.is_file() else shutil.which("promtool")
    if found is None:
        pytest.fail("There is no promtool. 'make test' installs it; elsewhere: apt-get install prometheus.")

    def run(*arguments: object, given: str = "") -> Outcome:
        words = [found, *map(str, arguments)]
        ended = subprocess.run(words, input=given, capture_output=True, text=True, timeout=60, check=False)
        return Outcome(ended.returncode, ended.stdout, ended.stderr)

    return run


@dataclass(frozen=True, slots=True)
class Seen:
    """A running daemon, the text of its last scrape, and every series that any of its scrapes had."""

    daemon: Daemon
    series: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    scrapes: list[str] = field(default_factory=list)

    def scrape(self) -> str:
        """Reads the metrics once and notes what is there."""
        text = self.daemon.http.get("/metrics").text
        self.scrapes.append(text)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                known = self.series.setdefault(sample.name, [])
                if sample.labels not in known:
                    known.append(sample.labels)
        return text

    def labels(self, metric: str) -> set[str]:
        return {label for labels in self.series[metric] for label in labels}

    def has(self, metric: str, **labels: str) -> bool:
        return any(labels.items() <= each.items() for each in self.series.get(metric, ()))


@pytest.fixture(scope="package")
def lab(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tiny_model, tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="package")
def seen(lab: Lab) -> Iterator[Seen]:
    """Version 1 was promoted and taken back, and is the canary now."""
    with lab.daemon(lab.state("watched"), **WATCHED) as daemon:
        seen = Seen(daemon)
        seen.scrape()
        daemon.teach("harbour")
        update = daemon.await_update(daemon.learn())
        assert update["state"] == "promoted", update["reason"]
        until(lambda: seen.scrape() and seen.has("selflearn_watchdog_share_ratio", side="served"))
        _order(daemon, "/admin/rollback", reason="a test")
        _order(daemon, "/admin/rollouts/canary", version=1, share=0.5, reason="a test")
        until(lambda: seen.scrape() and seen.has("selflearn_canary_info"))
        yield seen


def _order(daemon: Daemon, path: str, **body: Any) -> None:
    response = daemon.post(path, **body)
    assert response.is_success, response.text
