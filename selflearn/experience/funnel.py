"""How many interactions became feedback, and how much feedback became examples."""

from __future__ import annotations

from typing import Any

from selflearn.store import Store


def counts(store: Store, learner: str) -> dict[str, Any]:
    """``{"interactions": {state: n}, "feedback": {kind: {status: n}}, "examples": {state: n}}``."""
    interactions = store.read(
        "SELECT state, count(*) AS n FROM interactions WHERE learner = ? GROUP BY state ORDER BY state", (learner,)
    )
    feedback = store.read(
        "SELECT kind, status, count(*) AS n FROM feedback WHERE learner = ?"
        " GROUP BY kind, status ORDER BY kind, status",
        (learner,),
    )
    examples = store.read(
        "SELECT state, count(*) AS n FROM examples WHERE learner = ? GROUP BY state ORDER BY state", (learner,)
    )
    by_kind: dict[str, dict[str, int]] = {}
    for row in feedback:
        by_kind.setdefault(row["kind"], {})[row["status"]] = row["n"]
    return {
        "interactions": {row["state"]: row["n"] for row in interactions},
        "feedback": by_kind,
        "examples": {row["state"]: row["n"] for row in examples},
    }


def fresh_count(store: Store, learner: str) -> int:
    """How many new examples wait for an update."""
    found = store.read("SELECT count(*) AS n FROM examples WHERE learner = ? AND state = 'fresh'", (learner,))
    return int(found[0]["n"])
