"""What was forgotten is taken out of the weights: what is made again is what had been made without it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from apscheduler.schedulers.background import BackgroundScheduler

from selflearn.config import JudgingSettings, LearningSettings
from selflearn.daemon.jobs import Base, make_job
from selflearn.daemon.rebuilding import TRIGGER, Rebuilding, open_update_for
from selflearn.daemon.steps import Opened, judge, keep_candidate, register_sealed, seal_candidate
from selflearn.errors import Conflict, VersionRemoved
from selflearn.experience.keeping.selection import Selector
from selflearn.judging import Verdict
from selflearn.judging.gate import Outcome
from selflearn.learning.job import Job, read_job, write_job, write_synthetic
from selflearn.learning.update import run
from selflearn.versions import close_update, roll_back, version_directory, work_directory
from selflearn.versions.certificates import list_certificates, show_certificate, verify_certificate
from selflearn.versions.files import remove_tree
from selflearn.versions.forgetting import forget
from selflearn.versions.rebuilds import open_rebuild
from tests.rows import question
from tests.stores import LEARNER, Bench, open_bench, registered
from tests.versions.candidates import make_candidate

SECRET = "the capital of Xanthippe is Marktgasse 17"
LEARNING = LearningSettings(
    rank=4,
    passes=2,
    batch_size=4,
    threads=1,
    learning_rate=1e-2,
    fisher_sequences=4,
    anchor_batch=1,
    outlier_limit=1e6,
)
JUDGING = JudgingSettings(
    min_holdout=4,
    max_holdout=4,
    shown_answers=1,
    answer_tokens=8,
    min_match=-9,
    max_retained_rise=9,
    max_anchor_rise=9,
    max_kl_drift=9,
    max_weight_drift=9,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class World:
    """A store that learns in this process, by the daemon's own steps.

    A worker's work is done in full if it ``trains``; else its place is taken by a candidate of the right shape, beside
    what its examples say. What comes of an update then is the test's to say, by its number in ``verdicts``.
    """

    def __init__(self, state: Path, model: Path, cache: Path, trains: bool) -> None:
        state.mkdir(parents=True)
        (state / "cache").symlink_to(cache)
        self.state, self.base = state, Base("tiny", model, "b" * 64, "cpu", "float32")
        self.bench: Bench = registered(open_bench(state, judging=JUDGING, learning=LEARNING))
        self.store = self.bench.store
        self.trains = trains
        self.verdicts: dict[int, Outcome] = {}

    def teach(self, numbers: Sequence[int], secret: int | None = None) -> None:
        for number in numbers:
            asked, user = question(number), "anna" if number == secret else "bert"
            answer = SECRET if number == secret else f"the capital of France is {number % 3}"
            self.bench.feedback(self.bench.interaction(asked, user=user), "correction", text=answer, user=user)

    def learn(self, trigger: str = "test") -> int:
        """Carries an update through and returns its number."""
        opened = self.store.write(
            lambda it: open_update_for(
                it,
                LEARNER,
                trigger=trigger,
                base=self.base,
                learning=LEARNING,
                judging=JUDGING,
                now=self.bench.now,
            )
        )
        work = work_directory(self.state, opened.update)
        write_job(self.job(opened), work)
        if self.trains:
            report = {**run(read_job(work), work, lambda *_, **__: None), "made_with": {}}
            verdict = judge(report, JUDGING)
        else:
            report, verdict = self.pretended(work), Verdict(self.verdicts.get(opened.update, "promote"), "said so", ())
        if verdict.outcome == "promote":
            self.promote(opened, work, report, verdict)
        else:
            self.refuse(opened, work, report, verdict)
        remove_tree(work)
        return opened.update

    def job(self, opened: Opened) -> Job:
        return make_job(
            self.state,
            update=opened.update,
            parent=opened.parent,
            seed=opened.seed,
            snapshot=opened.snapshot,
            learner=LEARNER,
            base=self.base,
            learning=opened.learning,
            judging=JUDGING,
            rate_factor=opened.rate_factor,
        )

    def pretended(self, work: Path) -> dict[str, Any]:
        """Leaves a candidate and returns its report."""
        make_candidate(work / "candidate")
        write_synthetic(read_job(work).examples, work / "candidate" / "self_edits.jsonl")
        return {"left_out": [], "made_with": {}, "measurements": {"nonfinite": []}}

    def promote(self, opened: Opened, work: Path, report: dict[str, Any], verdict: Verdict) -> None:
        sealed = seal_candidate(
            self.state,
            work,
            base=self.base,
            snapshot=opened.snapshot,
            report=report,
            verdict=verdict,
            created_at=self.bench.now(),
        )
        self.store.write(lambda it: register_sealed(it, sealed, report, verdict, self.bench.now))

    def refuse(self, opened: Opened, work: Path, report: dict[str, Any], verdict: Verdict) -> None:
        kept = keep_candidate(
            self.state,
            work,
            base=self.base,
            snapshot=opened.snapshot,
            report=report,
            verdict=verdict,
            created_at=self.bench.now(),
            keep=3,
        )
        told, reason = verdict.as_dict(), verdict.reason
        self.store.write(
            lambda it: close_update(
                it, opened.update, state="refused", report=kept, verdict=told, reason=reason, now=self.bench.now
            )
        )

    def forget(self, by: Any = "user", value: str = "anna", **options: Any) -> dict[str, Any]:
        return forget(
            self.store,
            self.state,
            LEARNER,
            Selector(by, value),
            actor="operator",
            reason="asked",
            now=self.bench.now,
            **{"end_update": lambda number: None, **options},
        )

    def rebuilding(self) -> Rebuilding:
        return Rebuilding(
            store=self.store,
            learner=LEARNER,
            judging=lambda: JUDGING,
            running=lambda: False,
            start=lambda: self.learn(TRIGGER),
            now=self.bench.now,
        )

    def rebuild(self) -> None:
        """Looks as the daemon does every second, until all is done."""
        looks = self.rebuilding()
        for _ in range(10):
            looks.look()
        assert open_rebuild(self.store.connection(), LEARNER) is None

    def bytes_of(self, version: int) -> dict[str, bytes]:
        """The files of a version; its manifest and the shown answers name examples by their numbers."""
        directory, numbered = version_directory(self.state, version), ("manifest.json", "answers.jsonl")
        return {path.name: path.read_bytes() for path in directory.iterdir() if path.name not in numbered}

    def role_of(self, example: int, update: int) -> str | None:
        sql = "SELECT role FROM update_examples WHERE example_id = ? AND update_id = ?"
        found = self.store.read(sql, (example, update))
        return str(found[0]["role"]) if found else None

    def with_secret(self) -> list[str]:
        """The files of the state directory that have the words, or a part of the adapters that knew them."""
        files = [path for path in self.state.rglob("*") if path.is_file()]
        return [path.name for path in files if SECRET.encode() in path.read_bytes()]


class Make(Protocol):
    """Makes a world of its own."""

    def __call__(self, name: str = "told", *, trains: bool = False) -> World: ...


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path) -> Iterator[Make]:
    made: list[World] = []
    (tmp_path / "cache").mkdir()

    def world(name: str = "told", *, trains: bool = False) -> World:
        made.append(World(tmp_path / name, tiny_model, tmp_path / "cache", trains))
        return made[-1]

    yield world
    for each in made:
        each.store.close()


def line(world: World, secret: int | None, updates: int = 2) -> None:
    """Teaches twelve facts for each update; ``secret`` is the number of the one that is to be forgotten."""
    for turn in range(updates):
        world.teach(range(12 * turn, 12 * (turn + 1)), secret)
        world.learn()


def the_first_that_trains(make: Make) -> int:
    """The number of a fact that trains in the first update, whoever taught it."""
    world = make("tried")
    line(world, None, 1)
    found = world.store.read("SELECT example_id FROM update_examples WHERE role = 'train' ORDER BY example_id LIMIT 1")
    return int(found[0]["example_id"]) - 1


def without(world: World, secret: int, updates: int = 2) -> None:
    """The same line, but the fact never came."""
    for turn in range(updates):
        world.teach([number for number in range(12 * turn, 12 * (turn + 1)) if number != secret])
        world.learn()


def test_what_is_made_again_is_byte_for_byte_what_had_been_made_without_it(make: Make) -> None:
    secret = the_first_that_trains(make)
    told, never = make("told", trains=True), make("never", trains=True)
    line(told, secret)
    without(never, secret)
    assert (told.role_of(secret + 1, 1), told.role_of(secret + 1, 2)) == ("train", "replay")
    assert told.bytes_of(2)["adapter_model.safetensors"] != never.bytes_of(2)["adapter_model.safetensors"]

    done = told.forget()
    assert (done["versions_gone"], done["to_rebuild"], done["serves"]) == ([1, 2], [1, 2], 0)
    assert told.bench.served() == 0
    told.rebuild()
    assert told.bench.served() == 4
    for ours, theirs in ((3, 1), (4, 2)):
        assert {"adapter_model.safetensors", "importance.safetensors"} < set(told.bytes_of(ours))
        assert told.bytes_of(ours) == never.bytes_of(theirs)
    # and what is learned next is learned as if nothing had been
    replays = [
        {row["target"]: row["replays"] for row in world.store.read("SELECT target, replays FROM examples")}
        for world in (told, never)
    ]
    assert {target: n for target, n in replays[0].items() if target} == replays[1]
    states = [world.bench.states() for world in (told, never)]
    assert [state for state in states[0].values() if state != "forgotten"] == list(states[1].values())


def test_nothing_of_it_is_left_and_a_certificate_says_so(make: Make) -> None:
    world = make()
    line(world, secret := the_first_that_trains(make))
    done = world.forget()
    begun = show_certificate(world.store, done["certificate"])["document"]
    assert (begun["state"], begun["traces"], begun["counts"]["examples"]) == ("rebuilding", 0, 1)
    with pytest.raises(Conflict, match="made again"):
        world.learn()
    world.rebuild()
    assert world.with_secret() == []
    newest, first = list_certificates(world.store, LEARNER)
    assert (newest["state"], newest["follows"], first["certificate"]) == ("finished", 1, 1)
    found = show_certificate(world.store, 2)["document"]
    assert [(made["update"], made["became"], made["outcome"]) for made in found["made_again"]] == [
        (1, 3, "promoted"),
        (2, 4, "promoted"),
    ]
    assert all(made["adapter_sha256"] for made in found["made_again"])
    assert [row["version"] for row in found["versions"]] == [1, 2]
    assert "anna" not in json.dumps(found)
    assert verify_certificate(world.store, world.state, 2)["problems"] == []
    for version in (3, 4):
        manifest = json.loads((version_directory(world.state, version) / "manifest.json").read_text())
        assert secret + 1 not in [pair[0] for pairs in manifest["examples"].values() for pair in pairs]
    for version in (1, 2):
        assert not version_directory(world.state, version).exists()
        with pytest.raises(VersionRemoved, match="forgotten"):
            world.bench.roll_back(version)


def test_a_certificate_that_does_not_hold_says_why(make: Make) -> None:
    world = make()
    line(world, the_first_that_trains(make), 1)
    world.forget()
    world.rebuild()
    file = version_directory(world.state, 2) / "adapter_model.safetensors"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    version_directory(world.state, 1).mkdir()
    (found,) = [verify_certificate(world.store, world.state, 2)]
    assert not found["holds"]
    assert [word for word in ("exists, although", "was changed") if word in " ".join(found["problems"])] == [
        "exists, although",
        "was changed",
    ]


def test_one_that_the_gate_refuses_is_passed_over_and_the_next_goes_on(make: Make) -> None:
    world = make()
    line(world, secret := the_first_that_trains(make))
    world.forget()
    world.verdicts[3] = "refuse"
    world.rebuild()
    (row,) = world.store.read("SELECT parent, rebuild_of FROM updates WHERE id = 4")
    assert (world.bench.served(), row) == (4, {"parent": 0, "rebuild_of": 2})
    replayed = world.store.read("SELECT 1 FROM update_examples WHERE update_id = 4 AND role = 'replay'")
    assert replayed == []  # this line has not learned them
    states = world.bench.states()
    taught = world.store.read("SELECT example_id FROM update_examples WHERE update_id = 3 AND role = 'train'")
    assert {states[row["example_id"]] for row in taught} == {"fresh"}
    assert states[secret + 1] == "forgotten"
    made = show_certificate(world.store, 2)["document"]["made_again"]
    assert [(each["outcome"], each["reason"]) for each in made] == [
        ("refused", "said so"),
        ("promoted", "passed the gate"),
    ]


def test_where_too_little_is_left_to_judge_it_is_passed_over(make: Make) -> None:
    world = make()
    line(world, None, 1)
    (judged,) = world.store.read("SELECT min(example_id) AS id FROM update_examples WHERE role = 'holdout'")
    (row,) = world.store.read("SELECT interaction_id FROM examples WHERE id = ?", (judged["id"],))
    done = world.forget("interaction", row["interaction_id"])
    assert (done["learned_by"], done["versions_gone"], done["judged"]) == ([], [1], [1])
    world.rebuild()
    assert world.bench.served() == 0
    (made,) = show_certificate(world.store, 2)["document"]["made_again"]
    assert (made["outcome"], made["became"]) == ("empty", None)
    assert "3 examples are left to judge on" in made["reason"]
    assert set(world.bench.states().values()) == {"fresh", "forgotten"}


def test_without_a_rebuild_the_clean_version_stays(make: Make) -> None:
    world = make()
    line(world, 12 + the_first_that_trains(make))
    served = world.role_of(world.store.read("SELECT id FROM examples WHERE user = 'anna'")[0]["id"], 2)
    assert served in ("train", "holdout")
    before = world.bytes_of(1)
    assert world.forget(dry_run=True)["versions_gone"] == [2]
    assert world.bench.served() == 2
    done = world.forget(rebuild=False)
    assert (done["versions_gone"], done["to_rebuild"], done["serves"]) == ([2], [], 1)
    assert open_rebuild(world.store.connection(), LEARNER) is None
    assert world.bytes_of(1) == before
    assert show_certificate(world.store, done["certificate"])["document"]["state"] == "finished"
    world.learn()  # what it learned besides is fresh: an ordinary update takes it up
    assert world.bench.served() == 3


def test_a_second_forgetting_takes_over_what_the_first_has_left(make: Make) -> None:
    world = make()
    line(world, the_first_that_trains(make))
    world.forget()
    world.rebuilding().look()
    assert world.bench.served() == 3
    (other,) = world.store.read(
        "SELECT interaction_id FROM examples WHERE id = (SELECT max(example_id) FROM update_examples"
        " WHERE update_id = 3 AND role = 'train')"
    )
    done = world.forget("interaction", other["interaction_id"])
    assert (done["versions_gone"], done["serves"]) == ([3], 0)
    world.rebuild()
    made = show_certificate(world.store, 4)["document"]["made_again"]
    assert [(each["update"], each["became"]) for each in made] == [(1, 3), (3, 4), (2, 5)]
    assert [row["follows"] for row in list_certificates(world.store, LEARNER)] == [2, 1, None, None]
    assert all(verify_certificate(world.store, world.state, number)["holds"] for number in range(1, 5))


def test_a_rollback_by_an_operator_ends_the_rebuild(make: Make) -> None:
    world = make()
    line(world, the_first_that_trains(make))
    world.forget()
    world.rebuilding().look()
    world.store.write(
        lambda it: roll_back(it, learner=LEARNER, to=0, actor="operator:eve", reason="no", now=world.bench.now)
    )
    world.rebuild()
    assert world.bench.served() == 0
    made = show_certificate(world.store, 2)["document"]["made_again"]
    assert [each["outcome"] for each in made] == ["promoted", "given up"]


def test_a_forgetting_that_was_killed_serves_nothing_of_it(make: Make) -> None:
    """The versions have gone, the data has not: what is made again meanwhile gets none of it."""
    world = make()
    line(world, secret := the_first_that_trains(make))

    def die(versions: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.forget(withdraw=die)
    assert world.bench.served() == 0
    scheduler = BackgroundScheduler()
    world.rebuilding().begin(scheduler)
    assert len(scheduler.get_jobs()) == 1
    world.rebuild()
    assert (world.role_of(secret + 1, 3), world.role_of(secret + 1, 4)) == (None, None)
    assert world.bench.served() == 4
    assert world.forget()["examples"] == 1
    assert world.bench.served() == 4


def test_a_candidate_that_was_refused_goes_with_what_it_saw(make: Make) -> None:
    world = make()
    world.teach(range(12), the_first_that_trains(make))
    world.verdicts[1] = "refuse"
    world.learn()
    assert "self_edits.jsonl" in world.with_secret()
    done = world.forget()
    assert (done["versions_gone"], done["to_rebuild"], done["certificate"]) == ([], [], 1)
    assert world.with_secret() == []


def test_an_update_that_is_ended_for_a_further_forgetting_is_made_again(make: Make) -> None:
    world = make()
    line(world, the_first_that_trains(make), 1)
    world.forget()
    opened = world.store.write(
        lambda it: open_update_for(it, LEARNER, trigger=TRIGGER, base=world.base, learning=LEARNING, judging=JUDGING)
    )
    example = opened.snapshot.train[0].id
    (row,) = world.store.read("SELECT interaction_id FROM examples WHERE id = ?", (example,))

    def end(number: int) -> None:
        world.store.write(
            lambda it: close_update(it, number, state="cancelled", report=None, verdict=None, reason="forgotten")
        )

    assert world.forget("interaction", row["interaction_id"], end_update=end)["updates_ended"] == [opened.update]
    world.rebuild()
    assert world.bench.served() == opened.update + 1
    assert world.role_of(example, opened.update + 1) is None
