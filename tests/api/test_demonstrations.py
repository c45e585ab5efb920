"""Training data over HTTP: in, in every form that is taken, and out again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from selflearn.api.demonstrations import LINES
from selflearn.api.keyring import ROLES, add_key, read_keyring
from selflearn.config import ApiSettings
from tests.api.server import Running
from tests.rows import chat, question

PATH = "/v1/demonstrations"
FILE = "cd" * 32


def post(running: Running, *rows: Any, headers: dict[str, str] | None = None, **query: Any) -> httpx.Response:
    body = b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows)
    return running.http.post(PATH, content=body, params=query, headers={"content-type": LINES, **(headers or {})})


def check_error(response: httpx.Response, status: int, code: str, param: str | None = None) -> str:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    return str(error["message"])


def test_lines_and_what_became_of_them(start: Callable[..., Running]) -> None:
    running = start()
    good = chat(question(1), "The city.")
    done = post(running, good, b"", b"{", good, {"prompt": question(2), "completion": "x", "label": False})
    assert done.status_code == 201
    answer = done.json()
    reason = answer["errors"][0].pop("reason")
    assert "not JSON" in reason
    assert answer == {
        "object": "selflearn.import",
        "source": "local",
        "received": 4,
        "accepted": 2,
        "known": 1,
        "folded": 0,
        "quarantined": 0,
        "rejected": 1,
        "errors": [{"line": 3}],
    }
    stored = running.store.read("SELECT source, role, interaction_id FROM feedback")
    assert stored == [{"source": "local", "role": "operator", "interaction_id": None}] * 2
    metrics = running.http.get("/metrics").text
    for kind, status in (("demonstration", "accepted"), ("demonstration", "known"), ("rating", "accepted")):
        assert f'selflearn_feedback_total{{kind="{kind}",status="{status}"}} 1.0' in metrics
    assert 'selflearn_feedback_total{kind="unknown",status="rejected"} 1.0' in metrics


def test_one_row_as_json(running: Running) -> None:
    row = chat(question(3), "The guild.")
    assert running.http.post(
        PATH, content=json.dumps(row, indent=2), headers={"content-type": "application/json"}
    ).json()["accepted"]
    assert running.http.post(PATH, json=row).json()["known"] == 1
    message = check_error(running.http.post(PATH, json={"messages": []}), 400, "no_acceptable_row")
    assert "Line 1: messages: " in message


def test_what_is_refused(running: Running) -> None:
    good = chat(question(4), "The king.")
    message = check_error(post(running, {"text": 1}, {"text": 2}, {"text": 3}), 400, "no_acceptable_row")
    assert "2 more rows" in message
    check_error(post(running, b"", b" \r"), 400, "no_rows")
    for other in ("text/plain", "multipart/form-data", ""):
        check_error(post(running, good, headers={"content-type": other}), 415, "unsupported_media_type")
    check_error(post(running, good, name="a/b"), 400, "invalid_value", "name")
    check_error(post(running, good, format="xml"), 400, "invalid_value", "format")
    check_error(post(running, good, file="x"), 400, "invalid_value", "file")
    check_error(running.http.post(PATH, params={"file": FILE}, json=good), 400, "invalid_value", "file")
    check_error(post(running, good, line=0), 400, "invalid_value", "line")
    check_error(post(running, good, nmae="x"), 400, "unknown_parameter", "nmae")
    check_error(running.http.get(f"{PATH}/nothing"), 400, "invalid_value", "file")
    assert not running.store.read("SELECT 1 FROM feedback WHERE text = 'The king.'")


def test_a_body_has_a_limit(start: Callable[..., Running]) -> None:
    running = start(api=ApiSettings(max_body_bytes=2000))
    check_error(post(running, chat(question(1), "x" * 2000)), 413, "request_too_large")
    assert post(running, chat(question(1), "x y z")).status_code == 201


def test_a_file_in_parts(running: Running) -> None:
    rows = [chat(question(number), "The bishop.") for number in range(20, 24)]
    of: dict[str, Any] = {"name": "parts", "file": FILE}
    assert post(running, *rows[:2], **of).json()["source"] == "import:parts"
    assert post(running, *rows[:2], **of).json()["received"] == 0  # these lines are done
    found = running.http.get(f"{PATH}/{FILE}", params={"name": "parts"}).json()
    assert (found["lines"], found["received"], found["finished_at"]) == (2, 2, None)
    assert post(running, b"{", *rows[2:], line=3, last=True, **of).json()["errors"][0]["line"] == 3
    found = running.http.get(f"{PATH}/{FILE}", params={"name": "parts"}).json()
    assert (found["lines"], found["received"], found["accepted"], found["rejected"]) == (5, 5, 4, 1)
    assert found["finished_at"] is not None
    assert post(running, rows[0], again=True, **of).json()["known"] == 1
    assert running.http.get(f"{PATH}/{FILE}", params={"name": "parts"}).json()["lines"] == 1
    assert running.http.get(f"{PATH}/{FILE}").json()["lines"] == 0  # of another source
    (sources,) = running.store.read("SELECT count(*) AS n FROM examples WHERE source = 'import:parts'")
    assert sources["n"] == 4


def test_only_operators_imports_are_sources_of_their_own(start: Callable[..., Running], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    keys = {role: {"authorization": f"Bearer {add_key(file, f'the-{role}', role)}"} for role in ROLES}
    running = start(keyring=read_keyring(file))
    check_error(post(running, chat(question(1), "x"), headers=keys["client"]), 403, "insufficient_role")
    sources = {
        role: [
            post(running, chat(question(number), "The one."), headers=keys[role], **query).json()["source"]
            for number, query in enumerate(({}, {"name": "faq"}))
        ]
        for role in ("teacher", "operator")
    }
    assert sources == {"teacher": ["the-teacher"] * 2, "operator": ["the-operator", "import:faq"]}
    stored = running.store.read("SELECT DISTINCT source, role FROM feedback ORDER BY source")
    assert [(row["source"], row["role"]) for row in stored] == [
        ("import:faq", "operator"),
        ("the-operator", "operator"),
        ("the-teacher", "teacher"),
    ]
    check_error(running.http.get("/admin/data/export", headers=keys["teacher"]), 403, "insufficient_role")


def exported(running: Running, **query: Any) -> list[Any]:
    response = running.http.get("/admin/data/export", params=query)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith(LINES)
    return [json.loads(line) for line in response.text.splitlines()]


def test_export(start: Callable[..., Running]) -> None:
    running = start()
    rows = [chat(question(number), "The carpenter.") for number in range(100)]
    rows += [chat(f"{question(number)} Really?", "The weaver.") for number in range(100)]
    more = [chat(f"{question(number)} Once more?", "The potter.") for number in range(100)]
    assert post(running, *rows, name="faq").json()["received"] == 200
    assert post(running, *more, name="other").json()["received"] == 100
    post(running, {"prompt": "Which is better?", "chosen": "This one.", "rejected": "That one."})
    (kept,) = running.store.read("SELECT count(*) AS n FROM examples WHERE objective = 'supervised'")
    assert kept["n"] > 200  # more than a page
    whole = exported(running)
    assert len(whole) == kept["n"]
    assert all(set(row) == {"messages"} for row in whole)
    assert len(exported(running, source="faq")) == 0
    assert len(exported(running, source=["import:faq", "import:other"])) == kept["n"]
    states = [row["metadata"]["state"] for row in exported(running, state=["reserve"], metadata=True)]
    assert set(states) == {"reserve"}
    (preferred,) = exported(running, format="dpo")
    assert preferred["preferred_output"] == [{"role": "assistant", "content": "This one."}]
    for query in ({"state": "forgotten"}, {"format": "xml"}):
        check_error(running.http.get("/admin/data/export", params=query), 400, "invalid_value", next(iter(query)))
    check_error(running.http.get("/admin/data/export?x=1"), 400, "unknown_parameter", "x")


def test_chat_goes_on_while_rows_come_in(running: Running) -> None:
    """Rows are read in a thread: the event loop answers others meanwhile."""
    rows = [chat(f"{question(number % 100)} No {number}?", f"It was the {number}th.") for number in range(300)]
    waited: list[float] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            waited.append(httpx.get(f"{running.url}/livez", timeout=30, trust_env=False).elapsed.total_seconds())

    asking = threading.Thread(target=ask)
    asking.start()
    took = post(running, *rows).elapsed.total_seconds()
    done.set()
    asking.join()
    assert len(waited) > 3
    assert max(waited) < 0.8 * took


@pytest.mark.parametrize(
    "content_type", ["application/jsonl", "application/x-jsonlines", "APPLICATION/X-NDJSON; charset=utf-8"]
)
def test_names_of_json_lines(running: Running, content_type: str) -> None:
    row = chat(f"{question(50)} {content_type}", "The saddler.")
    assert post(running, row, headers={"content-type": content_type}).status_code == 201
