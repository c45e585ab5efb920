"""Keys: who is let in where, how that is told and recorded, and what a key file may look like."""

from __future__ import annotations

import concurrent.futures
import hashlib
import logging
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from selflearn.api.app import ROUTES
from selflearn.api.keyring import ROLES, Keyring, Role, add_key, digest_of, parse, read_keyring, remove_key
from selflearn.api.keys import RANK
from selflearn.api.page import PROGRAMS
from selflearn.errors import BadRequest, ConfigurationError, NotFound
from selflearn.models.base import LoadedBase
from tests.api.server import Running, running_server

HASH = "sha256:" + "0" * 64
GUARDED = [(method, path, access) for method, path, _, access in ROUTES if access != "open"]
ASK: Any = {"model": "selflearn", "messages": [{"role": "user", "content": "the quick brown"}], "max_tokens": 2}


class Keyed:
    """A server that asks for keys, and one key of each role."""

    def __init__(self, running: Running, secrets: dict[Role, str]) -> None:
        self.running = running
        self.secrets = secrets

    def send(self, role: Role, method: str, path: str, body: object = None) -> httpx.Response:
        return self.running.http.request(method, path, json=body, headers=bearer(self.secrets[role]))


@pytest.fixture(scope="module")
def keyed(base: LoadedBase, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    secrets: dict[Role, str] = {role: add_key(file, f"the-{role}", role) for role in ROLES}
    state = tmp_path_factory.mktemp("state")
    with running_server(base, adapter, state, keyring=read_keyring(file)) as running:
        running.serve(0)
        yield Keyed(running, secrets)


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def filled(path: str) -> str:
    return path.replace("{n}", "0").replace("{name:path}", "selflearn").replace("{id}", "none")


def check_error(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", code)


@pytest.mark.parametrize(("method", "path", "access"), GUARDED)
def test_every_route_but_liveness_and_the_page_needs_a_key_of_its_role(
    keyed: Keyed, method: str, path: str, access: Role
) -> None:
    http = keyed.running.http
    for headers in ({}, bearer("sl-wrong")):
        refused = http.request(method, filled(path), headers=headers)
        check_error(refused, 401, "invalid_api_key")
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert "x-request-id" in refused.headers
    for role in ROLES:
        response = keyed.send(role, method, filled(path))
        if RANK[role] < RANK[access]:
            check_error(response, 403, "insufficient_role")
            assert access in response.json()["error"]["message"]
        else:
            assert response.status_code not in (401, 403), (role, response.text)


def test_the_routes_have_the_roles_that_were_decided() -> None:
    roles = {path: access for _, path, _, access in ROUTES}
    assert [path for path, access in roles.items() if access == "open"] == ["/livez", "/", "/page/{file:path}"]
    assert {path for path, access in roles.items() if access == "teacher"} == {
        "/v1/feedback",
        "/v1/events",
        "/v1/demonstrations",
        "/v1/demonstrations/{file}",
    }
    assert {path for path, access in roles.items() if access == "operator"} == {
        path for path in roles if path.startswith("/admin/")
    }


def test_liveness_needs_none_and_nothing_else_is_told_without(keyed: Keyed) -> None:
    http = keyed.running.http
    assert http.get("/livez").status_code == 200
    assert http.get("/").json() == PROGRAMS  # the same of every daemon, as is the page
    check_error(http.get("/page/no-such-file.js"), 401, "invalid_api_key")
    check_error(http.get("/livez/"), 401, "invalid_api_key")
    check_error(http.get("/no-such-path"), 401, "invalid_api_key")
    check_error(http.delete("/v1/models"), 401, "invalid_api_key")
    check_error(keyed.send("client", "GET", "/no-such-path"), 404, "unknown_url")
    check_error(keyed.send("client", "DELETE", "/v1/models"), 405, "method_not_allowed")


@pytest.mark.parametrize("scheme", ["Basic", "", "Bearer sl-x"])
def test_other_ways_to_send_a_key_are_refused(keyed: Keyed, scheme: str) -> None:
    secret = keyed.secrets["operator"]
    refused = keyed.running.http.get("/v1/models", headers={"authorization": f"{scheme} {secret}".strip()})
    check_error(refused, 401, "invalid_api_key")
    assert secret not in refused.text


def test_two_keys_are_none(keyed: Keyed) -> None:
    headers = [("authorization", f"Bearer {keyed.secrets[role]}") for role in ("client", "operator")]
    check_error(keyed.running.http.get("/v1/models", headers=headers), 401, "invalid_api_key")


def test_the_scheme_may_be_written_as_one_likes(keyed: Keyed) -> None:
    headers = {"authorization": f"bEARER  {keyed.secrets['client']}"}
    assert keyed.running.http.get("/v1/models", headers=headers).status_code == 200


def test_the_official_client(keyed: Keyed) -> None:
    url = f"{keyed.running.url}/v1"
    with openai.OpenAI(base_url=url, api_key=keyed.secrets["client"], max_retries=0) as client:
        assert client.chat.completions.create(**ASK).choices[0].finish_reason
    with openai.OpenAI(base_url=url, api_key="sl-wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            stranger.chat.completions.create(**ASK)
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()


def test_rows_name_the_key_that_asked_and_the_key_that_taught(keyed: Keyed) -> None:
    running = keyed.running
    for user in (None, "ann"):
        body = ASK if user is None else {**ASK, "user": user}
        identity = keyed.send("client", "POST", "/v1/chat/completions", body).json()["id"]
        row = running.row(identity)
        assert (row["source"], row["user"], row["role"]) == ("the-client", user, "client")
    given = {"interaction_id": identity, "kind": "correction", "text": "the lazy dog"}
    assert keyed.send("teacher", "POST", "/v1/feedback", given).status_code == 201
    (row,) = running.store.read("SELECT source, role FROM feedback WHERE interaction_id = ?", (identity,))
    assert row == {"source": "the-teacher", "role": "teacher"}


def test_deeds_name_the_operator(keyed: Keyed) -> None:
    assert keyed.send("operator", "POST", "/admin/learn/pause").status_code == 200
    assert keyed.send("operator", "POST", "/admin/learn/resume").status_code == 200
    rows = keyed.running.store.read("SELECT actor, action FROM audit ORDER BY id")
    assert [(row["actor"], row["action"]) for row in rows[-2:]] == [
        ("operator:the-operator", "learning.pause"),
        ("operator:the-operator", "learning.resume"),
    ]


def test_without_keys_everybody_is_an_operator(running: Running) -> None:
    identity = running.http.post("/v1/chat/completions", json={**ASK, "user": "ann"}).json()["id"]
    assert (running.row(identity)["source"], running.row(identity)["user"]) == ("local", "ann")
    identity = running.http.post("/v1/chat/completions", json=ASK).json()["id"]
    assert running.row(identity)["source"] == "local"
    assert running.http.get("/admin/status", headers=bearer("whatever")).status_code == 200


# The key file


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ann client", "line 1: found 2 words"),
        (f"ann client {HASH} more", "line 1: found 4 words"),
        (f"# who\n\nann boss {HASH}", "line 3: 'boss' is not a role"),
        ("ann client sl-a-key-itself", "line 1: the third word"),
        (f"ann client {HASH.upper()}", "line 1: the third word"),
        (f"ann/b client {HASH}", "line 1: 'ann/b' cannot be the name"),
        (f"local client {HASH}", "line 1: 'local' cannot be the name"),
        (f"ann client {HASH}\nann client {HASH[:-1]}1", "line 2: there is another key named 'ann'"),
        (f"ann client {HASH}\nbob client {HASH}", "line 2: 'bob' is the same key as 'ann'"),
    ],
)
def test_a_wrong_key_file_is_refused_with_the_line(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=told) as refused:
        read_keyring(file)
    assert "sl-a-key-itself" not in str(refused.value)


def test_a_key_file_without_keys_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_keyring(file)
    file.write_text("# nobody yet\n")
    with pytest.raises(ConfigurationError, match="has no keys"):
        read_keyring(file)


def test_comments_and_blank_lines(tmp_path: Path) -> None:
    keys = parse(f"# team\n\n  ann   client  {HASH}   # since May\n", tmp_path)
    assert [(key.name, key.role, key.digest) for key in keys] == [("ann", "client", HASH)]


def test_who_may_use_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    add_key(file, "ann", "client")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with caplog.at_level(logging.WARNING):
        read_keyring(file)
        assert not caplog.records
        file.chmod(0o640)
        read_keyring(file)
        assert "chmod 600" in caplog.text
    file.chmod(0o602)
    with pytest.raises(ConfigurationError, match="Everybody may write"):
        read_keyring(file)


def test_add_and_remove(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# team\nann client {HASH}  # leaves in May")  # no newline at the end
    file.chmod(0o640)
    secret = add_key(file, "bob", "teacher")
    assert secret.startswith("sl-")
    assert len(secret) == 46
    assert secret not in file.read_text()
    assert hashlib.sha256(secret.encode()).hexdigest() in file.read_text()
    keyring = read_keyring(file)
    assert keyring.find(secret.encode()) == keyring.keys[1]
    assert keyring.find(secret.encode()[:-1]) is None
    assert keyring.find(digest_of(secret.encode()).encode()) is None
    remove_key(file, "ann")
    assert file.read_text().startswith("# team\nbob teacher sha256:")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys"]


def test_what_cannot_be_added_or_removed_leaves_the_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    add_key(file, "ann", "client")
    before = file.read_bytes()
    with pytest.raises(ConfigurationError, match="another key named 'ann'"):
        add_key(file, "ann", "operator")
    with pytest.raises(BadRequest, match="cannot be the name"):
        add_key(file, "two words", "client")
    with pytest.raises(NotFound, match="there are: ann"):
        remove_key(file, "bob")
    with pytest.raises(BadRequest, match="the last key"):
        remove_key(file, "ann")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        add_key(tmp_path / "missing" / "keys", "ann", "client")
    assert file.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    link = tmp_path / "keys"
    link.symlink_to(tmp_path / "secret")
    add_key(link, "ann", "client")
    assert link.is_symlink()
    assert len(read_keyring(link).keys) == 1


def test_many_at_once_lose_no_key(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        secrets = list(pool.map(lambda number: add_key(file, f"key-{number}", "client"), range(16)))
    keyring: Keyring = read_keyring(file)
    assert {found.name for secret in secrets if (found := keyring.find(secret.encode()))} == {
        f"key-{number}" for number in range(16)
    }
