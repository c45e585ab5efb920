"""Keys on the command line: made, listed, removed, and sent."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from selflearn.api.keyring import ROLES, Role, add_key, read_keyring
from selflearn.models.base import load_base
from tests.api.server import Running, make_adapter, running_server
from tests.cli.conftest import Command


@pytest.fixture(scope="module")
def guarded(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, dict[Role, str]]]:
    """A server that asks for keys, and one key of each role."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    secrets: dict[Role, str] = {role: add_key(file, f"the-{role}", role) for role in ROLES}
    base = load_base(tiny_model, device="cpu", dtype="float32")
    adapter = make_adapter(base, tmp_path_factory.mktemp("adapter"))
    with running_server(base, adapter, tmp_path_factory.mktemp("state"), keyring=read_keyring(file)) as server:
        server.serve(0)
        yield server, secrets


def test_add_list_remove(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made = command("keys", "add", "ann", "--role", "operator", "--keys-file", file)
    assert made.code == 0
    secret = made.out.strip()
    assert secret.startswith("sl-")
    assert len(made.out.splitlines()) == 1  # so that a script can take it
    assert secret not in made.err
    assert command("keys", "add", "bob", "--role", "client", "--keys-file", file).code == 0
    listed = command("keys", "list", "--keys-file", file)
    assert [line.split()[:2] for line in listed.out.splitlines()] == [
        ["name", "role"],
        ["ann", "operator"],
        ["bob", "client"],
    ]
    found = json.loads(command("keys", "list", "--keys-file", file, "--json").out)["keys"]
    assert [(key["name"], key["role"], len(key["sha256"])) for key in found] == [
        ("ann", "operator", 64),
        ("bob", "client", 64),
    ]
    assert command("keys", "remove", "ann", "--keys-file", file).code == 2  # nobody is there to ask
    assert command("keys", "remove", "ann", "--keys-file", file, "--yes").code == 0
    assert "SIGHUP" in command("keys", "add", "cid", "--role", "teacher", "--keys-file", file).err
    assert [key.name for key in read_keyring(file).keys] == ["bob", "cid"]


def test_the_key_file_of_the_settings(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert command("keys", "list").code == 2
    monkeypatch.setenv("SELFLEARN_API__KEYS_FILE", str(tmp_path / "keys"))
    assert command("keys", "list").code == 2
    assert command("keys", "add", "ann", "--role", "client").code == 0
    assert "ann" in command("keys", "list").out
    again = command("keys", "add", "ann", "--role", "client")
    assert again.code == 2
    assert "another key named 'ann'" in again.err
    assert command("keys", "add", "a b", "--role", "client").code == 1
    assert command("keys", "add", "bob", "--role", "king").code == 2
    last = command("keys", "remove", "ann", "--yes")
    assert last.code == 1
    assert "the last key" in last.err


def test_the_key_that_is_sent(
    command: Command,
    guarded: tuple[Running, dict[Role, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    running, secrets = guarded
    ask = ("--url", running.url, "status")
    without = command(*ask)
    assert without.code == 1
    assert "SELFLEARN_API_KEY" in without.err
    file = tmp_path / "client-key"
    file.write_text(secrets["operator"] + "\n")
    monkeypatch.setenv("SELFLEARN_API__CLIENT_KEY_FILE", str(file))
    assert command(*ask).code == 0
    monkeypatch.setenv("SELFLEARN_API_KEY", secrets["client"])
    refused = command(*ask)
    assert refused.code == 1
    assert "needs a key of role operator" in refused.err
    assert command("--key-file", file, *ask).code == 0
    assert command("--key-file", tmp_path / "none", *ask).code == 2
    monkeypatch.setenv("SELFLEARN_API_KEY", "two words")
    assert command(*ask).code == 2


@pytest.mark.parametrize("role", ["client", "teacher"])
def test_people_who_are_no_operators_can_chat_and_teach(
    role: Role, command: Command, guarded: tuple[Running, dict[Role, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    running, secrets = guarded
    # Without --url, and with a state directory in place: the command looks whose daemon it is that answers there.
    monkeypatch.setenv("SELFLEARN_SERVING__PORT", running.url.rpartition(":")[2])
    monkeypatch.setenv("SELFLEARN_STATE", str(running.services.state))
    monkeypatch.setenv("SELFLEARN_API_KEY", secrets[role])
    monkeypatch.setattr(sys, "stdin", io.StringIO("what is the port?\n/bad\n/quit\n"))
    outcome = command("chat", "--max-tokens", 4, "--temperature", 0)
    assert outcome.code == (0 if role == "teacher" else 1)
    assert outcome.out.strip()
    assert ("Thank you" in outcome.err) is (role == "teacher")
    assert ("needs a key of role teacher" in outcome.err) is (role == "client")
