"""The disk takes no more writes: chat goes on unrecorded, feedback is refused, nothing has to be restarted after."""

from __future__ import annotations

from tests.daemons import Lab, rows

ERRORS = "selflearn_store_write_errors_total"


def test_chat_goes_on_when_the_store_cannot_write(lab: Lab) -> None:
    with lab.daemon(lab.state("full")) as daemon:
        before = daemon.ask("what do you know?")
        assert before.recorded
        assert daemon.metric(ERRORS) == 0
        with daemon.unable_to_write():
            meanwhile = daemon.ask("what do you know?")
            assert meanwhile.text == before.text
            assert not meanwhile.recorded
            assert daemon.metric(ERRORS) > 0
            refused = daemon.correct(before.id, "enough")
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "store_unavailable"
            assert daemon.post("/admin/learn/pause").status_code == 503
            assert daemon.version() == 0
        assert daemon.ask("what do you know?").recorded
        errors = daemon.metric(ERRORS)
        assert daemon.correct(before.id, "enough").status_code == 201
        assert daemon.correct(meanwhile.id, "enough").status_code == 404
        assert daemon.metric(ERRORS) == errors
        assert len(rows(daemon.state, "SELECT id FROM interactions")) == 2
        assert len(rows(daemon.state, "SELECT id FROM feedback")) == 1
