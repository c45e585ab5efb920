"""Forgetting, retention and backups over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from selflearn.api.keyring import add_key, read_keyring
from selflearn.backup import read_backup
from selflearn.config import ApiSettings
from tests.api.server import Running

SECRET = "Nimmersatt-2001"


def ask(running: Running, text: str, user: str) -> str:
    client: Any = running.openai.chat.completions
    messages = [{"role": "user", "content": text}]
    return str(client.create(model="selflearn", messages=messages, max_tokens=4, user=user).id)


def test_a_user_is_forgotten_and_the_ids_say_so(running: Running) -> None:
    theirs, others = ask(running, f"I am {SECRET}", "carol"), ask(running, "I am nobody", "dave")
    stored = running.openai.responses.create(model="selflearn", input=SECRET, user="carol", max_output_tokens=4)
    body = {"user": "carol", "dry_run": True}
    assert running.http.post("/admin/data/forget", json=body).json()["interactions"] == 2
    assert running.row(theirs)["user"] == "carol"
    done = running.http.post("/admin/data/forget", json={"user": "carol", "reason": "a letter"})
    assert done.status_code == 200
    told = done.json()
    assert (told["interactions"], told["dry_run"], told["traces"], told["copies"]) == (2, False, 0, [])
    assert told["log_emptied"] is True
    assert (told["versions_gone"], told["to_rebuild"], told["serves"], told["certificate"]) == ([], [], 0, 1)
    (listed,) = running.http.get("/admin/data/certificates").json()["certificates"]
    assert (listed["certificate"], listed["state"], listed["by"], listed["rows"]) == (1, "finished", "user", 2)
    shown = running.http.get("/admin/data/certificates/1")
    assert (shown.json()["sha256"], "carol" in shown.text) == (listed["sha256"], False)
    assert running.http.post("/admin/data/certificates/1/verify").json()["problems"] == []
    assert running.http.get("/admin/data/certificates/2").status_code == 404
    assert not any(SECRET.encode() in file.read_bytes() for file in running.services.state.glob("selflearn.db*"))
    assert running.row(others)["user"] == "dave"
    feedback = running.http.post("/v1/feedback", json={"interaction_id": theirs, "kind": "rating", "value": 1})
    assert (feedback.status_code, feedback.json()["error"]["code"]) == (404, "interaction_forgotten")
    with pytest.raises(openai.NotFoundError, match="was forgotten") as caught:
        running.openai.responses.retrieve(stored.id)
    assert caught.value.code == "response_forgotten"
    with pytest.raises(openai.NotFoundError, match="was forgotten"):
        running.openai.responses.create(model="selflearn", input="go on", previous_response_id=stored.id)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"user": "a", "source": "b"},
        {"user": ""},
        {"user": 5},
        {"match": "x"},
        {"user": "a", "path": "/tmp"},
        {"user": "erin", "reason": "Erin asked"},
    ],
)
def test_what_is_not_acceptable_changes_nothing(running: Running, body: dict[str, Any]) -> None:
    ask(running, "still here", "erin")
    before = running.store.read("SELECT id FROM interactions")
    response = running.http.post("/admin/data/forget", json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]
    assert running.store.read("SELECT id FROM interactions") == before


def test_an_interaction_that_never_was(running: Running) -> None:
    response = running.http.post("/admin/data/forget", json={"interaction": "chatcmpl-never"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "interaction_not_found")


def test_retention_without_limits_deletes_nothing(running: Running) -> None:
    response = running.http.post("/admin/data/retain", json={})
    assert response.status_code == 200
    found = response.json()
    assert (found["interactions"], found["fits"], found["dry_run"]) == (0, True, False)
    assert running.http.post("/admin/data/retain", json={"dry_run": True}).json()["dry_run"] is True


def test_a_backup_lies_in_the_state_directory(running: Running) -> None:
    response = running.http.post("/admin/backup", json={"directory": "/tmp/elsewhere"})
    assert response.status_code == 201
    told = response.json()
    assert Path(told["directory"]).parent == running.services.state / "backups"
    assert read_backup(Path(told["directory"]))["counts"] == told["counts"]
    copies = running.http.post("/admin/data/forget", json={"user": "nobody"}).json()["copies"]
    assert copies == [f"backups/{Path(told['directory']).name}"]


def test_only_operators_may(start: Callable[..., Running], tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = add_key(file, "teacher", "teacher")
    running = start(keyring=read_keyring(file), api=ApiSettings(keys_file=file))
    headers = {"authorization": f"Bearer {key}"}
    for path in ("/admin/data/forget", "/admin/data/retain", "/admin/backup"):
        assert running.http.post(path, json={}, headers=headers).status_code == 403
        assert running.http.post(path, json={}).status_code == 401
    assert not (running.services.state / "backups").exists()
