"""The product's main job on the real model, over public HTTP: teach, learn, promote, poison, refuse, roll back."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from selflearn.cli.demo_daemon import Client, lend_model, running_daemon
from selflearn.config import LearningSettings
from selflearn.demonstration import Lesson, answers_fact, load_manual, poisoned_lessons, right_lessons
from tests.daemons import until

FACTS = load_manual()
HELD_BACK = [(fact, question) for fact in FACTS for question in fact.held_back]
MIN_CORRECTIONS = 24
MIN_ACCURACY = 0.6
MAX_ANCHOR_RISE = 0.05
PAUSE_SECONDS = 2.0  # without one, two cores would mostly stream


@dataclasses.dataclass(slots=True)
class Streams:
    """What a client saw that streamed one answer after the other."""

    answers: int = 0
    versions: list[int] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)


@contextmanager
def streaming(url: str) -> Iterator[Streams]:
    """Streams answers in a thread until the block ends."""
    seen, end = Streams(), threading.Event()

    def stream() -> None:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120.0)
        while not end.is_set():
            try:
                _stream_one(client, seen)
            except Exception as error:
                seen.problems.append(repr(error))
            end.wait(PAUSE_SECONDS)

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        yield seen
    finally:
        end.set()
        thread.join()


def _stream_one(client: OpenAI, seen: Streams) -> None:
    messages: Any = [{"role": "user", "content": "Name three colours of the rainbow."}]
    raw = client.chat.completions.with_raw_response.create(
        model="selflearn", messages=messages, max_tokens=12, temperature=0, stream=True
    )
    version = int(raw.headers["x-selflearn-version"])
    finished = None
    for chunk in raw.parse():
        if not (chunk.system_fingerprint or "").startswith(f"selflearn-v{version:06d}-"):
            seen.problems.append(f"a chunk of {chunk.system_fingerprint} in an answer of version {version}")
        for choice in chunk.choices:
            finished = choice.finish_reason or finished
    if finished not in ("stop", "length"):
        seen.problems.append(f"an answer ended with {finished}")
    seen.answers += 1
    seen.versions.append(version)


def teach(client: Client, lessons: tuple[Lesson, ...]) -> None:
    """One after the other: the order of the corrections decides the update, which is deterministic otherwise."""
    for lesson in lessons:
        assert client.correct(client.ask(lesson.question, 1).id, lesson.answer) == "accepted"


def learn(client: Client) -> dict[str, Any]:
    number = client.learn_now()
    end = threading.Event()
    while client.update(number)["state"] == "running":
        end.wait(0.5)
    return client.update(number)


def outcomes(update: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["outcome"] for check in update["verdict"]["checks"]}


def value(update: dict[str, Any], name: str) -> float:
    return next(float(check["value"]) for check in update["verdict"]["checks"] if check["name"] == name)


def accuracy(client: Client) -> float:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda item: client.ask(item[1], 40).text, HELD_BACK))
    right = [answers_fact(fact, text) for (fact, _), text in zip(HELD_BACK, answers, strict=True)]
    return sum(right) / len(right)


def alone(client: Client) -> list[tuple[int, str]]:
    """Greedy answers asked one at a time: in a batch of others, bf16 sums may round otherwise."""
    answers = [client.ask(question, 24) for _, question in HELD_BACK[:6]]
    return [(answer.version, answer.text) for answer in answers]


def configure(state: Path, **learning: float) -> None:
    """What the next daemon on ``state`` learns with; short answers are compared, which spares a minute an update."""
    lines = [f"{name} = {value}\n" for name, value in learning.items()]
    told = f"[judging]\nanswer_tokens = 12\n[learning]\n{''.join(lines)}"
    (state / "selflearn.toml").write_text(told, "utf-8")


@pytest.mark.timeout(900)
def test_it_learns_what_it_is_taught_refuses_what_would_harm_it_and_returns_to_the_base(
    embedded_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lend_model(embedded_model, tmp_path)
    configure(tmp_path)
    with running_daemon(tmp_path) as client:
        base_answers, base_accuracy = alone(client), accuracy(client)
        lessons = right_lessons(FACTS)
        teach(client, lessons)
        with streaming(str(client.http.base_url)) as streams:
            good = learn(client)
            assert good["state"] == "promoted", good["reason"]
            client.await_version(good["id"])
            learned_accuracy = accuracy(client)
            client.roll_back(0)
            client.roll_back(good["id"])
            until(lambda: good["id"] in streams.versions)
        teach(client, poisoned_lessons(FACTS, seed=7))

    configure(tmp_path, passes=2)
    with running_daemon(tmp_path) as client:
        poisoned = learn(client)
        served_after_poison = client.ready_version()
        client.roll_back(0)
        back = alone(client)

    configure(tmp_path, passes=1, learning_rate=100 * LearningSettings().learning_rate)
    with running_daemon(tmp_path) as client:
        wild = learn(client)
        served_after_wild = client.ready_version()

    with capsys.disabled():
        print(f"\nheld-back paraphrases: {base_accuracy:.0%} -> {learned_accuracy:.0%}", end="; ")
        print(f"anchor rise {value(good, 'anchored'):+.4f} nats/token; {streams.answers} streamed answers meanwhile")
    assert len(lessons) >= MIN_CORRECTIONS
    assert base_accuracy <= 0.05
    assert learned_accuracy >= MIN_ACCURACY
    assert value(good, "anchored") <= MAX_ANCHOR_RISE
    assert streams.problems == []
    assert streams.answers >= 3
    assert {0, good["id"]} <= set(streams.versions)
    assert poisoned["state"] == "refused", poisoned["reason"]
    assert outcomes(poisoned)["consistent"] == "fail"
    assert served_after_poison == good["id"]
    assert back == base_answers
    assert wild["state"] == "refused", wild["reason"]
    assert outcomes(wild)["consistent"] == "pass"
    assert outcomes(wild)["weight_drift"] == "fail"
    assert served_after_wild == 0
