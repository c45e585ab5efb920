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
    assert with_secret(learned.state / "versions", "harbour question") == []  # version 1 was taught these
    assert with_secret(learned.state, "harbour question") != []


def with_secret(directory: Path, secret: str = SECRET) -> list[str]:
    """The files that have the secret."""
    return [str(path) for path in directory.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
