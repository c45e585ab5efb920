"""Writes what became of an update for TensorBoard, once it has ended and what it made serves."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selflearn import overview
from selflearn.judging.layers import largest_by_kind
from selflearn.monitoring.tensorboard import keep_newest, write_update, write_version
from selflearn.store import Store
from selflearn.versions import ADAPTER, version_directory, work_directory
from selflearn.versions.names import refused_directory

if TYPE_CHECKING:
    import numpy as np

DIRECTORY = "tensorboard"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EventFiles:
    """Keeps event files of the newest ``keep`` updates in ``state/tensorboard``; 0 writes none."""

    store: Store
    learner: str
    state: Path
    keep: int

    def write(self, update: int) -> None:
        """Writes an update that was judged, and its version if it became one. What fails is logged, never raised."""
        if not self.keep:
            return
        try:
            self._write(update)
        except Exception as error:  # a picture of an update is never worth the update
            logger.warning("update %d was not written for TensorBoard: %s", update, error)

    def _write(self, update: int) -> None:
        found = overview.update(self.store, self.learner, update)
        if found is None or found["report"] is None or found["verdict"] is None:
            return
        directory, candidate = self.state / DIRECTORY, self._candidate(update)
        lines = (candidate / "training.jsonl").read_text(encoding="utf-8").splitlines()
        checks, at = found["verdict"]["checks"], float(found["finished_at"])
        write_update(directory, update, curve=[json.loads(line) for line in lines], checks=checks, at=at)
        if found["state"] == "promoted":
            scalars = _scalars(found["report"], checks)
            write_version(directory, update, scalars=scalars, weights=_weights(candidate / ADAPTER), at=at)
        keep_newest(directory, self.keep)

    def _candidate(self, update: int) -> Path:
        """Where its files are by now: among the versions, with the kept candidates, or still in its job folder."""
        sealed = (version_directory(self.state, update), refused_directory(self.state, update))
        return next((each for each in sealed if each.is_dir()), work_directory(self.state, update) / "candidate")


def _scalars(report: Mapping[str, Any], checks: list[dict[str, Any]]) -> dict[str, float]:
    """The largest drift of each kind of layer, KL to the base, and the rise of the anchor loss, by tag."""
    drift = largest_by_kind(report["measurements"]["weight_drift"])
    behaviour = {check["name"]: check["value"] for check in checks if check["name"] in ("kl_drift", "anchored")}
    told = {f"drift/{kind}": ratio for kind, ratio in drift.items()}
    return told | {f"behaviour/{name}": value for name, value in behaviour.items() if value is not None}


def _weights(file: Path) -> dict[str, np.ndarray]:
    """The values of all layers of a kind together, A and B apart: few histograms, whatever the depth."""
    import numpy as np
    from safetensors.numpy import load_file

    by_kind: dict[str, list[np.ndarray]] = {}
    for name, tensor in load_file(file).items():
        layer, _, part = name.removesuffix(".weight").rpartition(".")
        by_kind.setdefault(f"adapter/{layer.rpartition('.')[2]}.{part}", []).append(tensor.ravel())
    return {tag: np.concatenate(values) for tag, values in by_kind.items()}
