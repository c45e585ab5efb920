"""Pins, the audit log and retention from the command line, with the daemon stopped and with one that runs."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from selflearn.store.audit import newest_digest
from tests.api.server import Running
from tests.cli.conftest import Command
from tests.stores import Bench
from tests.versions.candidates import promote_new

PIN = {"version", "held", "actor", "reason", "since", "dry_run"}


def as_json(command: Command, *arguments: Any) -> Any:
    outcome = command(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def tamper(connection: sqlite3.Connection) -> None:
    for trigger in ("audit_no_update", "audit_no_delete"):
        connection.execute(f"DROP TRIGGER {trigger}")
    connection.execute("UPDATE audit SET actor = 'x' WHERE id = 1")


def test_pins_with_the_daemon_stopped(command: Command, bench: Bench, state: Path) -> None:
    assert [promote_new(bench, state, start) for start in (0, 100)] == [1, 2]
    done = as_json(command, "rollout", "pin", 1, "--reason", "release 1.0", "--dry-run")
    assert (set(done), done["version"], done["held"], done["dry_run"]) == (PIN, 1, False, True)
    assert as_json(command, "status")["pins"] == []
    as_json(command, "rollout", "pin", 1)
    held = command("rollout", "pin", 2, "--hold", "--reason", "audit week")
    assert (held.code, held.err) == (0, "Version 2 is kept, and nothing replaces it in service by itself.\n")
    shown = as_json(command, "rollout", "status")["pins"]
    assert [(row["version"], row["held"], row["reason"]) for row in shown] == [
        (1, False, "asked by the operator"),
        (2, True, "audit week"),
    ]
    assert "1, 2 (held)" in command("rollout", "status").out
    assert "selflearn rollout unpin 2" in command("learn", "status").out
    assert command("rollout", "pin", 1, "--hold").code == 1
    assert as_json(command, "rollout", "unpin")["version"] == 2
    assert command("rollout", "unpin", 2).code == 1
    actions = [(row["action"], row["actor"].partition(":")[0]) for row in as_json(command, "audit", "list")["audit"]]
    assert actions[:3] == [("rollout.unpin", "operator"), ("rollout.pin", "operator"), ("rollout.pin", "operator")]
    assert len(as_json(command, "audit", "list", "--limit", 2)["audit"]) == 2


def test_the_audit_log_is_verified(command: Command, bench: Bench, state: Path) -> None:
    promote_new(bench, state, 0)
    digest = as_json(command, "status")["audit_digest"]
    assert digest == newest_digest(bench.store.connection())
    assert command("rollback").code == 0
    found = as_json(command, "audit", "verify", "--expect", digest)
    assert found == {"rows": 2, "digest": found["digest"], "broken_at": None, "contains_expected": True, "holds": True}
    assert "intact: 2 rows" in command("audit", "verify").out
    other = command("audit", "verify", "--expect", "0123")
    assert (other.code, "cut off" in other.out) == (1, True)
    bench.store.write(tamper)
    broken = command("audit", "verify")
    assert (broken.code, "broken: row 1 does not follow" in broken.out) == (1, True)


def test_old_versions_go(command: Command, bench: Bench, state: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("SELFLEARN_VERSIONS__KEEP_LAST", "1")
    monkeypatch.setenv("SELFLEARN_VERSIONS__KEEP_DAYS", "0.00001")
    assert [promote_new(bench, state, start) for start in (0, 100, 200)] == [1, 2, 3]
    bench.roll_back(1)
    bench.roll_back(3)  # from here a rollback leads to 1
    bench.store.write(lambda connection: connection.execute("UPDATE versions SET parent = 0 WHERE id = 3").rowcount)
    rehearsed = as_json(command, "versions", "prune", "--dry-run")
    assert [row["version"] for row in rehearsed["removed"]] == [2]
    assert (state / "versions" / "v000002").is_dir()
    done = command("versions", "prune")
    assert done.code == 0
    assert "v000002  removed" in done.out
    assert not (state / "versions" / "v000002").exists()
    verified = command("versions", "verify")
    assert verified.code == 0, verified.out
    assert "removed" in verified.out
    refused = command("rollback", 2)
    assert (refused.code, "was removed on" in refused.err, "selflearn rollback 1" in refused.err) == (1, True, True)


def test_a_daemon_does_the_same(command: Command, running: Running) -> None:
    at = ("--url", running.url)
    done = as_json(command, *at, "rollout", "pin", 0, "--hold", "--reason", "the base is enough")
    assert (set(done), done["held"]) == (PIN, True)
    assert [row["version"] for row in as_json(command, *at, "status")["pins"]] == [0]
    assert command(*at, "rollout", "pin", 9).code == 1
    assert as_json(command, *at, "rollout", "unpin", "--dry-run")["dry_run"] is True
    assert as_json(command, *at, "rollout", "unpin")["version"] == 0
    listed = as_json(command, *at, "audit", "list", "--limit", 2)["audit"]
    assert [row["action"] for row in listed] == ["rollout.unpin", "rollout.pin"]
    assert as_json(command, *at, "audit", "verify", "--expect", listed[1]["digest"])["holds"] is True
    assert command(*at, "audit", "verify", "--expect", "f" * 64).code == 1
    pruned = as_json(command, *at, "versions", "prune", "--dry-run")
    assert pruned == {"removed": [], "kept": [], "dry_run": True}
