"""The curves of an update: what its losses were on what it trained on, and on what it never saw."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

TRAINING_LOG: Final = "training.jsonl"

Point = tuple[int, float]


def learning_curve(path: Path) -> dict[str, Any]:
    """Reads the training log of a version (``training.jsonl``); losses in nats, as the update minimised them.

    ``train`` are (step, loss of that step's batch), ``held_out`` (step, mean loss of the fresh held-out examples then).
    ``best_step`` is the step with the lowest held-out loss, ``kept_step`` the one whose weights the version has: the
    best by held-out loss and KL to the base together. ``rise`` is how far the held-out loss had risen from its best to
    the last look, 0 where it was best in the end: what training longer spoiled. Each is None where there was no look.
    Without the file, or in lines that are no measurement, there is nothing to read, and losses that are not finite
    are left out.
    """
    rows = _rows(path)
    held_out = _points(rows, "holdout_loss")
    best = min(held_out, key=lambda point: point[1], default=None)
    return {
        "train": _points(rows, "loss"),
        "held_out": held_out,
        "best_step": best[0] if best else None,
        "kept_step": min(_points(rows, "objective"), key=lambda point: point[1], default=(None,))[0],
        "rise": held_out[-1][1] - best[1] if best else None,
    }


def _rows(path: Path) -> list[Mapping[str, Any]]:
    if not path.is_file():
        return []
    rows: list[Mapping[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    found = [(row.get("step"), row.get(name)) for row in rows]
    return [
        (step, float(value))
        for step, value in found
        if isinstance(step, int) and isinstance(value, int | float) and math.isfinite(value)
    ]
