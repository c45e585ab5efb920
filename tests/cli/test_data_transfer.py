"""``selflearn data import`` and ``export``: with a daemon, without one, interrupted, and packed."""

from __future__ import annotations

import gzip
import io
import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from selflearn.cli import transfer
from selflearn.store import Store
from tests.api.server import Running
from tests.cli.conftest import Command
from tests.rows import chat, question
from tests.stores import Bench

ROWS = [chat(question(number), "The guild of the town.") for number in range(12)]


@pytest.fixture
def store(bench: Bench) -> Store:
    return bench.store


def write(file: Path, *rows: Any) -> Path:
    lines = b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)
    file.write_bytes(gzip.compress(lines) if file.suffix == ".gz" else lines)
    return file


def number_of(store: Store, source: str) -> int:
    return int(store.read("SELECT count(*) AS n FROM examples WHERE source = ?", (source,))[0]["n"])


@pytest.fixture(params=["daemon", "no daemon"])
def where(request: pytest.FixtureRequest) -> tuple[list[str], Store]:
    """Global options that lead to a place, and the store that is there."""
    if request.param == "daemon":
        running: Running = request.getfixturevalue("running")
        return ["--url", running.url], running.store
    return [], request.getfixturevalue("store")


def test_import_and_export(command: Command, where: tuple[list[str], Store], tmp_path: Path) -> None:
    place, store = where
    name = f"my-faq-{len(place)}"
    file = write(tmp_path / f"{name}.v2.jsonl", *ROWS, b"", b"{", {"text": "secret@example.com"})
    outcome = command(*place, "data", "import", file)
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[:2] == [f"source       import:{name}", "received     14"]
    assert "line 14: the line is not JSON" in outcome.err
    assert "line 15: the row is in no known format" in outcome.err
    assert number_of(store, f"import:{name}") == 12
    again = command(*place, "data", "import", file, "--json")
    assert "imported before" in again.err
    assert json.loads(again.out)["finished_before"] is True
    assert json.loads(again.out)["accepted"] == 12
    third = json.loads(command(*place, "data", "import", file, "--again", "--json").out)
    assert (third["known"], third["accepted"], third["rejected"], third["lines"]) == (12, 0, 2, 15)
    out = tmp_path / "out.jsonl"
    done = command(*place, "data", "export", out, "--source", f"import:{name}")
    assert (done.code, done.out) == (0, "")
    assert "12 examples exported" in done.err
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["messages"][0] for row in rows] == [row["messages"][0] for row in ROWS]
    assert command(*place, "data", "export", out).code == 1
    packed = command(*place, "data", "export", tmp_path / "out.gz", "--with-metadata", "--source", f"import:{name}")
    assert packed.code == 0
    with gzip.open(tmp_path / "out.gz") as lines:
        assert [json.loads(line)["metadata"]["source"] for line in lines] == [f"import:{name}"] * 12
    assert {entry.name for entry in tmp_path.iterdir()} <= {file.name, "out.jsonl", "out.gz", "state"}


def test_standard_input_and_packed_files(
    command: Command, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(ROWS[0]).encode())))
    assert json.loads(command("data", "import", "-", "--json").out)["source"] == "import:stdin"
    packed = write(tmp_path / "rows.jsonl.gz", *ROWS)
    done = json.loads(command("data", "import", packed, "--name", "packed", "--format", "chat", "--json").out)
    assert (done["source"], done["accepted"] + done["folded"]) == ("import:packed", 12)
    packed.write_bytes(packed.read_bytes()[:-20] + b"x" * 20)
    damaged = command("data", "import", packed, "--name", "damaged")
    assert damaged.code == 1
    assert "is damaged" in damaged.err
    assert number_of(store, "import:stdin") == 1


