"""When an update gives way to serving: by a clock that the test moves, and in a daemon."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from selflearn.daemon.preemption import CALM_SECONDS, LONGEST_CALM_SECONDS, Preemption
from tests.daemon.conftest import Learned
from tests.daemons import ENDLESS, Lab, until

LIMIT = 1.0
FAST, SLOW = 0.5, 1.5


@dataclass
class Scene:
    """One update: what was ordered, and looks four times a second."""

    limit: float = LIMIT
    most: float = 1000.0
    now: float = 0.0
    wait: float = 0.0
    orders: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.preemption = Preemption(
            lambda: self.orders.append((self.now, "pause")),
            lambda: self.orders.append((self.now, "resume")),
            lambda: self.wait,
            limit_seconds=self.limit,
            max_pause_seconds=self.most,
            clock=lambda: self.now,
        )

    def pass_time(self, seconds: float, wait: float) -> None:
        self.wait = wait
        for _ in range(round(seconds * 4)):
            self.preemption.look()
            self.now += 0.25

    @property
    def words(self) -> list[str]:
        return [word for _, word in self.orders]


def test_it_pauses_while_somebody_waits_too_long_and_goes_on_once_that_is_over() -> None:
    scene = Scene()
    scene.pass_time(10.0, FAST)
    assert scene.orders == []
    scene.pass_time(3.0, SLOW)
    assert scene.orders == [(10.0, "pause")]
    scene.pass_time(CALM_SECONDS - 0.25, FAST)
    assert scene.words == ["pause"]
    scene.pass_time(1.0, FAST)
    assert scene.words == ["pause", "resume"]
    assert scene.preemption.seconds == 3.0 + CALM_SECONDS - 0.25


def test_a_limit_of_zero_never_pauses() -> None:
    scene = Scene(limit=0.0)
    scene.pass_time(100.0, 50.0)
    assert scene.orders == []


def test_pauses_that_follow_soon_last_longer_up_to_a_bound_and_calm_starts_anew() -> None:
    scene = Scene(most=10_000.0)
    lengths = []
    for _ in range(8):
        scene.pass_time(0.25, SLOW)
        scene.pass_time(LONGEST_CALM_SECONDS + 1.0, FAST)
        (began, _), (ended, _) = scene.orders[-2:]
        lengths.append(ended - began)
    assert lengths == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    scene.pass_time(LONGEST_CALM_SECONDS, FAST)
    scene.pass_time(0.25, SLOW)
    scene.pass_time(CALM_SECONDS + 1.0, FAST)
    assert scene.orders[-1][0] - scene.orders[-2][0] == CALM_SECONDS


def test_in_all_it_pauses_no_longer_than_it_may() -> None:
    scene = Scene(most=5.0)
    scene.pass_time(100.0, SLOW)
    assert scene.orders == [(0.0, "pause"), (5.0, "resume")]
    assert scene.preemption.seconds == 5.0


def test_a_daemon_pauses_its_update_for_clients_and_takes_it_up_again(lab: Lab, learned: Learned) -> None:
    limits = {"LEARNING__PREEMPT_SECONDS": "0.0001", "LEARNING__MAX_PAUSE_SECONDS": "1000"}
    with lab.daemon(learned.copy("preempted"), **ENDLESS, **limits) as daemon:
        daemon.teach("preempted")
        number = daemon.learn()
        daemon.await_training()

        def running() -> dict[str, Any]:
            found: dict[str, Any] = daemon.get("/admin/learn")["running"]
            return found

        def asked_and_paused() -> bool:
            daemon.ask("is anybody there?")
            return bool(running()["phase"] == "paused")

        until(asked_and_paused)
        paused = running()
        assert paused["paused_seconds"] > 0.0
        assert paused["seconds_left"] > 0.0
        until(lambda: running()["phase"] == "training" and running()["step"] > paused["step"])
        daemon.post("/admin/learn/cancel")
        assert daemon.await_update(number)["state"] == "cancelled"
        assert daemon.metric("selflearn_update_paused_seconds_total") >= paused["paused_seconds"]
        assert daemon.metric("selflearn_update_left_seconds") == 0.0
