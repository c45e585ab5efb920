"""Looking at recorded data and deciding about it, over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from selflearn.api.keyring import add_key, read_keyring
from tests.api.server import Running

QUESTION = "what is the port of the daemon?"


@pytest.fixture
def keyed(start: Callable[..., Running], tmp_path: Path) -> Iterator[tuple[Running, dict[str, httpx.Client]]]:
    """A server with keys, and a client for each: two teachers and an operator."""
    file = tmp_path / "keys.toml"
    roles: Any = {"alice": "teacher", "mallory": "teacher", "ann": "operator"}
    keys = {name: add_key(file, name, role) for name, role in roles.items()}
    server = start(keyring=read_keyring(file))
    server.serve(0)
    with contextlib.ExitStack() as stack:
        given: dict[str, Any] = {"base_url": server.url, "timeout": 60, "trust_env": False}
        yield (
            server,
            {
                name: stack.enter_context(httpx.Client(headers={"authorization": f"Bearer {key}"}, **given))
                for name, key in keys.items()
            },
        )


def teach(client: httpx.Client, answer: str) -> dict[str, Any]:
    """Asks the question and corrects the answer."""
    body = {"model": "selflearn", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 2}
    asked = client.post("/v1/chat/completions", json=body).json()
    given = {"interaction_id": asked["id"], "kind": "correction", "text": answer}
    response = client.post("/v1/feedback", json=given)
    assert response.status_code == 201, response.text
    return {**response.json(), "interaction_id": asked["id"]}


def test_a_dispute_is_seen_and_decided(keyed: tuple[Running, dict[str, httpx.Client]]) -> None:
    _, clients = keyed
    first, second = teach(clients["alice"], "8000"), teach(clients["mallory"], "9999")
    ann = clients["ann"]
    assert second["status"] == "quarantined"

    held = ann.get("/admin/data/examples?state=quarantined&reason=contradiction").json()["examples"]
    assert [(item["source"], item["target"], item["question"]) for item in held] == [
        ("mallory", "9999", QUESTION),
        ("alice", "8000", QUESTION),
    ]
    told = {item["source"]: item["contradictions"] for item in ann.get("/admin/data/sources").json()["sources"]}
    assert told == {"alice": 1, "mallory": 1}
    shown = ann.get(f"/admin/data/examples/{second['example_id']}").json()
    assert [item["id"] for item in shown["contradicts"]] == [first["example_id"]]

    both = ann.post("/admin/data/release", json={"examples": [first["example_id"], second["example_id"]]})
    assert (both.status_code, both.json()["error"]["code"]) == (409, "contradiction")
    done = ann.post("/admin/data/release", json={"examples": [first["example_id"]], "reason": "asked the team"})
    assert done.json() == {
        "released": [{"id": first["example_id"], "state": "fresh"}],
        "unchanged": [],
        "superseded": [second["example_id"]],
    }
    interaction = ann.get(f"/admin/data/interactions/{first['interaction_id']}").json()
    assert [item["state"] for item in interaction["examples"]] == ["fresh"]
    assert interaction["feedback"][0]["source"] == "alice"


def test_a_source_is_quarantined_and_who_did_it_is_known(keyed: tuple[Running, dict[str, httpx.Client]]) -> None:
    server, clients = keyed
    teach(clients["mallory"], "9999")
    order = {"source": "mallory", "reason": "hostile", "dry_run": True}
    assert clients["ann"].post("/admin/data/quarantine", json=order).json()["quarantined"] == 1
    assert clients["ann"].get("/admin/data/examples?state=fresh").json()["examples"] != []
    done = clients["ann"].post("/admin/data/quarantine", json={**order, "dry_run": False}).json()
    assert {name: done[name] for name in ("quarantined", "unchanged", "freed", "learned_from", "dry_run")} == {
        "quarantined": 1,
        "unchanged": 0,
        "freed": [],
        "learned_from": [],
        "dry_run": False,
    }
    (row,) = server.store.read("SELECT actor FROM audit WHERE action = 'data.quarantine'")
    assert row["actor"] == "operator:ann"


def test_only_operators_look_and_decide(keyed: tuple[Running, dict[str, httpx.Client]]) -> None:
    _, clients = keyed
    for path in ("examples", "examples/1", "interactions", "interactions/x", "sources"):
        assert clients["alice"].get(f"/admin/data/{path}").status_code == 403, path
    for path in ("quarantine", "release"):
        assert clients["alice"].post(f"/admin/data/{path}", json={"examples": [1]}).status_code == 403, path


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("examples?state=odd", "state"),
        ("examples?kind=odd", "kind"),
        ("examples?limit=0", "limit"),
        ("examples?before=x", "before"),
        ("examples?colour=red", "colour"),
        ("examples/x", "n"),
        ("interactions?state=fresh", "state"),
    ],
)
def test_what_makes_no_sense_is_refused(running: Running, path: str, param: str) -> None:
    response = running.http.get(f"/admin/data/{path}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_orders_that_make_no_sense_are_refused(running: Running) -> None:
    bodies: list[Any] = [{}, {"examples": [1], "source": "a"}, {"examples": []}, {"examples": ["1"]}]
    for body in [*bodies, {"examples": [-1]}]:
        assert running.http.post("/admin/data/quarantine", json=body).status_code == 400, body
    assert running.http.post("/admin/data/release", json={}).status_code == 400
    for path in ("quarantine", "release"):
        assert running.http.post(f"/admin/data/{path}", json={"examples": [10**6]}).status_code == 404
    assert running.http.get("/admin/data/examples/1000000").status_code == 404
    assert running.http.get("/admin/data/interactions/chatcmpl-0").status_code == 404
    assert running.http.get("/admin/data/interactions?before=chatcmpl-0").status_code == 404
