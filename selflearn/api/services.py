"""What the HTTP interface needs from the rest of the daemon, composed by the daemon.

``LearningControl.status()`` has this shape (all times unix seconds)::

    {"enabled": bool, "paused": bool,
     "waiting_for": str | None,                      what the next update waits for; None while one runs
     "why_not": str | None,                          that, and what keeps data from it; None while one runs
     "fresh": int, "needed": int,                    new examples there are, and needed for an update
     "running": None | {"update": int, "trigger": str, "phase": str, "step": int, "steps": int,
                        "loss": float | None, "started_at": float, "elapsed_seconds": float,
                        "paused_seconds": float,    so long it has waited for serving; phase "paused" while it does
                        "seconds_left": float | None},  without pauses to come; None as long as nobody can know
     "last": None | {"update": int, "state": str, "reason": str | None, "finished_at": float | None},
     "rebuild": None | {"began_at": float, "left": [int], "made": [{"update": int, "became": int | None,
                        "outcome": str, "reason": str | None}], "certificate": int | None},
                                                    updates that are made again without what was forgotten
     "rate_factor": float}                           of the learning rate; below 1 after updates that went too far
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from selflearn.api.keyring import Keyring
from selflearn.config import ApiSettings, ExperienceSettings, ServingSettings, VersionsSettings
from selflearn.monitoring.metrics import Metrics
from selflearn.serving import Traffic
from selflearn.store import Store


class LearningControl(Protocol):
    """Starts and steers updates. Every method is called from a thread that isn't the event loop's."""

    def learn_now(self, trigger: str, dry_run: bool = False) -> int:
        """Starts an update and returns its number; raises ``UpdateRunning`` or ``NotEnoughExamples``.

        With ``dry_run`` it is judged and not promoted by itself.
        """
        ...

    def status(self) -> dict[str, Any]:
        """Returns the shape in this module's docstring."""
        ...

    def pause(self, actor: str) -> None: ...

    def resume(self, actor: str) -> None: ...

    def cancel(self) -> bool:
        """Stops the running update; False when none runs."""
        ...

    def end_update(self, number: int, reason: str) -> None:
        """Stops update ``number`` if it runs, and returns once it has ended and its files are gone.

        Raises ``UpdateRunning`` if that takes too long.
        """
        ...


class RolloutControl(Protocol):
    """Changes which version is served."""

    def loaded_sha256(self, version: int) -> str | None:
        """SHA-256 (hex) of the adapter that a version was loaded from; None for the base, and where none was."""
        ...

    async def roll_back(
        self, to: int | None, actor: str, reason: str, dry_run: bool, expected: int | None = None
    ) -> dict[str, Any]:
        """Goes back to version ``to`` (None: the one served before) and waits until it serves.

        With ``expected``, only if that version is served. Returns ``{"from_version", "to_version", "dry_run"}``;
        raises ``NotFound``, ``Conflict``, ``VersionError``.
        """
        ...

    async def promote(
        self, version: int | None, actor: str, reason: str, dry_run: bool, force: bool = False
    ) -> dict[str, Any]:
        """Serves a registered version (None: the canary); returns and raises as :meth:`roll_back`.

        With ``force`` also an update that the gate did not promote; without it, that raises ``RefusedByGate``.
        """
        ...

    async def start_canary(
        self, version: int, share: float, for_seconds: float | None, actor: str, reason: str, dry_run: bool
    ) -> dict[str, Any]:
        """Lets a version answer ``share`` (0 to 1) of the conversations and waits until it does.

        Returns ``{"version", "served", "share", "until", "dry_run"}``; raises as :meth:`roll_back`.
        """
        ...

    async def load(self, version: int) -> None:
        """Lets a version answer to its own name beside what is served.

        Raises ``NotFound``, ``VersionError``, ``EngineError``.
        """
        ...

    async def withdraw(self, versions: Collection[int]) -> None:
        """Serves what the rollout log says, and lets go of versions that must not answer any more."""
        ...

    async def abort_canary(self, actor: str, reason: str, dry_run: bool) -> dict[str, Any]:
        """Ends the canary. Returns ``{"version", "served", "dry_run"}``; raises ``Conflict`` when none runs."""
        ...


class Activity:
    """How busy serving is: updates start when nobody waits for an answer, and give way when somebody waits too long.

    Thread-safe. ``now`` is the time of day, ``clock`` measures waits; both in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic) -> None:
        self._now, self._clock = now, clock
        self._lock = threading.Lock()
        self._last = now()
        self._tickets = itertools.count()
        self._open: set[int] = set()
        self._waiting: dict[int, float] = {}  # when those arrived that have no token yet
        self._slowest = 0.0

    @property
    def running(self) -> int:
        """Chat requests between arrival and last byte."""
        return len(self._open)

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last chat request ended (or the daemon started); 0 while one runs."""
        with self._lock:
            return 0.0 if self._open else max(0.0, self._now() - self._last)

    def begin(self) -> int:
        """A request arrived; returns the ticket by which the other calls know it."""
        with self._lock:
            ticket = next(self._tickets)
            self._open.add(ticket)
            self._waiting[ticket] = self._clock()
            return ticket

    def first_token(self, ticket: int) -> None:
        """It got its first token. Later ones change nothing."""
        with self._lock:
            self._waited(ticket)

    def end(self, ticket: int) -> None:
        """It is over, with or without tokens."""
        with self._lock:
            self._waited(ticket)
            self._open.discard(ticket)
            self._last = self._now()

    def take_longest_wait(self) -> float:
        """The longest wait for a first token since the last call, of those who still wait as well; 0 if nobody did."""
        with self._lock:
            waits = [self._clock() - arrived for arrived in self._waiting.values()]
            longest, self._slowest = max([self._slowest, *waits]), 0.0
            return longest

    def _waited(self, ticket: int) -> None:
        if ticket in self._waiting:
            self._slowest = max(self._slowest, self._clock() - self._waiting.pop(ticket))


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a request handler may use. ``state`` is the state directory, ``context_length`` is in tokens.

    Without a ``keyring`` every caller is an operator.
    """

    store: Store
    learner: str
    state: Path
    traffic: Traffic
    tokenizer: Any
    stop_ids: tuple[int, ...]
    context_length: int
    model_name: str
    metrics: Metrics
    learning: LearningControl
    rollouts: RolloutControl
    serving: ServingSettings
    api: ApiSettings
    experience: ExperienceSettings
    versions: VersionsSettings = field(default_factory=VersionsSettings)
    keyring: Keyring | None = None
    now: Callable[[], float] = time.time
    activity: Activity = field(default_factory=Activity)
    started_at: float = field(default_factory=time.time)
    fingerprints: dict[int, str] = field(default_factory=dict)  # of versions that were asked for, see api/answering.py
