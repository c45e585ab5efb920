"""Going back: with the daemon up, from outside, with the daemon down, and away from damage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from selflearn.versions.files import remove_tree
from tests.daemon.conftest import QUESTIONS, Learned
from tests.daemons import ENDLESS, Daemon, Lab, as_json, command, flip_byte, rows, until

NOWHERE = "http://127.0.0.1:1"
FOLLOW_SECONDS = 3.0
ADAPTER = "versions/v000001/adapter_model.safetensors"


@pytest.fixture(scope="module")
def shared(lab: Lab, learned: Learned) -> Iterator[Daemon]:
    with lab.daemon(learned.copy("rollback")) as running:
        yield running


@pytest.fixture
def daemon(shared: Daemon) -> Daemon:
    """A daemon that serves version 1."""
    if shared.version() != 1:
        shared.post("/admin/rollback", to=1)
    assert shared.version() == 1
    return shared


def last_rollout(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.get("/admin/rollouts?limit=1")["rollouts"][0]
    return found


def answers(daemon: Daemon) -> list[str]:
    return [daemon.ask(question, 40).text for question in QUESTIONS]


def test_over_http_to_the_very_same_answers(daemon: Daemon, learned: Learned) -> None:
    assert answers(daemon) == learned.answers
    rehearsed = daemon.post("/admin/rollback", to=0, reason="a rehearsal", dry_run=True)
    assert rehearsed.json() == {"from_version": 1, "to_version": 0, "dry_run": True}
    assert daemon.version() == 1
    done = daemon.post("/admin/rollback", reason="it sounds odd")
    assert done.json() == {"from_version": 1, "to_version": 0, "dry_run": False}
    assert daemon.version() == 0
    assert answers(daemon) == learned.base_answers
    row = last_rollout(daemon)
    assert (row["action"], row["version"], row["reason"]) == ("rollback", 0, "it sounds odd")
    assert daemon.post("/admin/rollback", to=1).status_code == 200
    assert answers(daemon) == learned.answers


def test_by_command(daemon: Daemon) -> None:
    found = as_json(command(daemon.state, "--url", daemon.url, "rollback", 0, "--json"))
    assert found == {"from_version": 1, "to_version": 0, "dry_run": False}
    assert daemon.ask("who are you?").version == 0


def test_row_that_another_process_wrote_is_followed(daemon: Daemon) -> None:
    outcome = command(daemon.state, "--url", NOWHERE, "rollback", 0)
    assert outcome.code == 0, outcome.err
    until(lambda: daemon.version() == 0, FOLLOW_SECONDS)
    assert last_rollout(daemon)["actor"].startswith("operator:")


def test_damaged_target_is_refused(daemon: Daemon) -> None:
    assert daemon.post("/admin/rollback", to=0).status_code == 200
    before = rows(daemon.state, "SELECT * FROM rollouts")
    flip_byte(daemon.state / ADAPTER)
    try:
        refused = daemon.post("/admin/rollback", to=1)
        by_command = command(daemon.state, "--url", NOWHERE, "rollback", 1)
    finally:
        flip_byte(daemon.state / ADAPTER)
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "version_damaged"
    assert "adapter_model.safetensors" in refused.json()["error"]["message"]
    assert by_command.code == 1
    assert "adapter_model.safetensors" in by_command.err
    assert rows(daemon.state, "SELECT * FROM rollouts") == before
    assert daemon.ask("who are you?").version == 0


def test_two_terminals_go_back_once(daemon: Daemon) -> None:
    before = len(rows(daemon.state, "SELECT id FROM rollouts"))
    words = [sys.executable, "-m", "selflearn.cli.main", "--state", str(daemon.state), "--url", daemon.url, "rollback"]
    terminals = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = {process.communicate(timeout=60)[1] for process in terminals}
    assert sorted(process.returncode for process in terminals) == [0, 1]
    assert any("nothing to undo" in text or "somebody changed it meanwhile" in text for text in said)
    assert len(rows(daemon.state, "SELECT id FROM rollouts")) == before + 1
    assert daemon.ask("who are you?").version == 0
    late = daemon.post("/admin/rollback", to=1, expected=1)
    assert (late.status_code, late.json()["error"]["code"]) == (409, "served_changed")


def test_a_held_version_stays_until_an_operator_says_otherwise(daemon: Daemon) -> None:
    done = daemon.post("/admin/rollouts/pin", version=1, hold=True, reason="audit week")
    assert (done.status_code, done.json()["held"]) == (200, True)
    refused = daemon.post("/admin/learn")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "held")
    assert "audit week" in refused.json()["error"]["message"]
    assert daemon.version() == 1
    # Another process goes back, the daemon follows.
    outcome = command(daemon.state, "--url", NOWHERE, "rollback", "--reason", "it is over")
    assert outcome.code == 0, outcome.err
    until(lambda: daemon.version() == 0, FOLLOW_SECONDS)
    status = daemon.get("/admin/status")
    assert [(row["version"], row["held"]) for row in status["pins"]] == [(1, False)]
    assert daemon.get("/admin/audit?limit=2")["audit"][1]["action"] == "rollout.unhold"
    checked = daemon.post("/admin/audit/verify", expect=status["audit_digest"]).json()
    assert (checked["holds"], checked["contains_expected"]) == (True, True)
    assert daemon.post("/admin/rollouts/unpin").json()["version"] == 1


def test_on_a_full_disk_it_says_so_and_what_serves_goes_on(daemon: Daemon) -> None:
    with daemon.unable_to_write():
        daemon.ask("who are you?")  # so that the log has no room left
        refused = daemon.post("/admin/rollback", to=0)
        by_command = command(daemon.state, "--url", daemon.url, "rollback", 0)
        assert daemon.ask("who are you?").version == 1
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
    assert by_command.code == 1
    assert "free disk space" in by_command.err
    assert daemon.post("/admin/rollback", to=0).status_code == 200
    assert daemon.ask("who are you?").version == 0


def test_while_training_and_with_the_worker_dead(lab: Lab, learned: Learned) -> None:
    with lab.daemon(learned.copy("while-training"), **ENDLESS) as daemon:
        daemon.teach("lighthouse")
        update = daemon.learn()
        worker = daemon.await_training()
        assert daemon.post("/admin/rollback", reason="it sounds odd").json()["to_version"] == 0
        assert daemon.ask("who are you?").version == 0
        assert daemon.workers() == [worker]  # it goes on, for nothing: what it makes continues version 1
        os.kill(worker, signal.SIGKILL)
        assert daemon.post("/admin/rollback", to=1).status_code == 200
        assert daemon.ask("who are you?").version == 1
        assert daemon.await_update(update)["state"] == "failed"
        assert daemon.version() == 1


def test_with_the_newest_versions_files_gone(lab: Lab, learned: Learned) -> None:
    state = learned.copy("gone")
    with lab.daemon(state) as daemon:
        assert daemon.version() == 1
        remove_tree(state / "versions" / "v000001")
        assert daemon.ask("who are you?").version == 1  # from memory
        assert daemon.post("/admin/rollback").json()["to_version"] == 0
        assert daemon.ask("who are you?").version == 0
        back = daemon.post("/admin/rollback", to=1)
        assert (back.status_code, back.json()["error"]["code"]) == (409, "version_damaged")
    assert command(state, "--url", NOWHERE, "rollback", 1).code == 1
    assert rows(state, "SELECT version FROM rollouts ORDER BY id DESC LIMIT 1") == [{"version": 0}]


def test_with_the_daemon_down(lab: Lab, learned: Learned) -> None:
    state = learned.copy("down")
    outcome = command(state, "--url", NOWHERE, "rollback")
    assert outcome.code == 0, outcome.err
    with lab.daemon(state) as daemon:
        assert daemon.version() == 0
        assert answers(daemon) == learned.base_answers
        assert last_rollout(daemon)["action"] == "rollback"


def test_damaged_version_gives_way_to_the_last_good_one(lab: Lab, learned: Learned) -> None:
    state = learned.copy("damaged")
    flip_byte(state / ADAPTER)
    with lab.daemon(state) as daemon:
        assert daemon.version() == 0
        assert answers(daemon) == learned.base_answers
        row = last_rollout(daemon)
        assert (row["action"], row["version"]) == ("recover", 0)
        assert "adapter_model.safetensors" in row["reason"]
        assert daemon.post("/admin/rollback", to=1).status_code == 409
