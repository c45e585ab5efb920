"""The rollout log made true within one process: real store, real versions, real engine."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from selflearn.daemon.opening import Pace
from selflearn.daemon.rollouts import Rollouts
from selflearn.errors import Conflict, EngineError, EngineUnavailable, NotFound, ProofFailed
from selflearn.models.base import LoadedBase, load_base
from selflearn.monitoring import Metrics
from selflearn.serving import Engine, Generation, Traffic
from selflearn.serving.transformers_engine import EngineOptions, TransformersEngine
from selflearn.versions import history, roll_back, seal, version_directory, why, work_directory, write_manifest
from tests.api.server import make_adapter
from tests.stores import LEARNER, Bench, open_bench
from tests.versions.candidates import manifest_of

ANN = ("ann", "let us see", False)


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> LoadedBase:
    torch.set_num_threads(1)
    return load_base(tiny_model, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def engine(base: LoadedBase) -> Iterator[Engine]:
    made = TransformersEngine(base, EngineOptions(cache_tokens=1024, max_concurrent_requests=4, threads=1))
    yield made
    made.close()


@dataclass
class Gate:
    """An engine whose versions come when a test lets them, or not at all."""

    engine: Engine
    closed: int | None = None  # the version that waits
    failing: int | None = None  # the version for which no memory is left
    away: bool = False  # as a vLLM that is being started again

    def __post_init__(self) -> None:
        self.waiting, self.opened = threading.Event(), threading.Event()
        self.generations: list[Generation] = []

    def open_generation(self, version: int, adapter_directory: Path | None) -> Generation:
        if self.away:
            raise EngineUnavailable("it is expected back")
        if version == self.failing:
            raise MemoryError("no memory is left")
        if version == self.closed:
            self.waiting.set()
            assert self.opened.wait(30)
        self.generations.append(self.engine.open_generation(version, adapter_directory))
        return self.generations[-1]

    def pulse(self) -> Future[None]:
        return self.engine.pulse()


@dataclass
class House:
    """A learner with versions 1 and 2 (1 is served) and 3, whose probe was recorded from another model."""

    bench: Bench
    state: Path
    gate: Gate
    traffic: Traffic
    metrics: Metrics
    rollouts: Rollouts
    clock: float = 1e6

    def now(self) -> float:
        return self.clock

    def log(self, count: int) -> list[tuple[str, int]]:
        return [(row["action"], row["version"]) for row in reversed(history(self.bench.store, LEARNER, count))]

    def last(self) -> dict[str, Any]:
        return history(self.bench.store, LEARNER, 1)[0]

    def failures(self, reason: str) -> float:
        return float(self.metrics.version_failures.labels(reason)._value.get())

    def serving(self) -> tuple[int | None, int | None]:
        """The version of the current generation and that of the canary."""
        current, canary = self.traffic.current, self.traffic.canary
        return current.version if current else None, canary.version if canary else None

    def write(self, to: int) -> None:
        """A rollback as another process would write it."""
        self.bench.store.write(
            lambda connection: roll_back(connection, learner=LEARNER, to=to, actor="bob", reason="odd", now=self.now)
        )


def promote_real(bench: Bench, state: Path, base: LoadedBase, *, honest: bool = True) -> None:
    """Carries an update with a real adapter through to its promotion."""
    start = 100 * len(bench.states())
    for number in range(start, start + 12):
        bench.correct(f"question {number}", f"answer {number}")
    update = bench.begin_update()
    seal_real(bench, state, base, update, honest=honest)
    bench.promote(update, sha256_of_manifest(state, update))


def seal_real(bench: Bench, state: Path, base: LoadedBase, update: int, *, honest: bool) -> None:
    candidate = work_directory(state, update) / "candidate"
    candidate.mkdir(parents=True)
    make_adapter(base, candidate)
    if not honest:
        probe = load_file(str(candidate / "probe.safetensors"))
        save_file({"logits": -probe["logits"]}, str(candidate / "probe.safetensors"))
    write_manifest(candidate, manifest_of(bench, update))
    seal(candidate, version_directory(state, update))


def sha256_of_manifest(state: Path, update: int) -> str:
    return hashlib.sha256((version_directory(state, update) / "manifest.json").read_bytes()).hexdigest()


@pytest.fixture
async def house(base: LoadedBase, engine: Engine, tmp_path: Path) -> AsyncIterator[House]:
    state = tmp_path / "state"
    bench = open_bench(state)
    for honest in (True, True, False):
        promote_real(bench, state, base, honest=honest)
    gate, metrics = Gate(engine), Metrics()
    traffic = Traffic(base.tokenizer, drain_seconds=5.0)
    made = House(bench, state, gate, traffic, metrics, None)  # type: ignore[arg-type]
    made.rollouts = Rollouts(
        store=bench.store,
        learner=LEARNER,
        state=state,
        engine=gate,
        traffic=traffic,
        metrics=metrics,
        now=made.now,
        pace=Pace(follow=0.01, retry=0.01, patience=0.5),
    )
    made.write(1)
    await made.rollouts.follow()
    assert made.serving() == (1, None)
    yield made
    await traffic.close()
    bench.store.close()
    assert not any(generation.alive for generation in gate.generations)


async def test_a_canary_from_its_start_to_its_promotion(house: House) -> None:
    rehearsed = await house.rollouts.start_canary(2, 0.25, 60.0, "ann", "let us see", True)
    assert rehearsed == {"version": 2, "served": 1, "share": 0.25, "until": house.clock + 60.0, "dry_run": True}
    assert house.serving() == (1, None)
    done = await house.rollouts.start_canary(2, 0.25, 60.0, *ANN)
    assert done == {**rehearsed, "dry_run": False}
    assert (house.serving(), house.traffic.canary_share) == ((1, 2), 0.25)
    assert house.last()["actor"] == "ann"
    canary = house.traffic.canary
    await house.rollouts.start_canary(2, 0.5, None, *ANN)
    assert (house.traffic.canary, house.traffic.canary_share) == (canary, 0.5)
    assert await house.rollouts.promote(None, *ANN) == {"from_version": 1, "to_version": 2, "dry_run": False}
    assert (house.serving(), house.traffic.current) == ((2, None), canary)
    assert house.log(3) == [("canary", 2), ("canary", 2), ("promote", 2)]


async def test_abort(house: House) -> None:
    with pytest.raises(Conflict):
        await house.rollouts.abort_canary(*ANN)
    await house.rollouts.start_canary(2, 0.5, None, *ANN)
    assert (await house.rollouts.abort_canary("ann", "", True))["dry_run"]
    assert house.serving() == (1, 2)
    assert await house.rollouts.abort_canary(*ANN) == {"version": 2, "served": 1, "dry_run": False}
    assert (house.serving(), house.traffic.residents) == ((1, None), (0, 1))


async def test_when_its_time_is_up_everyone_is_answered_by_what_is_served(house: House) -> None:
    await house.rollouts.start_canary(2, 0.5, 60.0, *ANN)
    house.clock += 59.0
    await house.rollouts.follow()
    assert house.serving() == (1, 2)
    house.clock += 1.0
    for _ in range(2):
        await house.rollouts.follow()
    assert house.serving() == (1, None)
    assert house.log(2) == [("canary", 2), ("abort", 2)]
    assert (house.last()["actor"], house.last()["reason"]) == ("selflearn", "its time was up")


async def test_a_canary_that_dies_is_aborted(house: House) -> None:
    await house.rollouts.start_canary(2, 0.5, None, *ANN)
    assert house.traffic.canary is not None
    await house.traffic.canary.close(0.0)
    for _ in range(2):
        await house.rollouts.follow()
    assert house.serving() == (1, None)
    assert house.log(2) == [("canary", 2), ("abort", 2)]
    assert "died" in house.last()["reason"]
    assert house.failures("died") == 1


async def test_a_canary_that_does_not_prove_itself_is_aborted(house: House) -> None:
    with pytest.raises(ProofFailed):
        await house.rollouts.start_canary(3, 0.5, None, *ANN)
    assert house.serving() == (1, None)
    assert house.log(2) == [("canary", 3), ("abort", 3)]
    assert "does not answer as recorded" in house.last()["reason"]
    assert house.failures("proof") == 1


async def test_a_promoted_version_that_does_not_prove_itself_leaves_the_old_one(house: House) -> None:
    await house.rollouts.start_canary(2, 0.5, None, *ANN)
    served = house.traffic.current
    with pytest.raises(ProofFailed):
        await house.rollouts.promote(3, *ANN)
    assert (house.traffic.current, house.serving()) == (served, (1, None))
    assert house.log(3) == [("abort", 2), ("promote", 3), ("recover", 1)]
    assert "does not answer as recorded" in house.last()["reason"]
    assert house.failures("proof") == 1
    told = why(house.bench.store, house.state, 3)["rollouts"]
    assert [row["action"] for row in told][-2:] == ["promote", "recover"]


async def test_whatever_the_engine_raises_the_old_version_goes_on(house: House) -> None:
    house.gate.failing = 2
    with pytest.raises(EngineError, match="MemoryError: no memory is left"):
        await house.rollouts.promote(2, *ANN)
    with pytest.raises(EngineError, match="no memory is left"):
        await house.rollouts.start_canary(2, 0.5, None, *ANN)
    assert house.serving() == (1, None)
    assert house.log(4) == [("promote", 2), ("recover", 1), ("canary", 2), ("abort", 2)]
    assert house.failures("engine") == 2


async def test_an_engine_that_is_away_is_no_versions_fault(house: House) -> None:
    house.gate.away = True
    for order in (house.rollouts.promote(2, *ANN), house.rollouts.follow()):
        with pytest.raises(EngineUnavailable):
            await order
    assert house.serving() == (1, None)
    house.gate.away = False
    await house.rollouts.follow()
    assert house.serving() == (2, None)
    assert house.log(1) == [("promote", 2)]
    assert house.failures("engine") == 0


async def test_nor_a_canarys(house: House) -> None:
    house.gate.away = True
    with pytest.raises(EngineUnavailable):
        await house.rollouts.start_canary(2, 0.5, None, *ANN)
    assert house.serving() == (1, None)
    house.gate.away = False
    await house.rollouts.follow()
    assert house.serving() == (1, 2)
    assert house.log(1) == [("canary", 2)]
    assert house.failures("engine") == 0


async def test_an_update_waits_for_an_engine_that_is_away(house: House) -> None:
    house.gate.away = True
    directory = version_directory(house.state, 2)
    waiting = asyncio.create_task(asyncio.to_thread(house.rollouts.open_unregistered, 2, directory))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    house.gate.away = False
    await (await waiting).close(0.0)
    house.gate.away = True
    with pytest.raises(EngineUnavailable):
        await asyncio.to_thread(house.rollouts.open_unregistered, 2, directory)


async def test_an_update_whose_version_fails_is_told_in_the_history(house: House, base: LoadedBase) -> None:
    for number in range(900, 912):
        house.bench.correct(f"question {number}", f"answer {number}")
    update = house.bench.begin_update()
    seal_real(house.bench, house.state, base, update, honest=False)
    directory = version_directory(house.state, update)
    with pytest.raises(ProofFailed):
        await asyncio.to_thread(house.rollouts.open_unregistered, update, directory)
    assert (house.last()["action"], house.last()["version"]) == ("fail", update)
    assert (house.bench.served(), house.serving()) == (1, (1, None))
    assert [row["action"] for row in why(house.bench.store, house.state, update)["rollouts"]] == ["fail"]
    assert house.failures("proof") == 1


async def test_an_update_takes_the_place_of_version_and_canary(house: House, base: LoadedBase) -> None:
    await house.rollouts.start_canary(2, 0.5, None, *ANN)
    for number in range(900, 912):
        house.bench.correct(f"question {number}", f"answer {number}")
    update = house.bench.begin_update()
    seal_real(house.bench, house.state, base, update, honest=True)
    generation = await asyncio.to_thread(
        house.rollouts.open_unregistered, update, version_directory(house.state, update)
    )
    sha256 = sha256_of_manifest(house.state, update)
    await house.rollouts.introduce(generation, lambda: house.bench.promote(update, sha256))
    assert house.serving() == (update, None)
    assert house.log(3) == [("canary", 2), ("abort", 2), ("promote", update)]
    await house.rollouts.follow()
    assert house.traffic.current is generation


async def test_a_version_that_dies_is_opened_anew(house: House) -> None:
    assert house.traffic.current is not None
    await house.traffic.current.close(0.0)
    await house.rollouts.follow()
    assert house.serving() == (1, None)
    assert house.traffic.current.alive
    assert house.failures("died") == 1
    assert house.log(1) == [("rollback", 1)]


async def test_a_rollback_does_not_wait_for_a_canary_to_load(house: House) -> None:
    house.gate.closed = 2
    starting = asyncio.create_task(house.rollouts.start_canary(2, 0.5, None, *ANN))
    await asyncio.to_thread(house.gate.waiting.wait, 30)
    await asyncio.wait_for(house.rollouts.roll_back(0, *ANN), 30)
    assert house.serving() == (0, None)
    house.gate.opened.set()
    await starting
    assert house.serving() == (0, None)
    assert [generation.version for generation in house.gate.generations if generation.alive] == [1, 0]


async def test_a_version_that_was_left_while_it_was_loaded_never_serves(house: House) -> None:
    house.gate.closed = 2
    house.write(2)
    following = asyncio.create_task(house.rollouts.follow())
    await asyncio.to_thread(house.gate.waiting.wait, 30)
    house.write(0)
    house.gate.opened.set()
    await following
    assert house.serving() == (0, None)
    assert house.traffic.residents == (0, 1)
    assert [generation.version for generation in house.gate.generations if not generation.alive] == [2]


async def test_what_another_process_writes_is_followed_and_nothing_ends_the_follower(house: House) -> None:
    following = asyncio.create_task(house.rollouts.follow_forever())

    async def until_serving(version: int) -> None:
        for _ in range(1000):
            if house.serving()[0] == version:
                return
            await asyncio.sleep(0.01)
        pytest.fail(f"version {version} is not served")

    house.write(0)
    await until_serving(0)
    with damaged_log(house.bench):
        await asyncio.sleep(0.1)
    house.write(2)
    await until_serving(2)
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following


@contextlib.contextmanager
def damaged_log(bench: Bench) -> Iterator[None]:
    """A table that is gone for a while."""

    def rename(before: str, after: str) -> None:
        with contextlib.closing(sqlite3.connect(bench.store.path)) as connection:
            connection.execute(f"ALTER TABLE {before} RENAME TO {after}")
            connection.commit()

    rename("rollouts", "hidden")
    yield
    rename("hidden", "rollouts")


async def test_orders_that_make_no_sense_change_nothing(house: House) -> None:
    before = history(house.bench.store, LEARNER)
    with pytest.raises(NotFound):
        await house.rollouts.promote(99, *ANN)
    with pytest.raises(NotFound):
        await house.rollouts.start_canary(99, 0.5, None, *ANN)
    with pytest.raises(Conflict):
        await house.rollouts.promote(1, *ANN)
    assert history(house.bench.store, LEARNER) == before


async def test_any_version_can_be_loaded_beside_what_is_served(house: House) -> None:
    await house.rollouts.load(2)
    assert (house.serving(), house.traffic.residents) == ((1, None), (0, 1, 2))
    await house.rollouts.follow()
    assert house.traffic.residents == (0, 1, 2)
    opened = len(house.gate.generations)
    await asyncio.gather(*(house.rollouts.load(version) for version in (0, 1, 2)))
    assert len(house.gate.generations) == opened
    assert house.log(1) == [("rollback", 1)]  # it is no change of what is served
    with pytest.raises(NotFound):
        await house.rollouts.load(99)
    with pytest.raises(ProofFailed):
        await house.rollouts.load(3)
    assert house.traffic.residents == (0, 1, 2)
    await house.rollouts.promote(2, *ANN)
    assert (house.serving(), len(house.gate.generations)) == ((2, None), opened)


async def test_what_was_forgotten_cannot_be_loaded_again(house: House) -> None:
    await house.rollouts.load(2)
    await house.rollouts.withdraw([2])
    assert house.traffic.residents == (0, 1)
    with pytest.raises(NotFound):
        await house.rollouts.load(2)
    assert house.traffic.residents == (0, 1)
