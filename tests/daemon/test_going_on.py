"""Learning after a rollback: from the version that was gone back to, as if what came after it had never been."""

from __future__ import annotations

import sys

import pytest

from tests.daemon.conftest import Learned
from tests.daemons import UPDATE_SECONDS, Lab, as_json, rows, run


@pytest.mark.timeout(600)
def test_learning_goes_on_from_the_version_rolled_back_to(lab: Lab, learned: Learned) -> None:
    state = learned.copy("goes-on")
    with lab.daemon(state) as daemon:
        daemon.teach("anchor")
        assert daemon.await_update(daemon.learn())["state"] == "promoted"
        assert daemon.post("/admin/rollback", to=1).status_code == 200
        daemon.teach("lighthouse")
        update = daemon.await_update(daemon.learn())
        assert (update["state"], update["parent"]) == ("promoted", 1), update["reason"]
    by_role = "SELECT example_id AS id FROM update_examples WHERE update_id = ? AND role = ?"
    taught = {number: {row["id"] for row in rows(state, by_role, number, "train")} for number in (1, 2)}
    replayed = {row["id"] for row in rows(state, by_role, 3, "replay")}
    assert replayed
    assert replayed <= taught[1]
    assert not taught[2] & {
        row["id"] for row in rows(state, "SELECT example_id AS id FROM update_examples WHERE update_id = 3")
    }
    # Its bytes are those that version 1's adapter and importance lead to.
    words = [sys.executable, "-m", "selflearn.cli.main", "--state", str(state), "versions", "reproduce", "3", "--json"]
    again = run(words, state, timeout=UPDATE_SECONDS, SERVING__MODEL=str(lab.model))
    assert as_json(again)["identical"] is True
