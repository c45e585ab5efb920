"""``versions reproduce``: the same bytes from the record alone, and what it says when the record no longer tells."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from selflearn.daemon.reproduction import reproduce
from selflearn.errors import NotFound, UpdateError
from selflearn.store import Store, database_path
from tests.daemon.conftest import Learned
from tests.daemons import UPDATE_SECONDS, Lab, Outcome, run
from tests.shapes import conforms


def reproduced(lab: Lab, state: Path, *options: str) -> Outcome:
    words = [sys.executable, "-m", "selflearn.cli.main", "--state", str(state), "versions", "reproduce", "1", *options]
    return run(words, state, timeout=UPDATE_SECONDS, SERVING__MODEL=str(lab.model))


def change(state: Path, sql: str) -> None:
    with closing(sqlite3.connect(database_path(state))) as connection:
        connection.execute(sql)
        connection.commit()


def test_beside_a_daemon_it_makes_the_same_bytes_again(lab: Lab, learned: Learned) -> None:
    state = learned.copy("reproduced")
    with lab.daemon(state) as daemon:
        outcome = reproduced(lab, state, "--json")
        assert outcome.code == 0, outcome.err
        assert daemon.version() == 1
    found = conforms("versions reproduce", json.loads(outcome.out))
    manifest = json.loads((state / "versions/v000001/manifest.json").read_text(encoding="utf-8"))
    adapter = manifest["files"]["adapter_model.safetensors"]
    assert found["identical"]
    assert found["recorded_sha256"] == found["found_sha256"] == adapter
    assert (found["max_difference"], found["differences"]) == (0.0, [])
    made_with = manifest["made_with"]
    assert (made_with["threads"], made_with["device"]) == (1, "cpu")
    assert len(made_with["cache"]) == 2


def test_without_a_daemon_it_finds_that_a_text_was_respelled(lab: Lab, learned: Learned) -> None:
    state = learned.copy("respelled")
    change(state, "UPDATE examples SET target = upper(target)")  # their digests do not see it
    outcome = reproduced(lab, state)

    assert outcome.code == 1, outcome.err
    assert "largest difference" in outcome.out
    assert "examples sha256" in outcome.out


@pytest.mark.parametrize(
    ("damage", "number", "error", "sentence"),
    [
        ("UPDATE examples SET state = 'forgotten' WHERE id IN (2, 5)", 1, UpdateError, "forgotten.*: 2, 5"),
        ("UPDATE examples SET digest = 'other' WHERE id = 3", 1, UpdateError, "something else since: 3"),
        (
            """UPDATE updates SET config = json_set(config, '$.learning.magic', 1)""",
            1,
            UpdateError,
            r"does not take \(magic\)",
        ),
        (
            (
                "INSERT INTO updates (id, learner, parent, trigger, state, seed, config, snapshot_digest, started_at)"
                " VALUES (2, 'default', 1, 'test', 'refused', 0, '{}', '', 0)"
            ),
            2,
            UpdateError,
            r"left no version \(refused\)",
        ),
        ("SELECT 1", 7, NotFound, "no update 7"),
    ],
)
def test_what_cannot_be_made_again_is_told_at_once(
    lab: Lab, learned: Learned, tmp_path: Path, damage: str, number: int, error: type[Exception], sentence: str
) -> None:
    state = learned.copy(tmp_path.name)
    change(state, damage)
    with Store.open(database_path(state)) as store, pytest.raises(error, match=sentence):
        reproduce(store, state, number, lab.model)
