"""Keys of a daemon: without them it stays on loopback, with them it need not, and it takes new ones while it runs."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from pathlib import Path

import httpx

from selflearn.api.keyring import add_key, remove_key
from tests.daemons import DEATH_SECONDS, START_SECONDS, Daemon, Lab, environment, free_port, until


def test_no_daemon_starts_with_a_key_file_that_lets_nobody_in(lab: Lab) -> None:
    state = lab.root / "never-made-for-keys"
    file = lab.root / "empty-keys"
    file.touch()
    for text, told in (("", "has no keys"), ("ann client 1234\n", "line 1: the third word")):
        file.write_text(text)
        outcome = lab.refused_start(state, API__KEYS_FILE=str(file))
        assert outcome.code == 1
        assert told in outcome.err
    outcome = lab.refused_start(state, "--host", "0.0.0.0", API__KEYS_FILE=str(lab.root / "no-keys"))
    assert outcome.code == 1
    assert "cannot be read" in outcome.err
    assert not state.exists()


def test_with_keys_all_addresses_may_be_listened_to_and_keys_change_while_it_runs(lab: Lab) -> None:
    state, file = lab.state("keyed"), lab.root / "keys"
    ann, bob = add_key(file, "ann", "operator"), add_key(file, "bob", "client")
    with lab.daemon(state, key=ann, SERVING__HOST="0.0.0.0", API__KEYS_FILE=str(file)) as daemon:
        assert httpx.get(f"{daemon.url}/livez", trust_env=False).status_code == 200
        assert httpx.get(f"{daemon.url}/readyz", trust_env=False).status_code == 401
        assert daemon.http.get("/readyz", headers={"host": "models.example"}).status_code == 200
        assert daemon.ask("who am i?").recorded
        assert status(daemon, bob) == 200

        cid = add_key(file, "cid", "client")
        remove_key(file, "bob")
        assert status(daemon, cid) == 401
        daemon.signal(signal.SIGHUP)
        until(lambda: status(daemon, cid) == 200)
        assert status(daemon, bob) == 401

        good = file.read_text()
        file.write_text("ann\n")
        daemon.signal(signal.SIGHUP)
        until(lambda: "line 1: found 1 words" in daemon.log.read_text())
        assert status(daemon, cid) == 200
        assert daemon.version() == 0

        file.write_text(good)
        (state / "selflearn.toml").write_text("[api]\nrequests_per_minute = 1\n")
        daemon.signal(signal.SIGHUP)
        until(lambda: daemon.log.read_text().count("settings reloaded") == 2)
        assert [status(daemon, cid) for _ in range(2)] == [200, 429]


def status(daemon: Daemon, key: str) -> int:
    return daemon.http.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code


def test_a_daemon_ends_with_its_terminal_but_not_by_a_hangup_alone(lab: Lab, tmp_path: Path) -> None:
    state, port, log = lab.state("terminal"), free_port(), tmp_path / "log"
    master, slave = pty.openpty()
    with log.open("wb") as output:
        process = subprocess.Popen(
            lab.serve_command(state, port),
            stdin=slave,
            stdout=output,
            stderr=output,
            env=environment(),
            cwd=state,
            start_new_session=True,
        )
    try:
        os.close(slave)
        until(lambda: process.poll() is not None or "Ctrl-C" in log.read_text(), START_SECONDS)
        process.send_signal(signal.SIGHUP)
        until(lambda: "settings reloaded" in log.read_text())
        assert process.poll() is None
        os.close(master)
        process.send_signal(signal.SIGHUP)
        assert process.wait(DEATH_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
