"""A daemon that serves and learns while it is backed up, restored, and told to forget."""

from __future__ import annotations

import threading
from pathlib import Path

from selflearn.backup import read_backup
from tests.daemon.conftest import QUESTIONS, Learned
from tests.daemons import ENDLESS, Daemon, Lab, as_json, command, directories, rows, until

SECRET = "Vierwaldstaetter-1291"


def test_a_backup_of_a_busy_daemon_serves_the_same(lab: Lab, learned: Learned) -> None:
    state, kept = learned.copy("backed-up"), lab.root / "kept"
    acknowledged: list[str] = []
    with lab.daemon(state) as daemon:
        ended = threading.Event()
        client = threading.Thread(target=lambda: keep_asking(daemon, ended, acknowledged))
        client.start()
        try:
            until(lambda: len(acknowledged) > 3)
            before = list(acknowledged)
            told = as_json(command(state, "backup", kept, "--json"))
            over_http = daemon.post("/admin/backup")
        finally:
            ended.set()
            client.join()
    assert over_http.status_code == 201, over_http.text
    assert read_backup(Path(over_http.json()["directory"]))["learners"][0]["served"] == 1
    found = {row["id"] for row in rows(kept, "SELECT id FROM interactions")}
    assert set(before) <= found  # what had been acknowledged is in it
    assert not found - set(acknowledged) - {row["id"] for row in rows(learned.state, "SELECT id FROM interactions")}
    assert told["counts"]["interactions"] == len(found)

    state = lab.state("restored")
    assert as_json(command(state, "restore", kept, "--json"))["served"] == {"default": 1}
    with lab.daemon(state) as daemon:
        assert daemon.version() == 1
        assert [daemon.ask(question, 40).text for question in QUESTIONS] == learned.answers


def keep_asking(daemon: Daemon, ended: threading.Event, acknowledged: list[str]) -> None:
    while not ended.is_set():
        acknowledged.append(daemon.ask(f"busy question {len(acknowledged)}").id)


def test_forgetting_reaches_a_running_update_and_every_file(lab: Lab, learned: Learned) -> None:
    state = learned.copy("forgetful")
    with lab.daemon(state, **ENDLESS) as daemon:
        daemon.teach("lessons")
        asked = daemon.ask(f"where is {SECRET}?")
        assert daemon.correct(asked.id, f"{SECRET} is a lake").status_code == 201
        number = daemon.learn()
        daemon.await_training()
        assert with_secret(state) != []
        done = as_json(command(state, "--url", daemon.url, "data", "forget", "--match", SECRET, "--yes", "--json"))
        assert (done["interactions"], done["feedback"], done["examples"]) == (1, 1, 1)
        assert (done["updates_ended"], done["learned_by"], done["traces"]) == ([number], [], 0)
        assert done["log_emptied"]
        assert with_secret(state) == []
        update = daemon.get(f"/admin/updates/{number}")
        assert (update["state"], update["reason"]) == ("cancelled", "data that it uses is forgotten")
        assert directories(state, "work") == []
        assert [daemon.ask(question, 40).text for question in QUESTIONS] == learned.answers
    assert with_secret(state) == []
    shown = with_secret(learned.state / "versions", "harbour question")  # version 1 was taught these
    assert [Path(path).name for path in shown] == ["answers.jsonl"]
    assert with_secret(learned.state, "harbour question") != []


def test_forgetting_takes_it_out_of_what_is_served_and_goes_on_after_a_kill(lab: Lab) -> None:
    state = lab.state("rebuilt")
    secret = "harbour 2 of Zumikon"
    with lab.daemon(state, JUDGING__MIN_HOLDOUT="4", JUDGING__MAX_HOLDOUT="4") as daemon:
        for number in range(14):
            asked = daemon.ask(f"harbour question {number}")
            target = f"the answer is {secret}" if number == 13 else f"the answer is harbour {number % 3}"
            assert daemon.correct(asked.id, target).status_code == 201
        assert daemon.await_update(daemon.learn())["state"] == "promoted"
        assert daemon.version() == 1
        answer = daemon.post("/admin/data/forget", match=secret)
        assert answer.status_code == 200, answer.text
        done = answer.json()
        assert (done["versions_gone"], done["to_rebuild"], done["serves"], done["traces"]) == ([1], [1], 0, 0)
        assert daemon.version() == 0  # at once
        assert directories(state, "versions") == []
        gone = daemon.post("/v1/chat/completions", model="selflearn@1", messages=[{"role": "user", "content": "hello"}])
        assert gone.status_code == 404
        assert daemon.post("/admin/rollback", to=1).status_code == 409
        daemon.await_worker()
        assert daemon.post("/admin/learn", trigger="test").status_code == 409
        daemon.process.kill()
        daemon.process.wait()
    with lab.daemon(state, JUDGING__MIN_HOLDOUT="4", JUDGING__MAX_HOLDOUT="4") as daemon:
        until(lambda: daemon.get("/admin/learn")["rebuild"] is None, 120.0)
        assert daemon.version() == 3
        assert [row["state"] for row in rows(state, "SELECT state FROM updates")] == [
            "promoted",
            "interrupted",
            "promoted",
        ]
        checked = as_json(command(state, "--url", daemon.url, "data", "certificate", "2", "--verify", "--json"))
        assert (checked["holds"], checked["problems"]) == (True, [])
    assert with_secret(state, secret) == []


def with_secret(directory: Path, secret: str = SECRET) -> list[str]:
    """The files that have the secret."""
    return [str(path) for path in directory.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
