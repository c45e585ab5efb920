"""Long lists page by page: versions, updates, rollouts; and the curve of an update in each of its states."""

from __future__ import annotations

import json
from pathlib import Path

from selflearn import overview
from selflearn.versions import history, list_versions, work_directory
from tests.stores import LEARNER, Bench
from tests.versions.candidates import promote_new


def _teach(bench: Bench, start: int) -> None:
    for number in range(start, start + 12):
        bench.correct(f"question {number}", f"answer {number}")


def test_versions(bench: Bench, state: Path) -> None:
    for start in (0, 20, 40):
        promote_new(bench, state, start)
    whole = [row["version"] for row in list_versions(bench.store, LEARNER)]
    assert whole == [3, 2, 1, 0]
    pages, before = [], None
    while page := [row["version"] for row in list_versions(bench.store, LEARNER, before=before, limit=3)]:
        pages.append(page)
        before = page[-1]
    assert pages == [[3, 2, 1], [0]]
    assert [row["version"] for row in list_versions(bench.store, LEARNER, before=3, limit=2)] == [2, 1]
    assert list_versions(bench.store, LEARNER, before=3, limit=1)[0]["served"] is False


def test_updates_and_rollouts(bench: Bench, state: Path) -> None:
    promote_new(bench, state, 0)
    _teach(bench, 40)
    bench.refuse(bench.begin_update())
    promote_new(bench, state, 20)
    found = overview.updates(bench.store, LEARNER)
    assert [(row["id"], row["state"]) for row in found] == [(3, "promoted"), (2, "refused"), (1, "promoted")]
    assert found[0]["verdict"]["outcome"] == "promote"
    assert "report" not in found[0]
    assert [row["id"] for row in overview.updates(bench.store, LEARNER, before=3, limit=1)] == [2]
    assert [row["id"] for row in overview.updates(bench.store, LEARNER, state="promoted")] == [3, 1]
    assert overview.updates(bench.store, "nobody") == []
    log = history(bench.store, LEARNER)
    assert history(bench.store, LEARNER, 1, log[0]["id"]) == log[1:2]


def test_curves(bench: Bench, state: Path) -> None:
    promote_new(bench, state, 0)
    curve = overview.curve(bench.store, state, LEARNER, 1)
    assert curve is not None
    assert curve["train"] == [(1, 2.5)]
    _teach(bench, 40)
    running = bench.begin_update()
    nothing = overview.curve(bench.store, state, LEARNER, running)
    assert nothing is not None
    assert (nothing["train"], nothing["held_out"]) == ([], [])
    lines = [{"phase": "loading"}, {"step": 1, "loss": 3.0}, {"step": 1, "holdout_loss": 2.0}, {"step": 2, "loss": 2.0}]
    work = work_directory(state, running)
    work.mkdir(parents=True)
    (work / "progress.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 3, "lo')
    told = overview.curve(bench.store, state, LEARNER, running)
    assert told is not None
    assert (told["train"], told["held_out"]) == ([(1, 3.0), (2, 2.0)], [(1, 2.0)])
    assert overview.curve(bench.store, state, LEARNER, 99) is None
