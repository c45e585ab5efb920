"""What is served is the last row of the log; going back needs the database and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from selflearn.errors import Conflict, ModelError, NotFound, RefusedByGate, UpdateError, UpdateRunning, VersionDamaged
from selflearn.store import Store
from selflearn.versions import (
    Change,
    close_update,
    ensure_learner,
    history,
    list_versions,
    roll_back,
    show_version,
    verify_version,
    version_directory,
    why,
)
from selflearn.versions.rollouts import lineage
from tests.stores import LEARNER, Bench, tables
from tests.versions.candidates import promote_new, seal_update


def roll(bench: Bench, to: int | None = None, state: Path | None = None) -> Change:
    return bench.store.write(
        lambda connection: roll_back(
            connection, learner=LEARNER, to=to, actor="me", reason="worse", state=state, now=bench.now
        )
    )


def damage(directory: Path) -> None:
    path = directory / "adapter_model.safetensors"
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.fixture
def three(bench: Bench, tmp_path: Path) -> Bench:
    """Versions 1, 2, 3, each the parent of the next; 3 is served."""
    assert [promote_new(bench, tmp_path, start) for start in (0, 100, 200)] == [1, 2, 3]
    return bench


def test_the_base_is_served_at_first(bench: Bench) -> None:
    assert bench.served() == 0
    assert history(bench.store, LEARNER) == []
    with pytest.raises(Conflict) as caught:
        roll(bench)
    assert caught.value.code == "nothing_to_undo"


def test_repeated_rollbacks_lead_down_to_the_base(three: Bench) -> None:
    assert [roll(three).to_version for _ in range(3)] == [2, 1, 0]
    with pytest.raises(Conflict):
        roll(three)
    assert [row["action"] for row in history(three.store, LEARNER)] == ["rollback"] * 3 + ["promote"] * 3
    assert [row["version"] for row in history(three.store, LEARNER, limit=2)] == [0, 1]


def test_a_promotion_after_a_rollback_is_undone_to_where_it_came_from(three: Bench, tmp_path: Path) -> None:
    roll(three, to=1)
    # What trained 2 and 3 is suspect now; the new version continues 1.
    assert promote_new(three, tmp_path, 300) == 4
    assert lineage(three.store.connection(), 4) == (4, 1)
    assert roll(three) == Change(from_version=4, to_version=1)


def test_rolling_to_the_base_and_forward_again(three: Bench) -> None:
    states = three.states()
    assert roll(three, to=0) == Change(3, 0)
    assert "suspect" in three.states().values()
    assert roll(three, to=3) == Change(0, 3)
    assert three.states() == states


@pytest.mark.parametrize(("to", "error"), [(9, NotFound), (-1, NotFound), (3, Conflict)])
def test_a_rollback_to_nowhere_changes_nothing(three: Bench, to: int, error: type[Exception]) -> None:
    before = tables(three.store)
    with pytest.raises(error):
        roll(three, to=to)
    assert tables(three.store) == before


def test_a_refused_update_is_no_target(three: Bench) -> None:
    for number in range(300, 312):
        three.correct(f"question {number}", f"answer {number}")
    refused = three.begin_update()
    three.refuse(refused)
    with pytest.raises(NotFound):
        roll(three, to=refused)
    assert three.served() == 3


def test_a_damaged_target_is_refused_and_one_with_a_damaged_parent_is_not(three: Bench, tmp_path: Path) -> None:
    damage(version_directory(tmp_path, 1))
    before = tables(three.store)
    with pytest.raises(VersionDamaged, match="v000001"):
        roll(three, to=1, state=tmp_path)
    assert tables(three.store) == before
    assert roll(three, to=2, state=tmp_path).to_version == 2


ROLL_BACK = """
import sys
from pathlib import Path
from selflearn.store import Store
from selflearn.versions import roll_back
with Store.open(Path(sys.argv[1])) as store:
    print(store.write(lambda c: roll_back(c, learner="default", to=None, actor="cli", reason="worse")).to_version)
