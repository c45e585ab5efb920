"""What an update was given and did not use: left out of its version, named in its story, kept in quarantine."""

from __future__ import annotations

import json

from tests.daemons import Lab, rows


def test_what_is_left_out_is_in_no_manifest_and_does_not_come_up_again(lab: Lab) -> None:
    state = lab.state("left-out")
    with lab.daemon(state, LEARNING__MAX_LENGTH="96", JUDGING__MIN_HOLDOUT="2") as daemon:
        daemon.teach("harbour", lessons=16)
        for number in range(8):  # some of them train, some judge
            asked = daemon.ask(f"what are the words of song {number}?")
            words = " ".join(f"{number}{word}{number * word}" for word in range(60))
            assert daemon.correct(asked.id, words).status_code == 201
        number = daemon.learn()
        assert daemon.await_update(number)["state"] == "promoted"

        held = daemon.get("/admin/data/examples?reason=too_long")["examples"]
        story = daemon.get(f"/admin/why/{number}")["examples"]
        assert {item["id"] for item in held} == {item["id"] for item in story["left_out"]["items"]}
        assert len(held) == 8
        assert f"learning.max_length allowed in update {number}" in held[0]["detail"]
        used = {item["id"] for role in ("train", "holdout") for item in story[role]["items"]}
        manifest = json.loads((state / f"versions/v{number:06d}/manifest.json").read_text())
        assert {pair[0] for pairs in manifest["examples"].values() for pair in pairs} == used
        assert len(used) == 16
        shown = daemon.get(f"/admin/data/examples/{held[0]['id']}")
        assert shown["updates"] == [{"update": number, "role": "left_out", "outcome": "promoted"}]
        assert shown["learned_from"] == []
    assert rows(state, "SELECT count(*) AS n FROM examples WHERE state = 'fresh'") == [{"n": 0}]
