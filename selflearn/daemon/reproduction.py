"""Makes a version again from its record, and compares every byte of its adapter.

The same job gives the same bytes on the same machine with the same libraries and threads. Where the bytes differ, what
is known to be different says why.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selflearn.daemon.jobs import job_of_update, libraries
from selflearn.errors import ModelError, UpdateError, VersionRemoved
from selflearn.learning.forecast import Forecast, work_of
from selflearn.learning.job import Job, write_job
from selflearn.learning.process import Cancelled, Worker
from selflearn.models.library import fingerprint
from selflearn.store import Store
from selflearn.versions import ADAPTER, Manifest, read_manifest, verify_registered, version_directory
from selflearn.versions.files import sha256_file
from selflearn.versions.registry import unknown_update
from selflearn.versions.removal import removal_of

NICENESS = 10  # at least: a daemon may be serving on the same cores


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that the adapter depends on, and that is not as it was recorded."""

    what: str
    recorded: Any
    found: Any


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What came of it: SHA-256 (hex) of both adapters, and, where they differ, by how much and what may explain it.

    ``max_difference`` is the largest absolute difference of any weight; None for other names or shapes.
    """

    update: int
    identical: bool
    recorded_sha256: str
    found_sha256: str
    max_difference: float | None
    differences: tuple[Difference, ...]
    seconds: float


def reproduce(
    store: Store,
    state: Path,
    number: int,
    model_directory: Path,
    on_progress: Callable[[dict[str, Any]], None] = lambda running: None,
) -> Reproduction:
    """Carries out the job of version ``number`` once more, in a worker of its own and a temporary folder.

    Changes nothing in ``state`` but what is kept of the base model. ``on_progress`` gets what ``learn status`` shows of
    a running update. Raises ``NotFound``, :class:`VersionDamaged`, :class:`VersionRemoved`, ``ModelError``, and
    :class:`UpdateError` for what left no version or cannot be made again.
    """
    manifest = _intact(store, state, number)
    if (found := fingerprint(model_directory)) != manifest.base_sha256:
        raise ModelError(
            f"Version {number} adapts {manifest.base_model} ({manifest.base_sha256[:12]}), but {model_directory} holds "
            f"another model ({found[:12]}). Name the right one with serving.model."
        )
    job = job_of_update(store, state, number, model_directory, manifest.base_sha256)
    if job.parent:
        _intact(store, state, job.parent)
    niceness = max(NICENESS, job.learning.niceness)
    job = replace(job, learning=job.learning.model_copy(update={"niceness": niceness}))
    with tempfile.TemporaryDirectory(prefix="selflearn-reproduce-") as folder:
        started = time.monotonic()
        report = _carry_out(job, Path(folder), on_progress)
        seconds = time.monotonic() - started
        differences = _differences(manifest, report.get("made_with", {}))
        again = Path(folder) / "candidate" / ADAPTER
        return _compared(number, version_directory(state, number) / ADAPTER, again, differences, seconds)


def _intact(store: Store, state: Path, number: int) -> Manifest:
    """The manifest of a version whose every byte is as it was sealed."""
    registered = store.read("SELECT manifest_sha256 FROM versions WHERE id = ?", (number,))
    if not registered:
        update = store.read("SELECT state FROM updates WHERE id = ?", (number,))
        if not update:
            raise unknown_update(number)
        raise UpdateError(
            f"Update {number} left no version ({update[0]['state']}), so there is nothing to compare with. See: "
            "selflearn versions list."
        )
    if (removal := removal_of(store.connection(), number)) is not None:
        raise VersionRemoved(
            f"Version {number} was {removal}: its bytes are not there any more, to compare with or to continue."
        )
    verify_registered(store.connection(), state, number)
    return read_manifest(version_directory(state, number), registered[0]["manifest_sha256"])


def _carry_out(job: Job, folder: Path, on_progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    write_job(job, folder)
    forecast, started = Forecast(work_of(job)), time.time()

    def saw(line: dict[str, Any]) -> None:
        forecast.saw(line)
        times = {"elapsed_seconds": line["at"] - started, "seconds_left": forecast.seconds_left(line["at"])}
        on_progress({**line, **times})

    report = Worker(folder).wait(job.learning.timeout_seconds, saw)
    if isinstance(report, Cancelled):
        raise UpdateError(f"The worker that made update {job.update} again was cancelled.")
    return report


def _compared(
    number: int, recorded: Path, again: Path, differences: tuple[Difference, ...], seconds: float
) -> Reproduction:
    hashes = sha256_file(recorded), sha256_file(again)
    identical = hashes[0] == hashes[1]
    largest = 0.0 if identical else _max_difference(recorded, again)
    return Reproduction(number, identical, *hashes, largest, differences, seconds)


def _max_difference(recorded: Path, again: Path) -> float | None:
    from safetensors.torch import load_file

    before, now = load_file(recorded), load_file(again)
    if {name: tensor.shape for name, tensor in before.items()} != {name: t.shape for name, t in now.items()}:
        return None
    return max(float((before[name].double() - now[name].double()).abs().max()) for name in before)


def _differences(manifest: Manifest, made_with: Mapping[str, Any]) -> tuple[Difference, ...]:
    """What was recorded with the version and is not so today: libraries, machine, texts, what is kept of the base."""
    recorded = {**_flat(manifest.made_with), **{f"library {name}": found for name, found in manifest.libraries.items()}}
    today = {**_flat(made_with), **{f"library {name}": found for name, found in libraries().items()}}
    return tuple(
        Difference(name, recorded[name], today.get(name))
        for name in sorted(recorded)
        if recorded[name] != today.get(name)
    )


def _flat(made_with: Mapping[str, Any]) -> dict[str, Any]:
    cached = {f"kept file {name}": sha256 for name, sha256 in made_with.get("cache", {}).items()}
    return {**{name.replace("_", " "): value for name, value in made_with.items() if name != "cache"}, **cached}
