"""A canary in real daemons: over HTTP, by command, over a restart, with the daemon down, and at its end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from selflearn.serving.traffic import takes_part
from tests.daemon.conftest import QUESTIONS, Learned
from tests.daemons import Daemon, Lab, as_json, chat, command, flip_byte, rows, until

NOWHERE = "http://127.0.0.1:1"
FOLLOW_SECONDS = 3.0
SHARE = 0.5
CONVERSATIONS = [f"conversation {number}" for number in range(8)]
PROBLEMS: list[tuple[str, dict[str, Any], int, str]] = [
    ("canary", {"version": 99, "share": 0.1}, 404, "version_not_found"),
    ("canary", {"version": 0, "share": 0.1}, 409, "already_served"),
    ("canary", {"version": 1, "share": 1.5}, 400, "invalid_value"),
    ("canary", {"version": 1, "share": 0.1, "for_seconds": -1}, 400, "invalid_value"),
    ("canary", {"version": 1}, 400, "missing_required_parameter"),
    ("canary", {"version": 1, "share": 0.1, "sahre": 0.1}, 400, "unknown_parameter"),
    ("promote", {"version": 99}, 404, "version_not_found"),
    ("promote", {"version": 0}, 409, "already_served"),
    ("promote", {}, 409, "no_canary"),
    ("abort", {}, 409, "no_canary"),
]


@pytest.fixture(scope="module")
def shared(lab: Lab, learned: Learned) -> Iterator[Daemon]:
    with lab.daemon(learned.copy("canary")) as running:
        yield running


@pytest.fixture
def daemon(shared: Daemon) -> Daemon:
    """A daemon that serves the base, and has version 1 to try."""
    if shared.get("/admin/status")["canary"] is not None:
        shared.post("/admin/rollouts/abort")
    if shared.version() != 0:
        shared.post("/admin/rollback", to=0)
    return shared


def ask(daemon: Daemon, conversation: str, number: int = 0) -> tuple[int, str]:
    """The version that answers a question in a conversation, and what it says."""
    response = daemon.http.post(
        "/v1/chat/completions",
        json=chat(QUESTIONS[number], 40),
        headers={"x-selflearn-conversation": conversation},
    )
    assert response.status_code == 200, response.text
    version = int(response.headers["x-selflearn-version"])
    assert response.json()["model"] == f"selflearn@{version}"
    return version, response.json()["choices"][0]["message"]["content"]


def sides(daemon: Daemon) -> list[int]:
    return [ask(daemon, name)[0] for name in CONVERSATIONS]


def expected_sides(share: float = SHARE) -> list[int]:
    return [int(takes_part(name, 1, share)) for name in CONVERSATIONS]


def start_canary(daemon: Daemon, **given: Any) -> dict[str, Any]:
    response = daemon.post("/admin/rollouts/canary", **{"version": 1, "share": SHARE, "reason": "let us see", **given})
    assert response.status_code == 200, response.text
    done: dict[str, Any] = response.json()
    return done


def last_rollouts(daemon: Daemon, count: int) -> list[tuple[str, int, str]]:
    found = daemon.get(f"/admin/rollouts?limit={count}")["rollouts"]
    return [(row["action"], row["version"], row["reason"]) for row in reversed(found)]


def test_each_conversation_stays_on_its_side(daemon: Daemon, learned: Learned) -> None:
    before = rows(daemon.state, "SELECT * FROM rollouts")
    assert start_canary(daemon, dry_run=True)["dry_run"]
    assert rows(daemon.state, "SELECT * FROM rollouts") == before
    done = start_canary(daemon)
    assert done == {"version": 1, "served": 0, "share": SHARE, "until": None, "dry_run": False}
    assert set(expected_sides()) == {0, 1}
    for number in range(len(QUESTIONS)):
        texts = (learned.base_answers[number], learned.answers[number])
        for name, side in zip(CONVERSATIONS, expected_sides(), strict=True):
            assert ask(daemon, name, number) == (side, texts[side])
    assert daemon.version() == 0
    status = daemon.get("/admin/status")
    assert (status["served"]["version"], status["canary"]["version"], status["resident"]) == (0, 1, [0, 1])
    assert (status["canary"]["share"], status["canary"]["actor"]) == (SHARE, "operator")
    assert daemon.metric("selflearn_canary_share") == SHARE
    for track, count in (("canary", sum(expected_sides())), ("stable", expected_sides().count(0))):
        name = f'selflearn_answers_total{{state="completed",track="{track}"}}'
        assert daemon.metric(name) >= len(QUESTIONS) * count


def test_promotion_and_abort(daemon: Daemon) -> None:
    start_canary(daemon)
    aborted = daemon.post("/admin/rollouts/abort", reason="enough")
    assert aborted.json() == {"version": 1, "served": 0, "dry_run": False}
    assert sides(daemon) == [0] * len(CONVERSATIONS)
    assert daemon.metric("selflearn_canary_share") == 0
    start_canary(daemon)
    promoted = daemon.post("/admin/rollouts/promote", reason="it is good")
    assert promoted.json() == {"from_version": 0, "to_version": 1, "dry_run": False}
    assert sides(daemon) == [1] * len(CONVERSATIONS)
    actions = [action for action, *_ in last_rollouts(daemon, 4)]
    assert actions == ["canary", "abort", "canary", "promote"]
    story = daemon.get("/admin/why/1")["rollouts"]
    assert [row["action"] for row in story][-4:] == actions


def test_a_rollback_ends_it(daemon: Daemon) -> None:
    daemon.post("/admin/rollouts/promote", version=1)
    daemon.post("/admin/rollback", to=0)
    start_canary(daemon)
    assert daemon.post("/admin/rollback", to=1).status_code == 200
    assert sides(daemon) == [1] * len(CONVERSATIONS)
    assert daemon.get("/admin/status")["canary"] is None


def test_it_ends_by_itself(daemon: Daemon) -> None:
    assert start_canary(daemon, for_seconds=1.5)["until"] > daemon.get("/admin/status")["canary"]["since"]
    until(lambda: daemon.get("/admin/status")["resident"] == [0], 1.5 + FOLLOW_SECONDS)
    assert sides(daemon) == [0] * len(CONVERSATIONS)
    until(lambda: last_rollouts(daemon, 1) == [("abort", 1, "its time was up")], FOLLOW_SECONDS)


@pytest.mark.parametrize(("order", "body", "status", "code"), PROBLEMS)
def test_orders_that_make_no_sense_are_refused(
    daemon: Daemon, order: str, body: dict[str, Any], status: int, code: str
) -> None:
    before = rows(daemon.state, "SELECT * FROM rollouts")
    response = daemon.post(f"/admin/rollouts/{order}", **body)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert rows(daemon.state, "SELECT * FROM rollouts") == before


def test_by_command(daemon: Daemon) -> None:
    def run(*words: object, url: str = daemon.url) -> Any:
        return as_json(command(daemon.state, "--url", url, "rollout", *words, "--json"))

    assert run("canary", 1, "--share", "0.9", "--dry-run") == {
        "version": 1,
        "served": 0,
        "share": 0.9,
        "until": None,
        "dry_run": True,
    }
    assert run("canary", 1, "--share", "0.9", "--for", "30m")["until"] is not None
    assert sides(daemon) == expected_sides(0.9)
    shown = command(daemon.state, "--url", daemon.url, "rollout", "status")
    assert "version 1 (v000001), 0.9 of the conversations, until 2" in shown.out
    assert run("status")["canary"]["share"] == 0.9
    # As another process would do it, without asking the daemon:
    run("abort", url=NOWHERE)
    until(lambda: daemon.get("/admin/status")["resident"] == [0], FOLLOW_SECONDS)
    assert sides(daemon) == [0] * len(CONVERSATIONS)
    actor = daemon.get("/admin/rollouts?limit=1")["rollouts"][0]["actor"]
    assert actor.startswith("operator:")


def test_over_a_restart_and_with_the_daemon_down(lab: Lab, learned: Learned) -> None:
    state = learned.copy("canary-down")
    for words in (("rollback", 0), ("rollout", "canary", 1, "--share", SHARE, "--reason", "at night")):
        outcome = command(state, "--url", NOWHERE, *words)
        assert outcome.code == 0, outcome.err
    with lab.daemon(state) as daemon:
        assert sides(daemon) == expected_sides()
        daemon.signal(signal.SIGKILL)
        daemon.await_end()
    with lab.daemon(state) as daemon:
        assert sides(daemon) == expected_sides()
    flip_byte(state / "versions/v000001/adapter_model.safetensors")
    with lab.daemon(state) as daemon:
        assert sides(daemon) == [0] * len(CONVERSATIONS)
        ((action, version, reason),) = last_rollouts(daemon, 1)
        assert (action, version) == ("abort", 1)
        assert "adapter_model.safetensors" in reason
        assert daemon.metric('selflearn_version_failures_total{reason="damaged"}') == 1
