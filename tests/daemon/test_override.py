"""An operator's word against the gate in real daemons, and updates that are judged as a rehearsal."""

from __future__ import annotations

import pytest

from tests.daemon.conftest import Learned
from tests.daemons import Lab, as_json, command, directories, rows, update_states

NOWHERE = "http://127.0.0.1:1"
NOTHING_PASSES = {"JUDGING__MAX_WEIGHT_DRIFT": "0.000001", "JUDGING__SCALE_STEPS": "1"}
REASON = "we checked it by hand"


@pytest.mark.timeout(600)
def test_what_the_gate_refused_is_served_on_an_operators_word(lab: Lab, learned: Learned) -> None:
    state = learned.copy("override")
    with lab.daemon(state, **NOTHING_PASSES) as daemon:
        daemon.teach("anchor")
        update = daemon.await_update(daemon.learn())
        assert update["state"] == "refused"
        assert [each["scale"] for each in update["report"]["tried"]] == [1.0, 0.5]
        assert directories(state, "refused") == ["v000002"]
        assert directories(state, "versions") == ["v000001"]
        assert directories(state, "work") == []
        kept = daemon.get("/admin/status")["kept_candidates"]
        assert kept["updates"] == [2]
        assert kept["bytes"] > 0

        refused = command(state, "--url", daemon.url, "rollout", "promote", 2)
        assert refused.code == 3
        assert "weight_drift" in refused.err
        assert "--force --reason" in refused.err
        response = daemon.post("/admin/rollouts/promote", version=2)
        assert (response.status_code, response.json()["error"]["code"]) == (409, "refused_by_gate")
        assert command(state, "--url", daemon.url, "rollout", "promote", 2, "--force").code == 2
        assert daemon.post("/admin/rollouts/promote", version=2, force=True).status_code == 400
        assert daemon.version() == 1

        asked = ("rollout", "promote", 2, "--force", "--reason", REASON, "--json")
        done = as_json(command(state, "--url", daemon.url, *asked))
        assert done == {"from_version": 1, "to_version": 2, "dry_run": False}
        assert daemon.ask("who are you?").version == 2
        assert daemon.get("/admin/status")["served"]["forced"] is True
        assert directories(state, "refused") == []
        assert REASON in daemon.get("/admin/rollouts?limit=1")["rollouts"][0]["reason"]
        assert daemon.post("/admin/versions/2/verify").json()["intact"] is True


@pytest.mark.timeout(600)
def test_rehearsals_change_nothing_and_leave_the_choice_to_the_operator(lab: Lab, learned: Learned) -> None:
    state = learned.copy("rehearsed")
    with lab.daemon(state, **NOTHING_PASSES) as daemon:
        daemon.teach("anchor")
        rehearsed = command(state, "--url", daemon.url, "learn", "now", "--dry-run", "--wait")
        assert rehearsed.code == 3, rehearsed.err
        assert "the gate would have refused it" in rehearsed.out
        assert update_states(state) == {1: "promoted", 2: "inconclusive"}
        assert rows(state, "SELECT sum(refusals) AS refusals FROM examples") == [{"refusals": 0}]

    down = command(state, "--url", NOWHERE, "rollout", "promote", 2)
    assert down.code == 3, down.err
    done = as_json(command(state, "--url", NOWHERE, "rollout", "promote", 2, "--force", "--reason", REASON, "--json"))
    assert (done["from_version"], done["to_version"]) == (1, 2)

    with lab.daemon(state, JUDGING__DRY_RUN="true") as daemon:
        assert daemon.ask("who are you?").version == 2
        assert daemon.get("/admin/status")["served"]["forced"] is True
        daemon.teach("lighthouse")
        assert daemon.get("/admin/learn")["fresh"] > 0
        update = daemon.await_update(daemon.learn())
        assert (update["state"], update["verdict"]["outcome"]) == ("inconclusive", "promote"), update["reason"]
        assert update["reason"].startswith("dry run: the gate would have promoted it")
        assert daemon.version() == 2
        assert daemon.get("/admin/learn")["fresh"] == 0  # the same data is not judged again and again
        assert daemon.post("/admin/rollouts/promote", version=3, reason=REASON).status_code == 200
        assert daemon.ask("who are you?").version == 3
        assert daemon.get("/admin/status")["served"]["forced"] is False
