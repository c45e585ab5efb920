"""Starts that must not happen, and ends that must be clean."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from tests.daemon.conftest import Learned
from tests.daemons import (
    ENDLESS,
    LONG_ANSWER,
    Daemon,
    Lab,
    Outcome,
    chat,
    directories,
    rows,
    until,
    update_states,
    workers,
)

AT_ONCE_SECONDS = 3.0


@pytest.fixture(scope="module")
def serving(lab: Lab, learned: Learned) -> Iterator[Daemon]:
    with lab.daemon(learned.copy("lifecycle")) as daemon:
        yield daemon


def assert_told(outcome: Outcome, found: str, next_step: str) -> None:
    """The start failed with one message that says what was found and what to do next."""
    assert outcome.code == 1
    assert found in outcome.err
    assert next_step in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""


def dump(state: Path) -> list[str]:
    with closing(sqlite3.connect(state / "selflearn.db")) as connection:
        return list(connection.iterdump())


def test_port_in_use(lab: Lab, serving: Daemon) -> None:
    other = lab.root / "never-made"
    outcome = lab.refused_start(other, port=int(serving.url.rpartition(":")[2]))
    assert_told(outcome, "Cannot listen on 127.0.0.1:", "choose another port with --port")
    assert not other.exists()
    assert serving.version() == 1


def test_second_daemon_on_one_state_directory(lab: Lab, serving: Daemon) -> None:
    before = dump(serving.state)
    outcome = lab.refused_start(serving.state)
    assert_told(outcome, f"Another daemon (process {serving.process.pid})", "another directory to --state")
    assert dump(serving.state) == before
    assert serving.version() == 1


def test_missing_model(lab: Lab) -> None:
    state = lab.state("no-model")
    outcome = lab.refused_start(state, model=lab.root / "nowhere")
    assert_told(outcome, f"There is no model directory {lab.root / 'nowhere'}", "Give an existing directory")
    assert not rows(state, "SELECT name FROM learners")


def test_file_that_is_no_database(lab: Lab) -> None:
    state = lab.state("no-database")
    (state / "selflearn.db").write_text("these are my notes, dear database\n" * 100, encoding="utf-8")
    before = (state / "selflearn.db").read_bytes()
    assert_told(lab.refused_start(state), "is not a usable SQLite database", "restore it from a backup")
    assert (state / "selflearn.db").read_bytes() == before


def test_database_of_a_newer_selflearn(lab: Lab, learned: Learned) -> None:
    state = lab.state("newer")
    shutil.copy2(learned.state / "selflearn.db", state)
    with closing(sqlite3.connect(state / "selflearn.db")) as connection:
        columns = "migration_set, name, applied_at"
        connection.execute(
            f"INSERT INTO _sqlite_migrations ({columns}) SELECT migration_set, 'a_later_idea', applied_at"
            " FROM _sqlite_migrations LIMIT 1"
        )
        connection.commit()
    before = dump(state)
    assert_told(lab.refused_start(state), "a_later_idea", "Install that version again")
    assert dump(state) == before


def test_address_that_others_can_reach(lab: Lab) -> None:
    state = lab.root / "never-made-either"
    outcome = lab.refused_start(state, "--host", "0.0.0.0")
    assert_told(outcome, "serving.host is '0.0.0.0'", "selflearn keys add")
    assert not state.exists()


@pytest.mark.timeout(600)
def test_a_signal_lets_answers_finish_and_a_second_one_does_not(lab: Lab, learned: Learned) -> None:
    state = learned.copy("signals")
    with lab.daemon(state, **ENDLESS) as daemon:
        daemon.teach("lighthouse")
        number = daemon.learn()
        daemon.await_worker()
        events = stream_with_a_signal(daemon)
        assert events[-1] == "[DONE]"
        last = json.loads(events[-2])["choices"][0]
        assert last["finish_reason"] in ("stop", "length")
        assert daemon.await_end() == 0
    assert workers(state) == []
    update = rows(state, "SELECT state, reason FROM updates WHERE id = ?", number)
    assert update == [{"state": "interrupted", "reason": "the daemon stopped"}]
    assert directories(state, "work") == []
    assert rows(state, "SELECT DISTINCT state FROM interactions") == [{"state": "completed"}]

    with lab.daemon(state, **ENDLESS) as daemon:
        assert daemon.ask("is it still you?").version == 1
        daemon.learn()
        daemon.await_worker()
        with ExitStack() as open_streams:
            for question in range(16):
                begin_stream(daemon, open_streams, question)
            daemon.signal(signal.SIGTERM)
            time.sleep(0.3)
            assert daemon.process.poll() is None, "16 long answers were not waited for"
            daemon.signal(signal.SIGTERM)
            assert daemon.await_end(AT_ONCE_SECONDS) == 128 + signal.SIGTERM
    until(lambda: workers(state) == [], AT_ONCE_SECONDS)
    assert update_states(state)[number + 1] in ("running", "interrupted")  # the next start puts it in order


def stream_with_a_signal(daemon: Daemon) -> list[str]:
    """Streams a long answer and sends SIGTERM after its first event; returns the data of all events."""
    body = {**chat("tell me of the sea", LONG_ANSWER), "stream": True}
    events: list[str] = []
    with daemon.http.stream("POST", "/v1/chat/completions", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                events.append(line.removeprefix("data: "))
                if len(events) == 1:
                    daemon.signal(signal.SIGTERM)
    return events


def begin_stream(daemon: Daemon, open_streams: ExitStack, question: int) -> None:
    body = {**chat(f"tell me of the sea, part {question}", LONG_ANSWER), "stream": True}
    response = open_streams.enter_context(daemon.http.stream("POST", "/v1/chat/completions", json=body))
    assert response.status_code == httpx.codes.OK
