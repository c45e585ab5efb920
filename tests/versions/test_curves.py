"""The curves of an update, read from its training log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selflearn.versions.curves import learning_curve


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def step(number: int, loss: float) -> dict[str, float]:
    return {"step": number, "steps": 6, "learning_rate": 1e-4, "loss": loss, "kl": 0.1, "ewc": 0.0}


def look(number: int, loss: float, objective: float) -> dict[str, float]:
    return {"step": number, "holdout_loss": loss, "kl": 0.1, "objective": objective}


def test_overfitting_is_seen(tmp_path: Path) -> None:
    log = write(
        tmp_path / "training.jsonl",
        *(step(number, 3.0 / number) for number in range(1, 7)),
        look(2, 2.0, 2.1),
        look(4, 1.5, 1.9),
        look(6, 1.75, 1.8),
    )
    curve = learning_curve(log)

    assert curve["train"] == [(number, 3.0 / number) for number in range(1, 7)]
    assert curve["held_out"] == [(2, 2.0), (4, 1.5), (6, 1.75)]
    assert (curve["best_step"], curve["kept_step"]) == (4, 6)
    assert curve["rise"] == pytest.approx(0.25)


def test_what_is_no_measurement_is_left_out(tmp_path: Path) -> None:
    broken = ("{\n", "[1]\n", {"step": 3, "loss": None}, {"loss": 1.0}, '{"step": 4, "loss": NaN}\n')
    curve = learning_curve(write(tmp_path / "training.jsonl", step(1, 2.0), *broken))

    assert curve["train"] == [(1, 2.0)]
    assert (curve["held_out"], curve["best_step"], curve["kept_step"], curve["rise"]) == ([], None, None, None)


def test_no_log_no_curve(tmp_path: Path) -> None:
    assert learning_curve(tmp_path / "training.jsonl")["train"] == []
