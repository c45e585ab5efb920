"""The watchdog in real daemons: a worse version goes back by itself, canaries are decided, a restart loses nothing."""

from __future__ import annotations

import itertools
import signal
from typing import Any

from tests.daemon.conftest import Learned
from tests.daemons import Daemon, Lab, as_json, chat, command, rows, until

NOWHERE = "http://127.0.0.1:1"
FAST = {
    "WATCHDOG__INTERVAL_SECONDS": "0.2",
    "WATCHDOG__MIN_CONVERSATIONS": "20",
    "WATCHDOG__PROBE_SECONDS": "0.5",
}
#: On top: learning goes on, but starts nothing by itself.
LOOKING = {"LEARNING__ENABLED": "true", "LEARNING__MIN_EXAMPLES": "1000", "LEARNING__INTERVAL_SECONDS": "0.5"}
#: On top: a canary is promoted after some dozen conversations.
LENIENT = {"WATCHDOG__CANARY_MARGIN": "0.6", "WATCHDOG__FALSE_ALARM_RATE": "0.2"}
ENOUGH = 40

names = itertools.count()


def asked(daemon: Daemon) -> tuple[str, int]:
    """Asks something in a new conversation; returns the answer's id and its version."""
    name = f"watched {next(names)}"
    response = daemon.http.post("/v1/chat/completions", json=chat(name, 4), headers={"x-selflearn-conversation": name})
    assert response.status_code == 200, response.text
    return response.json()["id"], int(response.headers["x-selflearn-version"])


def correct(daemon: Daemon, interaction_id: str) -> None:
    """Says that an answer is wrong; a random model's may be blank, which cannot be rated."""
    response = daemon.correct(interaction_id, f"the answer is {next(names)}")
    assert response.status_code == 201, response.text


def complain(daemon: Daemon, count: int) -> None:
    """Corrects so many answers, as long as version 1 gives them."""
    for _ in range(count):
        interaction_id, version = asked(daemon)
        if version != 1:
            return
        correct(daemon, interaction_id)


def serve_the_base_then_version_1(daemon: Daemon) -> None:
    assert daemon.post("/admin/rollback", to=0).status_code == 200
    for _ in range(ENOUGH):
        asked(daemon)
    assert daemon.post("/admin/rollouts/promote", version=1).status_code == 200


