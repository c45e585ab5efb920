"""What the tests of the daemon share: a lab, a state directory that learned once, and the log of what failed."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.daemons import Lab, workers

LOG_TAIL = 6000
QUESTIONS = ("harbour question 1", "what is the port of the daemon?", "water boils at")


@dataclass(frozen=True, slots=True)
class Learned:
    """A state directory whose version 1 was promoted, and what base and version 1 answer to ``QUESTIONS``."""

    state: Path
    base_answers: list[str]
    answers: list[str]

    def copy(self, name: str) -> Path:
        """A state directory of one's own with the same content."""
        target = self.state.with_name(name)
        shutil.copytree(self.state, target, symlinks=True)
        return target


@pytest.fixture(scope="session")
def lab(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tiny_model, tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="session")
def learned(lab: Lab) -> Learned:
    state = lab.state("learned")
    with lab.daemon(state) as daemon:
        base_answers = [daemon.ask(question, 40).text for question in QUESTIONS]
        daemon.teach("harbour")
        update = daemon.await_update(daemon.learn())
        assert update["state"] == "promoted", update["reason"]
        answers = [daemon.ask(question, 40).text for question in QUESTIONS]
    assert answers != base_answers
    assert not workers(state)
    return Learned(state, base_answers, answers)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows the end of every daemon's log that was written to while the failed test ran."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, Lab):
        for log in sorted(lab.root.glob("*.daemon.log")):
            if log.stat().st_mtime >= call.start:
                tail = log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]
                report.sections.append((log.name, tail))
    return report
