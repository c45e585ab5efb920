"""``why`` on one screen, and what ``versions verify`` says of the whole."""

from __future__ import annotations

import json
import re
from pathlib import Path

from selflearn.versions import Manifest, version_directory, write_manifest
from selflearn.versions.names import refused_directory
from selflearn.versions.rollouts import write_row
from tests.api.server import Running
from tests.cli.conftest import Command
from tests.stores import LEARNER, Bench
from tests.versions.candidates import make_candidate, manifest_of, promote_new


def test_one_screen_says_what_a_tired_person_needs(command: Command, bench: Bench, state: Path) -> None:
    first, second = promote_new(bench, state, 0), promote_new(bench, state, 100)
    bench.roll_back()
    told = command("why", second)
    assert told.code == 0, told.err
    assert len(told.out.splitlines()) < 25
    for words in (
        f"{second} (promoted)",
        "9 examples (correction 9) from local 9",
        "12 new, 12 used",
        "gate, ",
        "rollback to v000001 by me",
        "intact",
    ):
        assert words in told.out, words
    assert "question 100" not in told.out
    full = command("why", second, "--full").out
    assert "question 100" in full
    assert full.count("answer 100") == 1
    assert re.search(r"^continued by +v000002$", command("why", first).out, re.MULTILINE)


def test_what_it_learned_is_shown_before_and_after(command: Command, bench: Bench, state: Path) -> None:
    version = promote_new(bench, state, 0)
    row = {"example": 3, "prompt": [{"role": "user", "content": "Which port?"}], "expected": "8000", "before": "?"}
    directory = version_directory(state, version)
    directory.chmod(0o755)
    (directory / "answers.jsonl").write_text(json.dumps({**row, "after": "port 8000"}), encoding="utf-8")
    told = command("why", version)
    assert "1 of 1 shown ones changed" in told.out
    assert "answers.jsonl" in told.out  # its manifest does not name it
    full = command("why", version, "--full").out
    assert "Which port?" in full
    assert "port 8000" in full


def test_a_forced_promotion_and_a_removed_version_say_so(command: Command, bench: Bench, state: Path) -> None:
    version = promote_new(bench, state, 0)
    promote_new(bench, state, 100)
    sql = "UPDATE versions SET forced = 1, removed_at = 86400.0, removed_because = 'retention' WHERE id = ?"
    bench.store.write(lambda connection: connection.execute(sql, (version,)))
    told = command("why", version)
    assert "forced against the gate" in told.out
    assert "(retention)" in told.out
    verified = command("versions", "verify")
    assert verified.code == 0, verified.out
    assert "(retention)" in verified.out
    shown = json.loads(command("versions", "show", version, "--json").out)
    assert (shown["removed"], shown["problem"]) == ({"at": 86400.0, "because": "retention"}, None)
    listed = json.loads(command("versions", "list", "--json").out)["versions"]
    assert [row["removed"] is None for row in listed] == [True, False, True]


def test_why_an_answer(command: Command, bench: Bench, state: Path) -> None:
    version = promote_new(bench, state, 0)
    taught = json.loads(command("why", version, "--json").out)["examples"]["train"]["items"][0]["interaction_id"]
    told = command("why", taught)
    assert told.code == 0, told.err
    assert "yes: version 1 trained on it" in told.out
    assert "1 train (promoted)" in told.out
    asked = bench.interaction("What is the port?")
    assert "not yet: nobody said anything" in command("why", asked).out
    assert command("why", "chatcmpl-none").code == 1
    assert command("why", "0").code == 2


def test_a_damaged_candidate_that_is_kept_is_found(command: Command, bench: Bench, state: Path) -> None:
    for number in range(12):
        bench.correct(f"question {number}", "answer")
    update = bench.begin_update()
    manifest: Manifest = manifest_of(bench, update)
    make_candidate(refused_directory(state, update))
    write_manifest(refused_directory(state, update), manifest)
    bench.refuse(update)
    assert command("versions", "verify").code == 0
    (refused_directory(state, update) / "training.jsonl").write_text("{}")
    verified = command("versions", "verify")
    assert verified.code == 1
    assert f"{update} (refused)  damaged" in verified.out


def test_another_version_than_the_log_names_is_found(command: Command, running: Running) -> None:
    def order(action: str, version: int) -> None:
        row = {"learner": LEARNER, "version": version, "action": action, "actor": "me", "reason": "so"}
        running.store.write(lambda connection: write_row(connection, **row, created_at=1.0))

    assert command("--url", running.url, "versions", "verify").code == 0
    order("promote", 7)
    verified = command("--url", running.url, "versions", "verify", "--json")
    assert verified.code == 1
    assert "version 0 answers" in json.loads(verified.out)["served"]["problem"]
    order("rollback", 0)
    assert command("--url", running.url, "versions", "verify").code == 0
