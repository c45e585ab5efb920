"""A disk that is really full: chat answers, feedback is refused, nothing acknowledged is lost, and all heals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from selflearn.store import Store, database_path
from tests.daemons import Answer, Daemon, Lab

SIZE = "16m"
MOST_ASKED = 300
ERRORS = "selflearn_store_write_errors_total"
NO_MOUNT = "no file system can be mounted here; test_store_failure has the same errors from a file size limit"


@dataclass(frozen=True, slots=True)
class Disk:
    """A small file system of its own."""

    root: Path

    @property
    def filler(self) -> Path:
        return self.root / "filler"

    def fill(self) -> None:
        """Takes every byte that is free."""
        with contextlib.suppress(OSError), self.filler.open("ab", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def free(self) -> None:
        self.filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    root = tmp_path / "disk"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(root)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip(NO_MOUNT)
    try:
        yield Disk(root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


def ask_until_unrecorded(daemon: Daemon, known: list[Answer]) -> Answer:
    """Asks until an answer cannot be recorded; the others go to ``known``."""
    for number in range(MOST_ASKED):
        answer = daemon.ask(f"question {len(known)}, {number} " + "again " * 30)
        if not answer.recorded:
            return answer
        known.append(answer)
    raise AssertionError("the disk is full, and everything was recorded")


def test_a_full_disk(lab: Lab, disk: Disk) -> None:
    state = disk.root / "state"
    state.mkdir()
    cache = lab.root / "cache"
    cache.mkdir(exist_ok=True)
    (state / "cache").symlink_to(cache)
    with lab.daemon(state) as daemon:
        known = [daemon.ask("what do you know?")]
        accepted = [daemon.correct(known[0].id, "enough")]
        assert daemon.get("/readyz")["recording"] is True
        disk.fill()
        lost = ask_until_unrecorded(daemon, known)
        # Chat goes on, and whoever asks is told that it is not recorded.
        assert lost.text
        assert daemon.get("/readyz") == {"status": "ready", "version": 0, "recording": False}
        assert daemon.metric(ERRORS) > 0
        with daemon.openai() as client:
            messages = [{"role": "user", "content": "and now? " * 50}]
            assert client.chat.completions.create(model="selflearn", messages=messages, max_tokens=4).choices  # type: ignore[arg-type]
        # Feedback is refused as a whole: it says so, and leaves nothing behind.
        refused = daemon.correct(known[0].id, "something else " * 400)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "store_unavailable"
        assert refused.json()["error"].keys() == {"message", "type", "param", "code"}
        # What only reads goes on.
        assert daemon.get("/admin/data/stats")["feedback"] == {"correction": {"accepted": 1}}
        assert daemon.get("/admin/status")["counts"]["interactions"]["completed"] >= len(known)
        disk.free()
        healed = daemon.ask("what do you know?")
        assert healed.recorded
        assert daemon.get("/readyz")["recording"] is True
        known.append(healed)
        accepted.append(daemon.correct(healed.id, "enough and more"))
        assert daemon.correct(lost.id, "it has no row").status_code == 404
        assert [response.status_code for response in accepted] == [201, 201]
        # The power fails while the disk is full.
        disk.fill()
        ask_until_unrecorded(daemon, known)
        daemon.signal(signal.SIGKILL)
        daemon.await_end()
    disk.free()
    with Store.open(database_path(state)) as store:
        assert store.read("PRAGMA integrity_check") == [{"integrity_check": "ok"}]
        found = {row["id"] for row in store.read("SELECT id FROM interactions WHERE state = 'completed'")}
        assert {answer.id for answer in known} <= found
        assert lost.id not in found
        feedback = {row["id"] for row in store.read("SELECT id FROM feedback")}
        assert feedback == {response.json()["id"] for response in accepted}