def last_rollout(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.get("/admin/rollouts?limit=1")["rollouts"][0]
    return found


def test_a_worse_version_goes_back_by_itself(lab: Lab, learned: Learned) -> None:
    state = learned.copy("watchdog")
    with lab.daemon(state, **FAST, **LOOKING) as daemon:
        serve_the_base_then_version_1(daemon)
        complain(daemon, 4)
        daemon.signal(signal.SIGKILL)
        daemon.await_end()
    with lab.daemon(state, **FAST, **LOOKING) as daemon:
        assert daemon.version() == 1
        late, _ = asked(daemon)
        complain(daemon, ENOUGH)
        until(lambda: daemon.version() == 0)
        row = last_rollout(daemon)
        assert (row["action"], row["version"], row["actor"]) == ("rollback", 0, "watchdog")
        (alarm,) = daemon.get("/admin/alarms")["alarms"]
        assert (alarm["version"], alarm["signal"], alarm["action"]) == (1, "negative_feedback", "rollback")
        assert alarm["detail"]["to"] == 0
        after = alarm["detail"]["readings"]["negative_feedback"]["after"]
        assert 4 < after["bad"] <= ENOUGH + 4
        assert f"{after['bad']} of {after['total']} conversations with negative feedback" in row["reason"]
        assert rows(state, "SELECT actor FROM audit ORDER BY id DESC LIMIT 1") == [{"actor": "watchdog"}]
        assert daemon.metric('selflearn_rollbacks_total{reason="negative_feedback"}') == 1
        assert daemon.metric('selflearn_watchdog_alarms_total{signal="negative_feedback"}') == 1
        assert rows(state, "SELECT count(*) AS n FROM examples WHERE state = 'suspect'")[0]["n"] > 0
        assert daemon.get("/admin/status")["alarm"] == alarm
        until(lambda: daemon.metric('selflearn_learning_skipped_total{reason="cooldown"}') > 0)
        assert "the watchdog rolled back" in daemon.get("/admin/learn")["waiting_for"]
        correct(daemon, late)  # what is said now still is about version 1
        assert rows(state, "SELECT version FROM interactions WHERE id = ?", late) == [{"version": 1}]
        assert as_json(command(state, "--url", daemon.url, "rollout", "alarms", "--json")) == {"alarms": [alarm]}
        assert "watchdog alarm" in daemon.log.read_text()
    assert as_json(command(state, "--url", NOWHERE, "rollout", "alarms", "--json")) == {"alarms": [alarm]}
    shown = command(state, "--url", NOWHERE, "status").out
    assert "version 1, negative_feedback: rolled back to version 0" in shown


def test_a_held_version_only_raises_the_alarm(lab: Lab, learned: Learned) -> None:
    with lab.daemon(learned.copy("watchdog-held"), **FAST) as daemon:
        serve_the_base_then_version_1(daemon)
        held = command(daemon.state, "--url", daemon.url, "rollout", "pin", 1, "--hold", "--reason", "a trial")
        assert held.code == 0, held.err
        complain(daemon, ENOUGH)
        until(lambda: daemon.get("/admin/alarms")["alarms"])
        complain(daemon, 2)
        (alarm,) = daemon.get("/admin/alarms")["alarms"]
        assert (alarm["action"], alarm["detail"]["why"]) == ("none", "version 1 is held")
        assert daemon.version() == 1
        let_go = command(daemon.state, "--url", daemon.url, "rollout", "unpin", 1)
        assert let_go.code == 0, let_go.err
        until(lambda: daemon.version() == 0)


def test_a_worse_canary_is_aborted(lab: Lab, learned: Learned) -> None:
    with lab.daemon(learned.copy("watchdog-abort"), **FAST) as daemon:
        assert daemon.post("/admin/rollback", to=0).status_code == 200
        assert daemon.post("/admin/rollouts/canary", version=1, share=0.5).status_code == 200
        while daemon.get("/admin/status")["canary"] is not None:
            interaction_id, version = asked(daemon)
            if version == 1:
                correct(daemon, interaction_id)
            assert next(names) < 1000
        row = last_rollout(daemon)
        assert (row["action"], row["version"], row["actor"]) == ("abort", 1, "watchdog")
        (alarm,) = daemon.get("/admin/alarms")["alarms"]
        assert (alarm["version"], alarm["signal"], alarm["action"]) == (1, "negative_feedback", "abort")
        assert daemon.version() == 0


def test_a_canary_that_is_no_worse_is_promoted(lab: Lab, learned: Learned) -> None:
    with lab.daemon(learned.copy("watchdog-promote"), **FAST, **LENIENT) as daemon:
        assert daemon.post("/admin/rollback", to=0).status_code == 200
        assert daemon.post("/admin/rollouts/canary", version=1, share=0.5).status_code == 200
        correct(daemon, next(said for said, version in iter(lambda: asked(daemon), None) if version == 0))
        while daemon.get("/admin/status")["canary"] is not None:
            asked(daemon)
            assert next(names) < 2000
        row = last_rollout(daemon)
        assert (row["action"], row["version"], row["actor"]) == ("promote", 1, "watchdog")
        assert daemon.version() == 1
        assert daemon.get("/admin/alarms")["alarms"] == []


def test_switched_off_it_does_nothing(lab: Lab, learned: Learned) -> None:
    off = {"WATCHDOG__ENABLED": "false", "WATCHDOG__DECIDES_CANARIES": "false"}
    with lab.daemon(learned.copy("watchdog-off"), **FAST, **off) as daemon:
        serve_the_base_then_version_1(daemon)
        complain(daemon, ENOUGH)
        assert daemon.version() == 1
        assert daemon.get("/admin/alarms")["alarms"] == []