"""


@pytest.mark.parametrize("running", [False, True])
def test_rollback_works_with_the_daemon_stopped_and_beside_a_running_one(three: Bench, running: bool) -> None:
    path = three.store.path
    if not running:
        three.store.close()
    command = [sys.executable, "-c", ROLL_BACK, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "2\n"
    with Store.open(path) as store:
        assert Bench(store).served() == 2
        last = store.read("SELECT actor, action, detail FROM audit ORDER BY id DESC LIMIT 1")[0]
        detail = '{"learner": "default", "from": 3, "to": 2, "reason": "worse"}'
        assert last == {"actor": "cli", "action": "rollout.rollback", "detail": detail}


def test_one_update_at_a_time(bench: Bench) -> None:
    for number in range(12):
        bench.correct(f"question {number}", "answer")
    first = bench.begin_update()
    before = tables(bench.store)
    with pytest.raises(UpdateRunning, match=f"Update {first} is running"):
        bench.begin_update()
    assert tables(bench.store) == before


def test_a_number_is_never_used_again(bench: Bench, tmp_path: Path) -> None:
    for number in range(12):
        bench.correct(f"question {number}", "answer")
    first = bench.begin_update()
    bench.refuse(first)
    second = bench.begin_update()
    assert second == first + 1
    bench.promote(second, seal_update(bench, tmp_path, second))
    assert bench.served() == 2
    assert lineage(bench.store.connection(), 2) == (2,)


def test_an_ended_update_cannot_end_again(three: Bench) -> None:
    before = tables(three.store)
    with pytest.raises(Conflict, match="ended before"):
        three.refuse(3)
    with pytest.raises(Conflict, match="ended before"):
        three.promote(3)
    with pytest.raises(NotFound):
        three.refuse(99)
    assert tables(three.store) == before


@pytest.mark.parametrize("outcome", ["refuse", "inconclusive", ""])
def test_only_what_the_gate_promotes_becomes_a_version(three: Bench, outcome: str) -> None:
    for number in range(300, 312):
        three.correct(f"question {number}", "answer")
    update_id = three.begin_update()
    before = tables(three.store)
    with pytest.raises(RefusedByGate, match=f"rollout promote {update_id} --force"):
        three.promote(update_id, outcome=outcome)
    assert tables(three.store) == before


def test_a_rollback_during_an_update_stands(three: Bench) -> None:
    for number in range(300, 312):
        three.correct(f"question {number}", "answer")
    update_id = three.begin_update()
    roll(three, to=1)
    before = tables(three.store)
    with pytest.raises(UpdateError, match="continues version 3, but version 1 is served"):
        three.promote(update_id)
    assert tables(three.store) == before


def test_numbers_that_are_not_numbers_are_kept_by_name(bench: Bench) -> None:
    for number in range(12):
        bench.correct(f"question {number}", "answer")
    update_id = bench.begin_update()
    verdict = {"outcome": "refuse", "checks": [{"name": "finite", "value": float("nan"), "high": float("inf")}]}
    bench.store.write(
        lambda connection: close_update(
            connection, update_id, state="refused", report={"loss": [1.0, float("nan")]}, verdict=verdict, reason="NaN"
        )
    )
    story = why(bench.store, Path("nowhere"), update_id)
    assert story["verdict"]["checks"] == [{"name": "finite", "value": "nan", "high": "inf"}]
    assert story["report"] == {"loss": [1.0, "nan"]}


def test_a_learner_keeps_the_base_that_its_versions_adapt(bench: Bench, tmp_path: Path) -> None:
    def ensure(sha256: str) -> None:
        bench.store.write(
            lambda connection: ensure_learner(connection, LEARNER, base_model="tiny", base_sha256=sha256, now=bench.now)
        )

    ensure("a" * 64)
    ensure("b" * 64)
    promote_new(bench, tmp_path, 0)
    ensure("b" * 64)
    with pytest.raises(ModelError, match="adapt tiny"):
        ensure("c" * 64)
    assert bench.store.read("SELECT base_sha256 FROM learners") == [{"base_sha256": "b" * 64}]


def test_list_show_and_verify(three: Bench, tmp_path: Path) -> None:
    roll(three)
    listed = list_versions(three.store, LEARNER)
    assert [(row["version"], row["name"], row["served"]) for row in listed] == [
        (3, "v000003", False),
        (2, "v000002", True),
        (1, "v000001", False),
        (0, "v000000", False),
    ]
    shown = show_version(three.store, tmp_path, 3)
    assert (shown["parent"], shown["lineage"], shown["served"], shown["problem"]) == (2, [3, 2, 1], False, None)
    assert [(row["action"], row["from"], row["version"]) for row in shown["rollouts"]] == [
        ("promote", 2, 3),
        ("rollback", 3, 2),
    ]
    assert sorted(shown["manifest"]["files"]) == ["adapter_config.json", "adapter_model.safetensors", "training.jsonl"]
    assert verify_version(three.store, tmp_path, 3) == {
        "version": 3,
        "name": "v000003",
        "intact": True,
        "files": 4,
        "problem": None,
        "removed": None,
    }
    damage(version_directory(tmp_path, 3))
    found = verify_version(three.store, tmp_path, 3)
    assert not found["intact"]
    assert "adapter_model.safetensors" in found["problem"]
    assert verify_version(three.store, tmp_path, 0)["intact"]
    assert show_version(three.store, tmp_path, 0)["version"] == 0
    with pytest.raises(NotFound):
        show_version(three.store, tmp_path, 4)


def test_why_tells_the_whole_story_of_a_promoted_update(three: Bench, tmp_path: Path) -> None:
    roll(three)
    story = why(three.store, tmp_path, 3)
    assert (story["outcome"], story["trigger"], story["parent"], story["lineage"]) == ("promoted", "test", 2, [3, 2, 1])
    assert story["config"] == {"rank": 2}
    assert story["verdict"]["outcome"] == "promote"
    assert story["report"]["curve"]["length"] == 20
    assert story["report"]["curve"]["first"][0] == {"loss": 1.0}
    train = story["examples"]["train"]
    assert train["count"] == len(train["items"]) > 0
    assert train["sources"] == {"local": train["count"]}
    one = train["items"][0]
    kind = three.store.read("SELECT kind FROM feedback WHERE id = ?", (one["feedback_id"],))
    assert kind == [{"kind": "correction"}]
    assert story["examples"]["holdout"]["count"] >= 2
    assert story["examples"]["retained"]["count"] >= 2
    assert [row["action"] for row in story["rollouts"]] == ["promote", "rollback"]
    assert story["version"]["intact"]


def test_why_tells_of_a_refused_update_too(bench: Bench, tmp_path: Path) -> None:
    for number in range(12):
        bench.correct(f"question {number}", "answer")
    bench.refuse(bench.begin_update())
    story = why(bench.store, tmp_path, 1)
    assert (story["outcome"], story["reason"], story["version"], story["rollouts"]) == ("refused", "forgot", None, [])
    assert story["verdict"]["checks"] == [{"name": "retained", "value": 0.3}]
    with pytest.raises(NotFound):
        why(bench.store, tmp_path, 2)
