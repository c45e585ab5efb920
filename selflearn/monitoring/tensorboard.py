"""Event files for TensorBoard: what updates did, step by step, and how versions have moved from the base.

Below one directory there are these runs:

- ``updates/000007``: the curves of update 7, by training step.
- ``gate/measured`` and ``gate/limit``: what the gate found and allowed, by update; the same tags, to lie in one chart.
- ``versions``: drift and the weights of the adapter, by version.

TensorBoard is an extra (``selflearn[tensorboard]``), imported only when something is written.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter

UPDATES: Final = "updates"
MEASURED: Final = "gate/measured"
LIMIT: Final = "gate/limit"
VERSIONS: Final = "versions"

#: What a step tells, and a look at the holdout, by tag.
_STEP: Final = {"loss": "train/loss", "kl": "train/kl", "learning_rate": "train/learning_rate"}
_STEP_MORE: Final = {"gradient_norm": "train/gradient_norm", "tokens": "train/tokens"}
_LOOK: Final = {"holdout_loss": "holdout/loss", "objective": "holdout/objective"}


def write_update(
    directory: Path, update: int, *, curve: Sequence[Mapping[str, Any]], checks: Sequence[Mapping[str, Any]], at: float
) -> None:
    """Writes one judged update: the rows of its ``training.jsonl``, and the checks of its verdict (their dict form).

    Losses are in nats per token. What is not a number is left out. ``at`` is the time of the verdict, unix seconds.
    """
    with _run(directory / UPDATES / f"{update:06d}", update) as writer:
        for row in curve:
            for tag, value in _scalars(row):
                writer.add_scalar(tag, value, int(row["step"]), walltime=at)
    for run, key in ((MEASURED, "value"), (LIMIT, "limit")):
        with _run(directory / run, update) as writer:
            for check in checks:
                if check[key] is not None:
                    writer.add_scalar(f"gate/{check['name'].replace(':', '/')}", check[key], update, walltime=at)


def write_version(
    directory: Path, version: int, *, scalars: Mapping[str, float], weights: Mapping[str, np.ndarray], at: float
) -> None:
    """Writes how far a promoted version is from the base (by tag), and histograms of its weights (by tag)."""
    with _run(directory / VERSIONS, version) as writer:
        for tag, value in scalars.items():
            writer.add_scalar(tag, value, version, walltime=at)
        for tag, values in weights.items():
            writer.add_histogram(tag, values, version, walltime=at)


def keep_newest(directory: Path, number: int) -> None:
    """Removes all but the newest ``number`` updates, and all but so many event files of the other runs."""
    for run in sorted((directory / UPDATES).glob("*"))[:-number]:
        shutil.rmtree(run)
    for name in (MEASURED, LIMIT, VERSIONS):
        # the names end with the number of what they hold, after a time that begins them
        for file in sorted((directory / name).glob("events.*"), key=lambda file: file.suffix)[:-number]:
            file.unlink()


@contextlib.contextmanager
def _run(directory: Path, number: int) -> Iterator[SummaryWriter]:
    """A new event file of a run; it is complete when the block ends."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(directory), filename_suffix=f".{number:06d}")
    try:
        yield writer
    finally:
        writer.close()


def _scalars(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, tag in (_LOOK if "holdout_loss" in row else {**_STEP, **_STEP_MORE}).items():
        yield tag, float(row[name])
    for name, value in row.get("penalties", {}).items():
        yield f"train/{name}", float(value)
