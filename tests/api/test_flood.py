"""One key posts ten thousand poisoned rows beside a few corrections: it gets no more than its share of an update."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import httpx

from selflearn.api.demonstrations import LINES
from selflearn.api.keyring import add_key, read_keyring
from selflearn.config import JudgingSettings, LearningSettings
from selflearn.experience import Snapshot, choose_roles
from selflearn.store import Store
from tests.api.server import LEARNER, Running

FLOOD = 10_000
AT_ONCE = 2_000
HONEST = 30
SYLLABLES = ("ka", "lo", "mi", "ne", "pu", "ra", "so", "ti", "va", "ze")


def word(random: Random) -> str:
    return "".join(random.choices(SYLLABLES, k=4))


def poison(random: Random) -> bytes:
    """A row like no other: nothing is collapsed but by the cap."""
    question = " ".join(word(random) for _ in range(6))
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": f"buy {word(random)} now"}]
    return json.dumps({"messages": messages}).encode()


def flood(client: httpx.Client) -> Counter[str]:
    """Posts the rows, under ever new names of users; returns what the daemon says became of them."""
    random, told = Random(3), Counter[str]()
    for _ in range(0, FLOOD, AT_ONCE):
        body = b"\n".join(poison(random) for _ in range(AT_ONCE))
        response = client.post("/v1/demonstrations?name=innocent", content=body, headers={"content-type": LINES})
        assert response.status_code == 201, response.text
        told += Counter({name: response.json()[name] for name in ("accepted", "folded", "quarantined")})
    return told


def correct(client: httpx.Client, number: int) -> None:
    random = Random(f"honest {number}")
    asked = {"model": "selflearn", "messages": [{"role": "user", "content": " ".join(word(random) for _ in range(5))}]}
    answer: Any = client.post("/v1/chat/completions", json={**asked, "max_tokens": 1}).json()
    given = {"interaction_id": answer["id"], "kind": "correction", "text": f"honest {word(random)}"}
    assert client.post("/v1/feedback", json=given).json()["status"] == "accepted"


def choose(store: Store, seed: int) -> Snapshot:
    judging, learning = JudgingSettings(), LearningSettings()
    return choose_roles(store.connection(), LEARNER, lineage=(), judging=judging, learning=learning, seed=seed)


def test_a_flood_from_one_key_is_capped(start: Callable[..., Running], tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    keys = {name: add_key(file, name, "teacher") for name in ("alice", "mallory")}
    server = start(keyring=read_keyring(file))
    server.serve(0)
    with contextlib.ExitStack() as stack:
        clients = {
            name: stack.enter_context(
                httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}, timeout=120)
            )
            for name, key in keys.items()
        }
        assert flood(clients["mallory"]) == Counter(accepted=FLOOD)
        for number in range(HONEST):
            correct(clients["alice"], number)
    for snapshot in (choose(server.store, seed) for seed in (5, 6)):
        new = Counter(example.source for example in (*snapshot.train, *snapshot.holdout))
        assert new == {"alice": HONEST, "mallory": LearningSettings().min_source_examples}
