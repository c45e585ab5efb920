"""Brings a version from its files into the engine: verified, loaded, proven. Counts what fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from selflearn.errors import (
    EngineError,
    EngineUnavailable,
    ProofFailed,
    SelflearnError,
    VersionDamaged,
    VersionError,
)
from selflearn.monitoring import Metrics
from selflearn.serving import Engine, Generation
from selflearn.store import Store
from selflearn.versions import ADAPTER, note, verify_registered, version_directory
from selflearn.versions.files import sha256_file
from selflearn.versions.rollouts import ACTOR


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the log is looked at, when what failed is tried again, and how long a new version waits for an engine
    that is away; in seconds."""

    follow: float = 0.25
    retry: float = 1.0
    patience: float = 120.0


class Opener:
    """Opens versions; everything here blocks."""

    def __init__(
        self,
        *,
        store: Store,
        learner: str,
        state: Path,
        engine: Engine,
        metrics: Metrics,
        now: Callable[[], float],
        pace: Pace,
    ) -> None:
        self._pace = pace
        self._store, self._learner, self._state = store, learner, state
        self._engine, self._metrics, self._now = engine, metrics, now
        self._loaded: dict[int, str] = {}

    def loaded_sha256(self, version: int) -> str | None:
        """SHA-256 (hex) of the adapter that a version was loaded from here; None for the base, and where none was."""
        return self._loaded.get(version)

    def open(self, version: int) -> Generation:
        """Verifies, loads and proves a version; blocking. Raises ``VersionError`` or ``EngineError``, and counts it."""
        try:
            verify_registered(self._store.connection(), self._state, version)
            return self._load(version, version_directory(self._state, version) if version else None)
        except (VersionError, EngineError) as error:
            self._count(error)
            raise

    def open_unregistered(self, version: int, directory: Path) -> Generation:
        """Loads and proves a version that no rollout names yet; blocking. What fails is written down and raised."""
        try:
            return self._load_patiently(version, directory)
        except (VersionError, EngineError) as error:
            self._count(error)
            problem = str(error)
            self._store.write(
                lambda connection: note(
                    connection,
                    learner=self._learner,
                    version=version,
                    action="fail",
                    actor=ACTOR,
                    reason=problem,
                    at=self._now(),
                )
            )
            raise

    def _load(self, version: int, directory: Path | None) -> Generation:
        try:
            if directory is not None:
                self._loaded[version] = sha256_file(directory / ADAPTER)
            return self._engine.open_generation(version, directory)
        except SelflearnError:
            raise
        except Exception as error:  # whatever a library raises, as when memory runs out: what is served goes on
            raise EngineError(f"Version {version} could not be opened: {type(error).__name__}: {error}.") from error

    def _load_patiently(self, version: int, directory: Path) -> Generation:
        """Waits a while for an engine that is away: training took longer than it takes to come back."""
        deadline = time.monotonic() + self._pace.patience
        while True:
            try:
                return self._load(version, directory)
            except EngineUnavailable:
                if time.monotonic() > deadline:
                    raise
            time.sleep(self._pace.retry)

    def _count(self, error: SelflearnError) -> None:
        if isinstance(error, EngineUnavailable):
            return  # no failure of a version
        damaged, proof = isinstance(error, VersionDamaged), isinstance(error, ProofFailed)
        self._metrics.version_failures.labels("damaged" if damaged else "proof" if proof else "engine").inc()
