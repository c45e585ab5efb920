"""Secrets and personal data that come in over HTTP reach no file, whichever way they come."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from selflearn.api.demonstrations import LINES
from selflearn.config import ExperienceSettings
from tests.api.server import Running

#: Known by its form, and known only with the setting: a number as France writes it.
KEY = "sk-ant-api03-Zx9Qw7Er5Ty3Ui1Op8As6Df4Gh2Jk0"
PHONE = "06 12 34 56 78"
#: German, and so unknown to the settings of this server.
OTHER = "030/901820"
SAID = f"{KEY} then {PHONE} then {OTHER}"
CLEAN = f"[redacted:api-key] then [redacted:phone] then {OTHER}"


def test_nothing_of_it_reaches_a_file(start: Callable[..., Running], tmp_path: Path) -> None:
    running = start(experience=ExperienceSettings(phone_regions=("FR",)))
    running.serve(0)
    chat = running.openai.chat.completions.create(
        model="selflearn",
        messages=[{"role": "user", "content": SAID}],
        user=f"ann {PHONE} {KEY}",
        metadata={"note": SAID},
        max_tokens=4,
    )
    asked = json.loads(running.row(chat.id)["messages"])
    assert asked == [{"role": "user", "content": CLEAN}]
    feedback = {"interaction_id": chat.id, "kind": "correction", "text": f"right: {SAID}", "reason": f"why: {SAID}"}
    assert running.http.post("/v1/feedback", json=feedback).status_code == 201
    lesson = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": f"shown: {SAID}"}]}
    sent = running.http.post("/v1/demonstrations", content=json.dumps(lesson), headers={"content-type": LINES})
    assert sent.json()["accepted"] == 1
    stored = {row["target"] for row in running.store.read("SELECT target FROM examples")}
    assert stored == {f"right: {CLEAN}", f"shown: {CLEAN}"}
    assert running.store.read("SELECT reason FROM feedback WHERE reason IS NOT NULL") == [{"reason": f"why: {CLEAN}"}]
    content = b"".join(file.read_bytes() for file in (tmp_path / "state").rglob("*") if file.is_file())
    assert OTHER.encode() in content
    assert KEY.encode() not in content
    assert PHONE.encode() not in content


def test_what_was_redacted_is_counted_by_kind(start: Callable[..., Running]) -> None:
    running = start()
    running.serve(0)
    running.openai.chat.completions.create(
        model="selflearn", messages=[{"role": "user", "content": f"{KEY} a@b.co c@d.co"}], max_tokens=4
    )
    metrics = running.http.get("/metrics").text
    assert 'selflearn_redactions_total{kind="email"} 2.0' in metrics
    assert 'selflearn_redactions_total{kind="api-key"} 1.0' in metrics
