"""Event files for TensorBoard, read back by TensorBoard's own reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from selflearn.config import load
from selflearn.errors import ConfigurationError
from selflearn.monitoring.tensorboard import keep_newest, write_update, write_version
from selflearn.versions import version_directory
from tests.daemons import rows
from tests.monitoring.conftest import Seen

CHECKS: list[dict[str, Any]] = [
    {"name": "learned", "value": 0.5, "limit": 0.0},
    {"name": "retained:reward_weighted", "value": None, "limit": 0.1},
]


def read(run: Path) -> EventAccumulator:
    found = EventAccumulator(str(run), size_guidance={"scalars": 0, "histograms": 0})
    found.Reload()
    return found


def curve(run: Path, tag: str) -> dict[int, float]:
    """The values of a tag by step."""
    return {event.step: event.value for event in read(run).Scalars(tag)}


def in_rows(rows_: list[dict[str, Any]], name: str) -> Any:
    """What a curve of these rows must be, but for the 32 bits of an event file."""
    return pytest.approx({row["step"]: row[name] for row in rows_}, rel=1e-6)


def test_the_curves_of_an_update_are_those_of_its_training(seen: Seen) -> None:
    state = seen.daemon.state
    text = (version_directory(state, 1) / "training.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    steps = [line for line in lines if "learning_rate" in line]
    looks = [line for line in lines if "holdout_loss" in line]
    run = state / "tensorboard" / "updates" / "000001"
    for tag, name in (("loss", "loss"), ("kl", "kl"), ("ewc", "ewc"), ("learning_rate", "learning_rate")):
        assert curve(run, f"train/{tag}") == in_rows(steps, name)
    assert curve(run, "holdout/loss") == in_rows(looks, "holdout_loss")
    assert len(steps) >= len(looks) > 1


def test_gate_values_lie_beside_their_limits(seen: Seen) -> None:
    state = seen.daemon.state
    checks = json.loads(rows(state, "SELECT verdict FROM updates WHERE id = 1")[0]["verdict"])["checks"]
    for check in checks:
        tag = f"gate/{check['name'].replace(':', '/')}"
        for run, number in (("measured", check["value"]), ("limit", check["limit"])):
            if number is not None:
                found = curve(state / "tensorboard" / "gate" / run, tag)
                assert found == pytest.approx({1: number}, rel=1e-6)


def test_a_version_has_its_drift_and_its_weights(seen: Seen) -> None:
    state = seen.daemon.state
    found = read(state / "tensorboard" / "versions")
    drift = {tag: found.Scalars(tag)[0] for tag in found.Tags()["scalars"] if tag.startswith("drift/")}
    for tag, event in drift.items():
        kind = tag.removeprefix("drift/")
        assert event.value == pytest.approx(seen.daemon.metric(f'selflearn_weight_drift_ratio{{layer_group="{kind}"}}'))
    assert {"behaviour/kl_drift", "behaviour/anchored"} <= set(found.Tags()["scalars"])
    weights = load_file(version_directory(state, 1) / "adapter_model.safetensors")
    (event,) = found.Histograms("adapter/q_proj.lora_B")
    mine = [tensor for name, tensor in weights.items() if name.endswith("q_proj.lora_B.weight")]
    assert (event.step, event.histogram_value.num) == (1, sum(tensor.size for tensor in mine))
    assert event.histogram_value.max == pytest.approx(max(float(tensor.max()) for tensor in mine))
    assert len(found.Tags()["histograms"]) == 2 * len(drift)


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    write_update(tmp_path, 1, curve=[], checks=CHECKS, at=1000.0)
    assert read(tmp_path / "gate" / "measured").Tags()["scalars"] == ["gate/learned"]
    assert read(tmp_path / "gate" / "limit").Tags()["scalars"] == ["gate/learned", "gate/retained/reward_weighted"]


def test_only_the_newest_stay(tmp_path: Path) -> None:
    for number in (9, 10, 11):
        write_update(tmp_path, number, curve=[], checks=CHECKS, at=1000.0)
        write_version(tmp_path, number, scalars={"drift/q_proj": 0.1}, weights={"w": np.ones(3)}, at=1000.0)
        keep_newest(tmp_path, 2)
    assert sorted(run.name for run in (tmp_path / "updates").iterdir()) == ["000010", "000011"]
    assert set(curve(tmp_path / "gate" / "measured", "gate/learned")) == {10, 11}
    assert set(curve(tmp_path / "versions", "drift/q_proj")) == {10, 11}


def test_without_the_extra_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monitoring={"tensorboard_updates": 5}).monitoring.tensorboard_updates == 5
    monkeypatch.setattr("selflearn.config.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"needs tensorboard; install the extra selflearn\[tensorboard\]"):
        load(monitoring={"tensorboard_updates": 5})
    assert load().monitoring.tensorboard_updates == 0
