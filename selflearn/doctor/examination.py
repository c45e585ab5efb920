"""All checks, in the order in which a start of the daemon would fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from selflearn.config import Settings
from selflearn.doctor.finding import Finding
from selflearn.doctor.machine import check_libraries, check_memory
from selflearn.doctor.model import check_gpu, check_model, computes_on_gpu, needs, weights_bytes
from selflearn.doctor.service import check_access, check_keys, check_port
from selflearn.doctor.state import check_clock, check_database, check_directory, check_disk, check_fsync, check_versions
from selflearn.judging.canary_prompts import load_canaries
from selflearn.models.library import locate

#: What the embedded model takes on disk, or one whose size nobody knows yet.
EXPECTED_MODEL_BYTES = 300_000_000


def examine(settings: Settings, *, now: float, ask: Callable[[], str | None], hashes: bool = True) -> Iterator[Finding]:
    """What each check found, one after the other; raises ``ConfigurationError`` for a canary file that is wrong.

    ``ask`` says who answers at the port, as :func:`~selflearn.doctor.service.check_port` takes it; without ``hashes``
    no large file is read whole.
    """
    load_canaries(settings.judging.canary_file)
    yield Finding("settings", "ok", "right")
    serving, state, learner = settings.serving, settings.state, settings.learner
    yield check_libraries()
    yield check_directory(state)
    yield check_disk(state, _to_come(locate(serving.model, state)))
    yield check_fsync(state)
    yield check_clock(state, learner, now)
    yield check_database(state)
    yield check_versions(state, learner)
    yield check_model(serving, state, hashes=hashes)
    running = ask()
    # one that runs has the memory that it needs already
    needed = needs(serving, state) if running is None else None
    yield check_gpu(serving, needed)
    yield check_memory(None if computes_on_gpu(serving) else needed)
    yield check_keys(settings.api)
    yield check_access(serving, settings.api)
    yield check_port(serving, state, running)


def _to_come(model: Path) -> int:
    """Bytes that the model still takes on disk."""
    return 0 if weights_bytes(model, None) else EXPECTED_MODEL_BYTES
