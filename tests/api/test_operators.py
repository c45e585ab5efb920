"""Feedback, models, operators' routes and metrics, over HTTP."""

from __future__ import annotations

from typing import Any

from tests.api.server import Running

ASK: Any = {"model": "selflearn", "messages": [{"role": "user", "content": "the quick brown"}], "temperature": 0}


def ask(running: Running, text: str) -> str:
    body = {**ASK, "messages": [{"role": "user", "content": text}]}
    return str(running.openai.chat.completions.create(**body, max_tokens=4).id)


def metric(running: Running, name: str) -> float:
    lines = running.http.get("/metrics").text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_a_correction_becomes_an_example(running: Running) -> None:
    identity = ask(running, "what sleeps?")
    body = {"interaction_id": identity, "kind": "correction", "text": "the lazy dog", "reason": "it does"}
    response = running.http.post("/v1/feedback", json=body)
    assert response.status_code == 201
    receipt = response.json()
    assert receipt["status"] == "accepted"
    assert receipt["id"].startswith("fb-")
    (example,) = running.store.read("SELECT * FROM examples WHERE id = ?", (receipt["example_id"],))
    assert example["target"] == "the lazy dog"
    again = running.http.post("/v1/feedback", json=body)
    assert again.status_code == 409
    assert again.json()["error"]["code"] == "duplicate_feedback"
    assert metric(running, 'selflearn_feedback_total{kind="correction",status="accepted"}') >= 1
    assert metric(running, 'selflearn_feedback_total{kind="correction",status="rejected"}') >= 1
    found = running.http.get("/admin/feedback?limit=5").json()["feedback"]
    assert found[0]["interaction_id"] == identity
    assert found[0]["example_id"] == receipt["example_id"]


def test_ratings(running: Running) -> None:
    identity = ask(running, "who jumps?")
    for value in (1, -1):
        body = {"interaction_id": identity, "kind": "rating", "value": value}
        assert running.http.post("/v1/feedback", json=body).status_code == 201


def test_models(running: Running) -> None:
    listed = running.openai.models.list().data
    assert [model.id for model in listed] == ["selflearn", "selflearn@0"]
    assert running.openai.models.retrieve("selflearn@0").id == "selflearn@0"
    card = running.http.get("/v1/models/selflearn").json()
    assert (card["version"], card["base_model"], card["object"]) == (0, "tiny", "model")


def test_status_has_everything_and_no_nan(running: Running) -> None:
    found = running.http.get("/admin/status").json()
    assert found["health"] == "ready"
    assert found["state"] == str(running.services.state.resolve())
    assert found["served"]["version"] == found["answering"] == 0
    assert found["served"]["sha256"] == "ab" * 32
    assert set(found["counts"]) == {"interactions", "feedback", "examples", "quarantine"}
    assert found["learning"]["last"]["reason"] is None


def test_learning_can_be_steered(running: Running) -> None:
    http = running.http
    assert http.post("/admin/learn/pause").json() == {"paused": True}
    assert http.get("/admin/learn").json()["paused"] is True
    assert http.post("/admin/learn/resume").json() == {"paused": False}
    assert http.get("/admin/learn").json()["paused"] is False
    assert http.post("/admin/learn/cancel").json() == {"cancelled": False}
    refused = http.post("/admin/learn", json={"trigger": "test"})
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "not_enough_examples"


def test_versions_and_rollouts_of_a_fresh_state(running: Running) -> None:
    http = running.http
    assert [row["version"] for row in http.get("/admin/versions").json()["versions"]] == [0]
    assert http.post("/admin/versions/0/verify").json()["intact"] is True
    assert http.get("/admin/rollouts").json() == {"rollouts": []}
    nothing = http.post("/admin/rollback", json={"dry_run": True})
    assert nothing.status_code == 409
    assert nothing.json()["error"]["code"] == "nothing_to_undo"
    unknown = http.post("/admin/rollback", json={"to": 99})
    assert unknown.status_code == 404


def test_metrics_count_by_route(running: Running) -> None:
    ask(running, "count me")
    running.http.get("/v1/secret-path-of-a-client")
    text = running.http.get("/metrics").text
    assert 'selflearn_requests_total{code="200",endpoint="/v1/chat/completions"}' in text
    assert 'selflearn_requests_total{code="404",endpoint="other"}' in text
    assert "secret-path" not in text
    assert metric(running, "selflearn_interactions_total") >= 1
    assert metric(running, "selflearn_generation_tokens_total") >= 4
    assert metric(running, "selflearn_time_to_first_token_seconds_count") >= 1
    assert f'selflearn_version_info{{sha256="{"ab" * 32}",version="0"}} 1.0' in text
    assert 'selflearn_examples{state="trained"} 0.0' in text
    assert metric(running, "selflearn_requests_running") == 0


def test_metrics_show_that_other_weights_answer_than_the_log_names(running: Running) -> None:
    running.serve(1)
    try:
        text = running.http.get("/metrics").text
        assert 'selflearn_version_info{sha256="",version="1"} 1.0' in text
        assert f'selflearn_promoted_info{{sha256="{"ab" * 32}",version="0"}} 1.0' in text
    finally:
        running.serve(0)
    assert 'version="1"' not in running.http.get("/metrics").text
