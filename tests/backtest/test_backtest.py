"""Backtests of a real history: what is replayed, what other settings would have done, and that nothing is touched."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from selflearn.backtest import Configuration, Options, Progress, make_configurations, rejudge, run
from selflearn.backtest.running import RESULTS
from selflearn.backup import list_copies
from selflearn.cli.main import app, exit_code
from selflearn.errors import ConfigurationError, Conflict, ModelError, NotFound
from tests.backtest.conftest import LESSONS, Past
from tests.conftest import make_tiny_model
from tests.daemons import Outcome, as_json
from tests.daemons import run as run_process
from tests.shapes import conforms
from tests.stores import LEARNER

IMPOSSIBLE = Configuration("impossible", {"judging.max_weight_drift": "1e-6"})
OTHER = Configuration("other", {"learning.rank": "2"})


def options(past: Past, **given: Any) -> Options:
    return Options(state=past.state, learner=LEARNER, model=str(past.model), **given)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def found(past: Past, results: Path) -> dict[str, Any]:
    """The replay of the recorded settings; the live state is as it was, byte for byte."""
    before = past.files()
    told: list[Progress] = []
    found = run(options(past), make_configurations([], []), results, told.append)
    assert past.files() == before
    assert not (results / "work").exists()
    assert {progress.update for progress in told} == {1, 2, 3}
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)
    assert told[-1].seconds_left is not None
    return found


def test_the_recorded_settings_give_the_recorded_versions(found: dict[str, Any], past: Past) -> None:
    (recorded,) = found["configurations"]
    steps = recorded["steps"]
    with past.open() as store:
        adapters = [row["adapter_sha256"] for row in store.read("SELECT * FROM versions ORDER BY id")]
        states = {row["state"] for row in store.read("SELECT state FROM examples")}
    assert [step["outcome"] for step in steps] == ["promoted", "promoted", "refused"]
    assert [step["adapter_sha256"] for step in steps] == [*adapters, None]
    assert [(step["parent"], step["served"]) for step in steps] == [(0, 1), (1, 2), (1, 1)]  # the rollback was made
    assert all(step["same_examples"] and step["identical"] for step in steps)
    assert found["identical"] is True
    assert (recorded["differences"], found["missing"], found["skipped"]) == ((), {}, {})
    assert "suspect" in states & set(recorded["states"])


def test_what_was_taught_after_the_last_update_is_not_counted(found: dict[str, Any]) -> None:
    assert sum(found["configurations"][0]["states"].values()) == 3 * LESSONS


def test_the_matrix_tells_what_was_forgotten(found: dict[str, Any]) -> None:
    (recorded,) = found["configurations"]
    rows = {(row["after"], row["version"]): row["losses"] for row in recorded["rows"]}
    assert list(rows) == [(0, 0), (1, 1), (2, 2), (3, 1)]
    assert rows[1, 1][1:] == (None, None)
    assert rows[1, 1][0] == rows[3, 1][0] < rows[0, 0][0]  # the same version, and it knows what it was taught
    assert rows[2, 2][1] < rows[3, 1][1]  # what version 2 had learned went with it
    summary = recorded["summary"]
    forgotten = [rows[1, 1][0] - rows[3, 1][0], rows[2, 2][1] - rows[3, 1][1]]
    assert summary["backward_transfer"] == pytest.approx(sum(forgotten) / 2)
    assert summary["backward_transfer"] < 0
    assert summary["loss_after"] == pytest.approx(sum(rows[3, 1]) / 3)
    assert summary["served"] == 1
    assert summary["anchor_rise"] == recorded["steps"][0]["measured"]["anchor_rise"]
    assert (summary["promoted"], summary["refused"], summary["failed"]) == (2, 1, 0)
    assert summary["tokens"] > 0


def test_what_is_written_is_what_is_returned(found: dict[str, Any], results: Path) -> None:
    written = json.loads((results / RESULTS).read_bytes())
    assert {**json.loads(json.dumps(found)), "directory": None} == {**written, "directory": None}


def test_an_interrupted_backtest_keeps_what_is_finished_and_goes_on(past: Past, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.configuration == OTHER.name:
            raise KeyboardInterrupt

    left_by_a_kill = tmp_path / "work"
    left_by_a_kill.mkdir()
    (left_by_a_kill / "selflearn.db").write_bytes(b"what users said")
    chosen = options(past, updates="2:2", measured=0)
    first = run(chosen, [IMPOSSIBLE, OTHER], tmp_path, interrupt)
    assert first["interrupted"]
    (impossible,) = first["configurations"]
    assert [step["outcome"] for step in impossible["steps"]] == ["refused"]
    assert impossible["steps"][0]["same_examples"]
    assert not impossible["steps"][0]["identical"]
    assert impossible["steps"][0]["parent"] == impossible["steps"][0]["served"] == 1  # made by an update before
    assert impossible["summary"]["served"] == 1
    assert impossible["summary"]["backward_transfer"] is None
    assert "was not made" not in str(impossible["differences"])
    assert not (tmp_path / "work").exists()

    def fail(progress: Progress) -> None:
        pytest.fail(f"{progress.configuration} was replayed again")

    again = run(chosen, [IMPOSSIBLE], tmp_path, fail)
    assert not again["interrupted"]
    assert again["configurations"] == first["configurations"]
    with pytest.raises(Conflict, match="another history"):
        run(options(past, updates="3:3", measured=0), [IMPOSSIBLE], tmp_path)


def test_copies_of_the_record_are_named_to_whoever_forgets(tmp_path: Path) -> None:
    (tmp_path / "backtests" / "20260101T000000Z" / "work").mkdir(parents=True)
    assert list_copies(tmp_path) == ["backtests/20260101T000000Z/work"]


def test_what_cannot_be_replayed_is_said_at_once(past: Past, tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "another", head_dim=8)
    wrong = Options(state=past.state, learner=LEARNER, model=str(tmp_path / "another"))
    with pytest.raises(ModelError, match="the recorded updates adapt tiny"):
        run(wrong, [OTHER], tmp_path / "results")
    with pytest.raises(NotFound, match="none of them in 7:"):
        run(options(past, updates="7:"), [OTHER], tmp_path / "results")
    with pytest.raises(NotFound, match="has no database"):
        run(Options(state=tmp_path / "nothing", learner=LEARNER, model=""), [OTHER], tmp_path / "results")
    assert not (tmp_path / "results" / "work").exists()


def test_the_command_goes_on_with_results_and_shows_them(past: Past, results: Path, found: dict[str, Any]) -> None:
    shown = selflearn(past, "backtest", "--to", results)
    assert shown.code == 0, shown.err
    table, updates = (part.splitlines() for part in shown.out.split("\n\n"))
    assert (table[0].split()[0], table[1].split()[:4]) == ("configuration", ["recorded", "2", "1", "0"])
    assert [line.split()[:3] for line in updates[1:]] == [
        ["1", "promoted", "promoted"],
        ["2", "promoted", "promoted"],
        ["3", "refused", "refused"],
    ]
    assert "(weight_drift)" in updates[3]
    assert "identical to the record" in shown.err
    assert (results / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (results / "plot.svg").read_text(encoding="utf-8")
    written = json.loads((results / RESULTS).read_bytes())
    assert written["configurations"] == json.loads(json.dumps(found["configurations"]))


def test_the_command_without_matplotlib_still_has_the_numbers(past: Past, results: Path, found: dict[str, Any]) -> None:
    del found
    hidden = results / "hidden"
    (hidden / "matplotlib").mkdir(parents=True)
    (hidden / "matplotlib" / "__init__.py").write_text("raise ImportError('hidden by a test')", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(hidden), prepend=os.pathsep)
        shown = selflearn(past, "backtest", "--to", results, "--json")
    assert "pip install 'selflearn[plot]'" in shown.err
    assert conforms("backtest", as_json(shown))["identical"] is True


def test_the_command_refuses_what_it_cannot_do(past: Past) -> None:
    before = past.files()
    for words, told in (
        (["--set", "learning.ranks=8"], "learning.ranks"),
        (["--judge-only", "--set", "judging.confidence=2"], "setting confidence"),
        (["--last", "1", "--updates", "1:2", "--judge-only"], "Both --updates and --last"),
        (["--updates", "3", "--judge-only"], "two numbers as 3:7"),
        (["--updates", "3:2", "--judge-only"], "lower number first"),
    ):
        ended = CliRunner().invoke(app, ["--state", str(past.state), "backtest", *words])
        assert isinstance(ended.exception, ConfigurationError)
        assert told in str(ended.exception)
        assert (exit_code(ended.exception), ended.stdout) == (2, "")
    assert CliRunner().invoke(app, ["backtest", "--judge-only", "--to", "elsewhere"]).exit_code == 2
    assert past.files() == before


def test_judging_anew_needs_no_training(past: Past) -> None:
    before = past.files()
    strict = ["judging.max_weight_drift=1e-6", "judging.max_kl_drift=0"]
    lax = make_configurations(["judging.max_weight_drift=9"], [], with_recorded=False, judge_only=True)
    found = rejudge(past.state, LEARNER, [*make_configurations(strict, [], judge_only=True), *lax])
    recorded, refusing, letting = found["configurations"]
    assert [(step["outcome"], step["recorded"]) for step in recorded["steps"]] == [
        ("promoted", "promoted"),
        ("promoted", "promoted"),
        ("refused", "refused"),
    ]
    assert (recorded["changed"], refusing["changed"], letting["changed"]) == ([], [1, 2], [3])
    assert (refusing["refused"], letting["promoted"]) == (3, 3)
    assert "weight_drift" in refusing["steps"][0]["reason"]
    assert "kl_drift" in refusing["steps"][0]["reason"]
    assert past.files() == before


def test_the_command_judges_anew(past: Past) -> None:
    words = ["--state", str(past.state), "backtest", "--judge-only", "--last", "1", "--set"]
    shown = CliRunner().invoke(app, [*words, "judging.max_weight_drift=9"])
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[-1].split() == ["3", "refused", "refused", "(weight_drift)", "promoted"]
    told = json.loads(CliRunner().invoke(app, [*words, "judging.max_weight_drift=9", "--json"]).stdout)
    assert [each["promoted"] for each in conforms("backtest", told)["configurations"]] == [0, 1]


def selflearn(past: Past, *words: object) -> Outcome:
    """Runs the command on the state, in a process of its own."""
    command = [sys.executable, "-m", "selflearn.cli.main", "--state", str(past.state), *map(str, words)]
    return run_process(command, past.state.parent, timeout=120.0, SERVING__MODEL=str(past.model))