def test_export_to_standard_output(command: Command, store: Store, tmp_path: Path) -> None:
    command("data", "import", write(tmp_path / "rows.jsonl", *ROWS))
    everything = command("data", "export", "--format", "completion").out.splitlines()
    assert len(everything) == 12
    assert json.loads(everything[0])["completion"] == [{"role": "assistant", "content": "The guild of the town."}]
    reserve = command("data", "export", "--state", "reserve").out.splitlines()
    fresh = command("data", "export", "--state", "fresh").out.splitlines()
    assert len(reserve) + len(fresh) == 12


def test_an_interrupted_import_goes_on(
    command: Command, where: tuple[list[str], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, store = where
    monkeypatch.setattr(transfer, "PART_LINES", 5)
    file = write(tmp_path / "stopped.jsonl", *[chat(f"{question(n)} Now?", "The miller.") for n in range(30, 42)])
    whole = transfer.Local.send if not place else transfer.Remote.send
    kind: Any = transfer.Local if not place else transfer.Remote

    def interrupt(self: Any, lines: Any) -> Any:
        if lines[0][0] > 5:
            raise KeyboardInterrupt
        return whole(self, lines)

    monkeypatch.setattr(kind, "send", interrupt)
    stopped = command(*place, "data", "import", file, "--name", "stopped")
    assert stopped.code == 130
    assert "the same command goes on from there" in stopped.err
    assert number_of(store, "import:stopped") == 5
    sent: list[int] = []

    def watch(self: Any, lines: Any) -> Any:
        sent.append(lines[0][0])
        return whole(self, lines)

    monkeypatch.setattr(kind, "send", watch)
    done = json.loads(command(*place, "data", "import", file, "--name", "stopped", "--json").out)
    assert sent == [6, 11]
    assert (done["received"], done["accepted"], done["known"]) == (12, 12, 0)


def test_a_daemon_that_ends_meanwhile_hands_over_to_the_state_directory(
    command: Command, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PART_LINES", 5)
    file = write(tmp_path / "rows.jsonl", *ROWS)

    def gone(self: transfer.Remote, lines: Any) -> Any:
        """The daemon takes the first part and ends."""
        if lines[0][0] > 1:
            return self.session.call("GET", "/livez")
        return transfer.Local(self.session, store, self.wanted).send(lines)

    nothing = {**transfer.NOTHING, "source": "import:rows", "lines": 0, "finished_at": None}
    monkeypatch.setattr(transfer.Remote, "progress", lambda self: nothing)
    monkeypatch.setattr(transfer.Remote, "send", gone)
    done = json.loads(command("data", "import", file, "--json").out)
    assert (done["received"], done["accepted"], done["known"]) == (12, 12, 0)


def test_long_lines(
    command: Command, where: tuple[list[str], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, _ = where
    monkeypatch.setenv("SELFLEARN_API__MAX_BODY_BYTES", "3000")
    rows = [chat(f"{question(n)} How long?", f"Word {n}") for n in range(60, 90)]
    rows.insert(3, chat("Too long?", "x" * 4000))
    done = json.loads(command(*place, "data", "import", write(tmp_path / "long.jsonl", *rows), "--json").out)
    assert (done["received"], done["accepted"]) == (31, 30)
    assert done["errors"] == [{"line": 4, "reason": "the line is too long"}]


def test_wrong_usage(command: Command, store: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", {"text": "x"})
    assert command("data", "import", tmp_path / "none.jsonl").code == 1
    assert command("data", "import", file, "--format", "xml").code == 2
    assert command("data", "import", file, "--name", "a/b").code == 1
    nothing = command("data", "import", file)
    assert nothing.code == 1
    assert "line 1: the row is in no known format" in nothing.err
    assert command("data", "export", "--state", "forgotten").code == 1
    assert command("data", "export", tmp_path / "no" / "file").code == 1
    assert not list(tmp_path.glob(".*"))


def test_names_of_files() -> None:
    names = {"a/b/My FAQ (2).jsonl.gz": "My-FAQ-2", "-": "stdin", "...": "file", "ä.json": "file"}
    assert {file: transfer.name_of(file) for file in names} == names
