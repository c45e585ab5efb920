"""Updates under way: one at a time, seen by clients only when they are promoted, and then all at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from tests.daemon.conftest import QUESTIONS, Learned
from tests.daemons import (
    Answer,
    Daemon,
    Lab,
    command,
    directories,
    rows,
    stream,
    until,
    update_states,
    workers,
)
from tests.shapes import conforms

SCHEDULED = {
    "LEARNING__ENABLED": "true",
    "LEARNING__MIN_EXAMPLES": "9",
    "LEARNING__INTERVAL_SECONDS": "0.2",
    "LEARNING__IDLE_SECONDS": "0",
}
STREAMED_TOKENS = 100
PAUSED_LOOKS = 'selflearn_learning_skipped_total{reason="paused"}'


@pytest.fixture(scope="module")
def daemon(lab: Lab, learned: Learned) -> Iterator[Daemon]:
    """Serves version 1; its tests leave it with nothing running, but possibly with another version."""
    with lab.daemon(learned.copy("updates")) as running:
        yield running


@pytest.fixture
def taught(daemon: Daemon, request: pytest.FixtureRequest) -> Daemon:
    """The daemon with enough new examples for an update."""
    daemon.teach(request.node.name)
    return daemon


def test_a_restart_forgets_nothing_that_alerts_ask_for(daemon: Daemon) -> None:
    """It comes first: this daemon has promoted nothing itself yet."""
    (row,) = rows(daemon.state, "SELECT finished_at FROM updates WHERE state = 'promoted'")
    assert daemon.metric("selflearn_update_last_success_timestamp_seconds") == row["finished_at"]
    assert daemon.metric('selflearn_gate_limit{check="weight_drift"}') == 9
    assert daemon.metric("selflearn_examples_needed") == 24
    assert daemon.metric("selflearn_update_running") == 0


def test_one_update_at_a_time_and_cancel(taught: Daemon) -> None:
    served = taught.version()
    number = taught.learn()
    second = taught.post("/admin/learn", trigger="test")
    assert second.status_code == 409
    assert second.json()["error"]["code"] == "update_running"
    assert f"Update {number} is running" in second.json()["error"]["message"]
    taught.await_worker()
    assert taught.metric("selflearn_update_running") == 1
    assert taught.post("/admin/learn/cancel").json() == {"cancelled": True}
    update = taught.await_update(number)
    assert (update["state"], update["reason"]) == ("cancelled", "an operator cancelled it")
    assert taught.post("/admin/learn/cancel").json() == {"cancelled": False}
    assert max(update_states(taught.state)) == number
    assert taught.version() == served
    assert workers(taught.state) == []
    assert directories(taught.state, "work") == []


def test_killed_worker_then_promotion_under_a_client_that_never_stops(taught: Daemon) -> None:
    served = taught.version()
    assert served is not None
    killed = taught.learn()
    os.kill(taught.await_worker(), signal.SIGKILL)
    update = taught.await_update(killed)
    assert update["state"] == "failed"
    assert "ended with code -9" in update["reason"]
    assert taught.version() == served
    assert taught.metric("selflearn_worker_failures_total") == 1

    with StreamingClient(taught) as client:
        until(lambda: client.answers)
        number = taught.learn()
        assert number > killed
        assert taught.await_update(number)["state"] == "promoted"
        seen = len(client.answers)
        until(lambda: len(client.answers) > seen + 1)
    assert client.problems == []
    assert [a for a in client.answers if a.version != a.fingerprint_version] == []
    versions = [answer.version for answer in client.answers]
    assert set(versions) == {served, number}
    assert versions == sorted(versions)
    recorded = rows(taught.state, "SELECT id, version FROM interactions")
    assert {answer.id: answer.version for answer in client.answers}.items() <= {
        row["id"]: row["version"] for row in recorded
    }.items()
    assert directories(taught.state, "work") == []


class StreamingClient:
    """Streams one answer after the other, so that a swap meets one, until the end of the ``with`` block."""

    def __init__(self, daemon: Daemon) -> None:
        self.answers: list[Answer] = []
        self.problems: list[Exception] = []
        self._daemon = daemon
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> StreamingClient:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._enough.set()
        self._thread.join()

    def _run(self) -> None:
        with self._daemon.openai() as client:
            while not self._enough.is_set():
                try:
                    self.answers.append(stream(client, f"harbour question {len(self.answers)}", STREAMED_TOKENS))
                except Exception as error:
                    self.problems.append(error)


@pytest.mark.timeout(600)
def test_schedule_pause_and_a_refusal(lab: Lab, learned: Learned) -> None:
    state = learned.copy("refused")
    with lab.daemon(state, **SCHEDULED, JUDGING__MAX_WEIGHT_DRIFT="0.000001") as daemon:
        assert daemon.post("/admin/learn/pause").json() == {"paused": True}
        assert_too_few(daemon)
        daemon.teach("anchor")
        looks = daemon.metric(PAUSED_LOOKS)
        until(lambda: daemon.metric(PAUSED_LOOKS) > looks + 1)
        assert "resume" in daemon.get("/admin/learn")["waiting_for"]
        assert max(update_states(state)) == 1
        assert daemon.post("/admin/learn/resume").json() == {"paused": False}
        until(lambda: max(update_states(state)) == 2)
        assert daemon.get("/admin/updates/2")["trigger"] == "schedule"
        daemon.post("/admin/learn/pause")
        daemon.post("/admin/learn/cancel")
        assert daemon.await_update(2)["state"] == "cancelled"

        before = rows(state, "SELECT * FROM rollouts")
        outcome = command(state, "--url", daemon.url, "learn", "now", "--wait")
        assert outcome.code == 3, outcome.err
        assert "weight_drift" in outcome.out
        update = conforms("learn now", daemon.get("/admin/updates/3"))
        conforms("why", daemon.get("/admin/why/3"))
        conforms("why", daemon.get("/admin/why/1"))
        conforms("versions show", daemon.get("/admin/versions/1"))
        assert conforms("versions verify", daemon.post("/admin/verify").json())["served"]["problem"] is None
        assert update["state"] == "refused"
        checks = {check["name"]: check["outcome"] for check in update["verdict"]["checks"]}
        assert checks["weight_drift"] == "fail"
        assert "weight_drift" in update["reason"]
        assert daemon.get("/admin/status")["answering"] == 1
        assert rows(state, "SELECT * FROM rollouts") == before
        assert [daemon.ask(question, 40).text for question in QUESTIONS] == learned.answers
        assert directories(state, "versions") == ["v000001"]
        assert directories(state, "work") == []


def assert_too_few(daemon: Daemon) -> None:
    """What version 1 learned from is not new: there is nothing for another update."""
    before = update_states(daemon.state)
    response = daemon.post("/admin/learn", trigger="test")
    assert response.status_code == 409
    error = response.json()["error"]
    assert error["code"] == "not_enough_examples"
    assert "Found 0 new" in error["message"]
    assert "Send more feedback" in error["message"]
    assert update_states(daemon.state) == before
