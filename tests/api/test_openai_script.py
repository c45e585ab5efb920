"""The script that people may run against any server runs against a whole daemon."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import pytest

from tests.api import openai_script
from tests.benchmarks.models import make_random_model
from tests.daemons import Daemon, Lab

AT_ONCE_SECONDS = 0.02  # an answer that waits for the kernel's timers takes twice as long


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon on a model with room for a prompt that describes tools."""
    root = tmp_path_factory.mktemp("script")
    lab = Lab(make_random_model(root / "model", hidden=128, layers=1), root)
    with lab.daemon(lab.state("state")) as daemon:
        yield daemon


def test_every_feature_works_with_the_official_client(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    with daemon.openai() as client:
        assert openai_script.run(client, "selflearn") == {}
    assert len(capsys.readouterr().out.splitlines()) == len(openai_script.FEATURES)


def test_what_fails_is_told(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert openai_script.main(["--base-url", f"{daemon.url}/v1", "--model", "selflearn@99"]) == 1
    assert "models         FAILED" in capsys.readouterr().out


def test_small_answers_leave_at_once_on_a_connection_that_stays_open(daemon: Daemon) -> None:
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        daemon.get("/livez")
        seconds.append(time.perf_counter() - started)
    assert statistics.median(seconds) < AT_ONCE_SECONDS
