"""Chat completions as the official client sees them: whole, streamed, across swaps, disconnects and stops."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from starlette.datastructures import Headers

from selflearn.api.exchange import admit
from selflearn.api.keys import LOCAL
from selflearn.api.plans import plan_chat
from selflearn.api.schemas import ChatRequest
from selflearn.config import ApiSettings
from tests.api.server import CONTEXT, Running, until

MESSAGES: Any = [{"role": "user", "content": "what is the port of the daemon?"}]
GREEDY: Any = {"model": "selflearn", "messages": MESSAGES, "temperature": 0}
LONG = 400


def test_a_whole_answer(running: Running) -> None:
    raw = running.openai.chat.completions.with_raw_response.create(**GREEDY, max_tokens=12)
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert raw.headers["x-selflearn-version"] == "0"
    assert raw.headers["x-selflearn-recorded"] == "yes"
    assert answer.model == "selflearn@0"
    assert answer.system_fingerprint == "selflearn-v000000-abababab"


def test_the_row_is_whole_when_the_answer_arrives(running: Running) -> None:
    answer = running.openai.chat.completions.create(
        **GREEDY, max_tokens=5, user="ann", stop=["zzzz"], extra_headers={"x-request-id": "request-7"}
    )
    row = running.row(answer.id)
    assert row["state"] == "completed"
    assert row["answer"] == answer.choices[0].message.content
    assert (row["version"], row["completion_tokens"], row["finish_reason"]) == (0, 5, "length")
    assert json.loads(row["messages"]) == MESSAGES
    assert json.loads(row["parameters"]) == {
        "endpoint": "chat",
        "request_id": "request-7",
        "max_tokens": 5,
        "temperature": 0,
        "top_p": 1.0,
        "stop": ["zzzz"],
        "stream": False,
    }


def test_a_stream_says_the_same_as_the_whole(running: Running) -> None:
    whole = running.openai.chat.completions.create(**GREEDY, max_tokens=24)
    with running.openai.chat.completions.create(
        **GREEDY, max_tokens=24, stream=True, stream_options={"include_usage": True}
    ) as stream:
        assert stream.response.headers["x-selflearn-version"] == "0"
        chunks = list(stream)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 24
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert running.row(chunks[0].id)["answer"] == text


def test_the_row_is_durable_before_the_first_byte(running: Running) -> None:
    with running.openai.chat.completions.create(**GREEDY, max_tokens=LONG, stream=True) as stream:
        first = next(iter(stream))
        assert running.row(first.id)["state"] == "running"


def _generated(running: Running) -> float:
    return running.services.metrics.registry.get_sample_value("selflearn_generation_tokens_total") or 0.0


def test_the_engine_does_not_wait_for_the_database(running: Running, pool: ThreadPoolExecutor) -> None:
    release, traffic = threading.Event(), running.services.traffic
    held = running.store.submit(lambda _: release.wait(30))
    body = {**GREEDY, "max_tokens": 20, "stream": True}

    def ask() -> list[bytes]:
        with running.http.stream("POST", "/v1/chat/completions", json=body) as response:
            return list(response.iter_raw())

    before = _generated(running)
    asked = pool.submit(ask)
    try:
        until(lambda: running.services.activity.running == 1)
        until(lambda: traffic.answers == 0)  # all is generated, and nothing is sent
        assert _generated(running) == before + 20
        assert not asked.done()
        assert running.store.read("SELECT state FROM interactions WHERE state = 'running'") == []
    finally:
        release.set()
    held.result(30)
    writes = asked.result(30)
    assert len(writes) < 5  # what is ready leaves together
    assert writes[-1].endswith(b"data: [DONE]\n\n")
    assert b"".join(writes).count(b'"content":') > 10


def test_stop_texts_end_an_answer(running: Running) -> None:
    whole = running.openai.chat.completions.create(**GREEDY, max_tokens=24).choices[0].message.content
    assert whole
    stop = whole[6:9]
    stopped = running.openai.chat.completions.create(**GREEDY, max_tokens=24, stop=stop)
    assert stopped.choices[0].message.content == whole[: whole.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_content_parts_and_developer_messages(running: Running) -> None:
    parts = [{"type": "text", "text": "what is the port "}, {"type": "text", "text": "of the daemon?"}]
    plain = running.openai.chat.completions.create(**GREEDY, max_tokens=8)
    body: Any = {**GREEDY, "messages": [{"role": "user", "content": parts}]}
    assert running.openai.chat.completions.create(**body, max_tokens=8).choices == plain.choices
    told: Any = [{"role": "developer", "content": "be brief"}, *MESSAGES]
    answer = running.openai.chat.completions.create(model="selflearn", messages=told, max_tokens=2)
    assert json.loads(running.row(answer.id)["messages"])[0]["role"] == "system"


def test_parameters_that_ask_for_nothing_are_accepted(running: Running) -> None:
    answer = running.openai.chat.completions.create(
        **GREEDY, max_tokens=2, n=1, logprobs=False, presence_penalty=0, store=True, metadata={"a": "b"}
    )
    assert answer.choices[0].message.content is not None


def test_turns_of_a_conversation_belong_together(running: Running) -> None:
    client = running.openai.chat.completions
    first = client.create(**GREEDY, max_tokens=2)
    longer: Any = [*MESSAGES, {"role": "assistant", "content": "8000"}, {"role": "user", "content": "thanks"}]
    second = client.create(model="selflearn", messages=longer, max_tokens=2)
    named = client.create(**GREEDY, max_tokens=2, extra_headers={"x-selflearn-conversation": "ticket-7"})
    rows = [running.row(answer.id)["conversation"] for answer in (first, second, named)]
    assert rows[0] == rows[1] != rows[2]


def test_every_answer_comes_from_the_version_that_it_names(start: Callable[..., Running]) -> None:
    running = start()
    running.serve(0)
    texts = {}
    for version in (0, 7):
        running.serve(version)
        raw = running.openai.chat.completions.with_raw_response.create(**GREEDY, max_tokens=16)
        assert raw.headers["x-selflearn-version"] == str(version)
        texts[version] = raw.parse().choices[0].message.content
    assert texts[0] != texts[7]
    pinned = running.openai.chat.completions.create(**{**GREEDY, "model": "selflearn@0"}, max_tokens=16)
    assert pinned.choices[0].message.content == texts[0]
    assert pinned.model == "selflearn@0"
    assert [model.id for model in running.openai.models.list()] == ["selflearn", "selflearn@0", "selflearn@7"]
    served: Any = running.openai.models.retrieve("selflearn")
    assert (served.version, served.base_model, served.max_model_len) == (7, "tiny", CONTEXT)
    with pytest.raises(openai.NotFoundError, match="selflearn, selflearn@0, selflearn@7"):
        running.openai.chat.completions.create(**{**GREEDY, "model": "selflearn@3"})


def test_a_swap_breaks_no_stream(start: Callable[..., Running], pool: ThreadPoolExecutor) -> None:
    running = start()
    running.serve(0)
    reference = dict.fromkeys((0, 7), "")

    def ask(_: int) -> tuple[int, str]:
        with running.openai.chat.completions.create(**GREEDY, max_tokens=60, stream=True) as stream:
            version = int(stream.response.headers["x-selflearn-version"])
            return version, "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    reference[0] = ask(0)[1]
    asked = [pool.submit(ask, number) for number in range(6)]
    until(lambda: running.services.traffic.answers >= 3)
    running.serve(7)
    reference[7] = ask(0)[1]
    asked += [pool.submit(ask, number) for number in range(4)]
    answers = [future.result() for future in asked]
    assert {version for version, _ in answers} == {0, 7}
    assert all(text == reference[version] for version, text in answers)


def test_a_client_that_leaves_frees_its_place(running: Running) -> None:
    with running.openai.chat.completions.create(**GREEDY, max_tokens=LONG, stream=True) as stream:
        chunks = [chunk for chunk, _ in zip(stream, range(4), strict=False)]
    identity = chunks[0].id
    until(lambda: running.row(identity)["state"] != "running")
    row = running.row(identity)
    assert row["state"] == "cancelled"
    assert row["answer"]
    assert 0 < row["completion_tokens"] < LONG
    until(lambda: running.services.traffic.answers == 0 and running.services.traffic.running == 0)
    until(lambda: running.services.activity.running == 0)


def test_a_client_that_leaves_a_whole_answer_frees_its_place(running: Running) -> None:
    impatient = running.openai.with_options(timeout=0.3)
    with pytest.raises(openai.APITimeoutError):
        impatient.chat.completions.create(**GREEDY, max_tokens=480)
    until(lambda: running.services.traffic.answers == 0)
    newest = "SELECT state FROM interactions ORDER BY created_at DESC LIMIT 1"
    until(lambda: running.store.read(newest) == [{"state": "cancelled"}])


def test_an_exchange_that_nobody_begins_to_read_frees_its_place(running: Running) -> None:
    services = running.services

    async def leave_at_once() -> str:
        plan = await plan_chat(services, LOCAL, ChatRequest.model_validate(GREEDY), "request-8", Headers())
        exchange = await admit(services, plan, None)
        await exchange.aclose()
        return plan.interaction_id

    identity = running.call(leave_at_once())
    assert services.traffic.answers == services.activity.running == 0
    state = "SELECT state FROM interactions WHERE id = ?"
    until(lambda: running.store.read(state, (identity,)) == [{"state": "cancelled"}])


def test_a_stopping_server_finishes_its_streams(start: Callable[..., Running]) -> None:
    running = start()
    running.serve(0)
    assert running.server is not None
    with running.openai.chat.completions.create(**GREEDY, max_tokens=100, stream=True) as stream:
        chunks = iter(stream)
        first = next(chunks)
        running.server.should_exit = True  # what uvicorn does on SIGTERM
        rest = list(chunks)
    assert rest[-1].choices[0].finish_reason in ("length", "stop")
    assert running.row(first.id)["state"] == "completed"


def test_too_many_requests_are_turned_away(start: Callable[..., Running], pool: ThreadPoolExecutor) -> None:
    running = start(max_waiting=0)
    running.serve(0)

    def ask(_: int) -> int:
        return running.http.post("/v1/chat/completions", json={**GREEDY, "max_tokens": 200}).status_code

    codes = list(pool.map(ask, range(14)))
    assert set(codes) == {200, 429}
    assert running.http.post("/v1/chat/completions", json={**GREEDY, "max_tokens": 2}).status_code == 200


def test_an_answer_that_takes_too_long(start: Callable[..., Running]) -> None:
    running = start(api=ApiSettings(request_timeout_seconds=0.25))
    running.serve(0)
    response = running.http.post("/v1/chat/completions", json={**GREEDY, "max_tokens": 480})
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "timeout"
    with pytest.raises(openai.APIError, match="longer than"):
        list(running.openai.chat.completions.create(**GREEDY, max_tokens=480, stream=True))
    until(lambda: running.services.traffic.answers == 0)
    assert {row["state"] for row in running.store.read("SELECT state FROM interactions")} == {"failed"}


def test_chat_answers_when_the_store_cannot_write(start: Callable[..., Running]) -> None:
    running = start()
    running.serve(0)
    kept = running.openai.chat.completions.create(**GREEDY, max_tokens=2)
    running.store.close()
    raw = running.openai.chat.completions.with_raw_response.create(**GREEDY, max_tokens=4)
    assert raw.headers["x-selflearn-recorded"] == "no"
    assert raw.parse().choices[0].message.content is not None
    streamed = list(running.openai.chat.completions.create(**GREEDY, max_tokens=4, stream=True))
    assert streamed[-1].choices[0].finish_reason == "length"
    given = {"interaction_id": kept.id, "kind": "correction", "text": "8000"}
    refused = running.http.post("/v1/feedback", json=given)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "store_unavailable"
    assert running.http.get("/readyz").status_code == 200
    assert running.http.get("/metrics").status_code == 200


def test_nothing_is_ready_before_a_version_serves(start: Callable[..., Running]) -> None:
    running = start()
    assert running.http.get("/livez").status_code == 200
    assert running.http.get("/readyz").status_code == 503
    refused = running.http.post("/v1/chat/completions", json=GREEDY)
    assert refused.status_code == 503
    assert "retry-after" in refused.headers
    running.serve(0)
    assert running.http.get("/readyz").json() == {"status": "ready", "version": 0, "recording": True}
