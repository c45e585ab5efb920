"""How much came in and what became of it, over HTTP and in the metrics; and why nothing is learned from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from selflearn.api.keyring import add_key, read_keyring
from selflearn.experience import QUARANTINE
from tests.api.server import Running


def teach(http: httpx.Client, question: str, answer: str) -> dict[str, Any]:
    body = {"model": "selflearn", "messages": [{"role": "user", "content": question}], "max_tokens": 2}
    asked = http.post("/v1/chat/completions", json=body).json()
    given = {"interaction_id": asked["id"], "kind": "correction", "text": answer}
    response = http.post("/v1/feedback", json=given)
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    return found


def samples(http: httpx.Client, name: str) -> dict[str, float]:
    """The series of a metric with one label, by its value."""
    lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith(f"{name}{{")]
    return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in lines}


def test_stats_say_what_became_of_it_and_why_nothing_is_learned(start: Callable[..., Running]) -> None:
    server = start()
    server.serve(0)
    http = server.http
    nothing = http.get("/admin/data/stats").json()
    assert nothing["why_not"].endswith("0 answers, and no feedback on any of them")
    teach(http, "what is the port of the daemon?", "8000")
    teach(http, "where do i write to?", "to ada@example.com")
    teach(http, "what do you say?", "no " * 400)
    found = http.get("/admin/data/stats").json()
    assert found["received"] == {"completed": 3}
    assert found["feedback"] == {"correction": {"accepted": 2, "quarantined": 1}}
    assert found["examples"] == {"fresh": 2, "quarantined": 1}
    assert found["quarantine"] == {"repetitive": 1}
    assert found["redacted"] == {"email": 1}
    assert [stage["number"] for stage in found["stages"]] == [3, 3, 3, 2, 0]
    assert found["why_not"].endswith("2 new examples, 24 needed; 1 in quarantine (repetitive 1)")
    assert http.get("/admin/learn").json()["why_not"] == found["why_not"]
    status = http.get("/admin/status").json()
    assert status["counts"]["quarantine"] == {"repetitive": 1}
    assert status["learning"]["why_not"] == found["why_not"]


def test_metrics_show_the_same(start: Callable[..., Running]) -> None:
    server = start()
    server.serve(0)
    http = server.http
    assert samples(http, "selflearn_quarantined_examples") == dict.fromkeys([*QUARANTINE, "other"], 0.0)
    teach(http, "where do i write to?", "to ada@example.com")
    teach(http, "what do you say?", "no " * 400)
    for _ in range(2):  # a scrape counts nothing twice
        assert samples(http, "selflearn_redactions_total") == {"email": 1.0}
        assert samples(http, "selflearn_quarantined_examples")["repetitive"] == 1.0
        states = samples(http, "selflearn_examples")
        assert (states["fresh"], states["quarantined"], states["suspect"]) == (1.0, 1.0, 0.0)
    server.store.write(lambda connection: connection.execute("UPDATE examples SET reason = 'a new one' WHERE id = 2"))
    quarantined = samples(http, "selflearn_quarantined_examples")
    assert (quarantined["repetitive"], quarantined["other"]) == (0.0, 1.0)
    teach(http, "and where else?", "to grace@example.com")
    assert samples(http, "selflearn_redactions_total") == {"email": 2.0}


def test_only_operators_see_stats(start: Callable[..., Running], tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    key = add_key(file, "alice", "teacher")
    server = start(keyring=read_keyring(file))
    response = server.http.get("/admin/data/stats", headers={"authorization": f"Bearer {key}"})
    assert response.status_code == 403
