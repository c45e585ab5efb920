"""Rows of examples without their interactions, for tests that need many of them or need them just so."""

from __future__ import annotations

import json
from typing import Any

from tests.stores import LEARNER, Bench


def insert(bench: Bench, count: int = 1, **columns: Any) -> list[int]:
    """Inserts examples that differ in everything, but for the ``columns`` given; returns their ids."""

    def work(connection: Any) -> list[int]:
        return [_insert(connection, next(bench.numbers), columns) for _ in range(count)]

    return bench.store.write(work)


def _insert(connection: Any, number: int, columns: dict[str, Any]) -> int:
    row = {
        "learner": LEARNER,
        "conversation": f"conversation {number}",
        "kind": "correction",
        "objective": "supervised",
        "messages": json.dumps([{"role": "user", "content": f"question {number}"}]),
        "target": f"answer {number}",
        "digest": f"digest {number}",
        "cluster": f"{number:08x}",
        "state": "fresh",
        "source": "local",
        "created_at": float(number),
        **columns,
    }
    marks = ", ".join(f":{name}" for name in row)
    cursor = connection.execute(f"INSERT INTO examples ({', '.join(row)}) VALUES ({marks})", row)
    return int(cursor.lastrowid)
