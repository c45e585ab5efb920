"""A base as another program is to serve it, written down once in the layout of a version: an adapter and a probe.

The adapter is one that changes nothing. ``python -m selflearn.models.record MODEL DEVICE DTYPE DIRECTORY`` writes it
all: in a process of its own, which takes the weights with it when it ends.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

from selflearn.errors import ModelError

PROBE_FILE = "probe.safetensors"
LOG_TAIL = 600


def recorded_base(model: Path, ids: Sequence[int], cache: Path, *, device: str, dtype: str) -> Path:
    """The directory in ``cache`` with the adapter and the probe on ``ids``; made if it is not there.

    Blocking, for as long as it takes to load the model. Raises :class:`ModelError` when it cannot be loaded.
    """
    key = zlib.crc32(repr(list(ids)).encode())
    directory = cache / f"base-{dtype}-{key:08x}"
    if directory.is_dir():
        return directory
    words = [sys.executable, "-m", "selflearn.models.record", str(model), device, dtype, str(directory)]
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise ModelError(f"The base could not be recorded. {ended.stderr[-LOG_TAIL:].strip()}")
    return directory


def main(model: str, device: str, dtype: str, target: str) -> None:
    """Loads the model, asks it, and lets the directory appear in one step."""
    from safetensors.torch import save_file

    from selflearn.models.adapter import attach_new, probe_logits, save_adapter
    from selflearn.models.base import load_base
    from selflearn.models.chat import probe_ids

    base = load_base(Path(model), device=device, dtype=dtype)
    directory = Path(target)
    unfinished = directory.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save_file({"logits": probe_logits(base.model, probe_ids(base.tokenizer))}, unfinished / PROBE_FILE)
    attach_new(base.model, rank=1, alpha=1.0, seed=0)  # its B is zero
    save_adapter(base.model, unfinished)
    unfinished.rename(directory)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ModelError as error:
        sys.exit(str(error))
