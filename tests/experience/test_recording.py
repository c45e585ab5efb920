"""Interactions: recorded from beginning to end, without secrets."""

from __future__ import annotations

import pytest

from selflearn.errors import NotFound
from selflearn.experience import counts, finish_interaction, get_interaction, interrupt_interactions
from tests.stores import LEARNER, Bench


def test_an_interaction_from_beginning_to_end(bench: Bench) -> None:
    interaction_id = bench.interaction("What is the port?", "8000")
    row = get_interaction(bench.store, LEARNER, interaction_id)
    assert row["messages"] == [{"role": "user", "content": "What is the port?"}]
    assert (row["answer"], row["state"], row["finish_reason"]) == ("8000", "completed", "stop")
    assert (row["prompt_tokens"], row["completion_tokens"], row["version"]) == (7, 3, 0)
    assert row["created_at"] < row["completed_at"]


def test_no_secret_reaches_the_file(bench: Bench) -> None:
    secret = "sk-proj-abcDEF1234567890abcd"
    interaction_id = bench.interaction(f"my key is {secret}", f"your key is {secret}")
    bench.feedback(interaction_id, "correction", text=f"never say {secret}", reason=f"it said {secret}", source=secret)
    row = get_interaction(bench.store, LEARNER, interaction_id)
    assert row["redactions"] == 2
    path = bench.store.path
    bench.store.close()
    assert secret.encode() not in b"".join(p.read_bytes() for p in path.parent.iterdir())


def test_finishing_what_never_began_is_an_error(bench: Bench) -> None:
    future = finish_interaction(
        bench.store, "chatcmpl-0", answer="a", state="completed", finish_reason="stop", completion_tokens=1
    )
    with pytest.raises(NotFound) as caught:
        future.result()
    assert caught.value.code == "interaction_not_found"


def test_another_learners_interaction_is_not_found(bench: Bench) -> None:
    interaction_id = bench.interaction()
    with pytest.raises(NotFound):
        get_interaction(bench.store, "somebody-else", interaction_id)


def test_running_interactions_are_interrupted_at_the_start(bench: Bench) -> None:
    bench.interaction()
    running = bench.interaction(state="running")
    assert bench.store.write(lambda connection: interrupt_interactions(connection, LEARNER, bench.now())) == 1
    assert get_interaction(bench.store, LEARNER, running)["state"] == "interrupted"
    assert counts(bench.store, LEARNER)["interactions"] == {"completed": 1, "interrupted": 1}
