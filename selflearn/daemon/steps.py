"""The steps of an update that need no engine and no client: the daemon takes them, and so does a backtest.

opened (roles chosen) → job → worker → judged → sealed → registered, or closed.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from selflearn import overview
from selflearn.config import JudgingSettings, LearningSettings
from selflearn.daemon.jobs import Base, configuration, make_manifest
from selflearn.errors import VersionError
from selflearn.experience import Snapshot, choose_roles
from selflearn.failpoints import reach
from selflearn.judging import Limits, Measurements, Verdict, decide
from selflearn.learning.job import read_job
from selflearn.store import rows
from selflearn.versions import ADAPTER, open_update, register, seal, served, version_directory, write_manifest
from selflearn.versions.files import remove_tree, sha256_file
from selflearn.versions.names import refused_directory
from selflearn.versions.overrides import sweep_candidates
from selflearn.versions.registry import ClosedState
from selflearn.versions.rollouts import lineage

ACTOR = "gate"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """An update that was recorded as running: its number, what it continues, and the examples that it uses.

    ``rate_factor`` scales its learning rate, by what became of the updates before.
    """

    update: int
    parent: int
    seed: int
    snapshot: Snapshot
    rate_factor: float
    learning: LearningSettings


@dataclass(frozen=True, slots=True)
class Sealed:
    """A candidate that became an immutable directory and is registered nowhere yet."""

    update: int
    directory: Path
    manifest_sha256: str


def open_next(
    connection: sqlite3.Connection,
    learner: str,
    *,
    trigger: str,
    base: Base,
    learning: LearningSettings,
    judging: JudgingSettings,
    now: Callable[[], float] = time.time,
) -> Opened:
    """Opens the next update of what is served, in the caller's transaction.

    Raises :class:`~selflearn.errors.NotEnoughExamples` or :class:`~selflearn.errors.UpdateRunning`.
    """
    parent = served(connection, learner)
    sequence = rows(connection, "SELECT seq FROM sqlite_sequence WHERE name = 'updates'")
    seed = learning.seed + 1 + (int(sequence[0]["seq"]) if sequence else 0)
    line = lineage(connection, parent)
    snapshot = choose_roles(connection, learner, lineage=line, judging=judging, learning=learning, seed=seed)
    rate_factor = overview.rate_factor(connection, learner, learning)
    update = open_update(
        connection,
        learner,
        parent=parent,
        trigger=trigger,
        seed=seed,
        config=configuration(base, learning, judging, rate_factor),
        snapshot=snapshot,
        now=now,
    )
    return Opened(update, parent, seed, snapshot, rate_factor, learning)


def judge(report: Mapping[str, Any], judging: JudgingSettings) -> Verdict:
    """The gate's verdict on what a worker measured."""
    return decide(Measurements.from_dict(report["measurements"]), Limits.of(judging))


def seal_candidate(
    state: Path,
    work: Path,
    *,
    base: Base,
    snapshot: Snapshot,
    report: Mapping[str, Any],
    verdict: Verdict,
    created_at: float,
) -> Sealed:
    """Describes the candidate in the job folder ``work`` and moves it to its place among the versions."""
    update, manifest_sha256 = _described(work, base, snapshot, report, verdict, created_at)
    target = version_directory(state, update)
    reach("before-rename")
    seal(work / "candidate", target)
    reach("after-rename")
    return Sealed(update, target, manifest_sha256)


def closing(verdict: Verdict, judging: JudgingSettings) -> tuple[ClosedState, str]:
    """How an update ends that is not promoted, and why; a dry run says what the gate would have done."""
    if judging.dry_run:
        return "inconclusive", f"dry run: the gate would have {_WOULD[verdict.outcome]}: {verdict.reason}"
    return ("refused" if verdict.outcome == "refuse" else "inconclusive"), verdict.reason


_WOULD: Final = {"promote": "promoted it", "refuse": "refused it", "inconclusive": "waited for more data"}


def keep_candidate(
    state: Path,
    work: Path,
    *,
    base: Base,
    snapshot: Snapshot,
    report: Mapping[str, Any],
    verdict: Verdict,
    created_at: float,
    keep: int,
) -> dict[str, Any]:
    """Seals a candidate that is not promoted among the last ``keep`` of its kind; returns the report that says so.

    One that holds numbers that are not finite is not kept. That it cannot be kept changes nothing about its update.
    """
    kept: dict[str, Any] = dict(report)
    try:
        if keep and not report["measurements"]["nonfinite"]:
            update, manifest_sha256 = _described(work, base, snapshot, report, verdict, created_at)
            remove_tree(refused_directory(state, update))
            seal(work / "candidate", refused_directory(state, update))
            kept["kept"] = {"manifest_sha256": manifest_sha256}
        sweep_candidates(state, keep)
    except (OSError, VersionError) as error:
        logger.warning("a candidate that was not promoted cannot be kept: %s", error)
    return kept


def _described(
    work: Path, base: Base, snapshot: Snapshot, report: Mapping[str, Any], verdict: Verdict, created_at: float
) -> tuple[int, str]:
    """Writes the manifest of the candidate in a job folder; returns the update and the manifest's SHA-256 (hex)."""
    job = read_job(work)
    used = snapshot.without({row["id"] for row in report["left_out"]})
    manifest = make_manifest(job, base, used, verdict, made_with=report["made_with"], created_at=created_at)
    return job.update, write_manifest(work / "candidate", manifest)


def register_sealed(
    connection: sqlite3.Connection,
    sealed: Sealed,
    report: Mapping[str, Any],
    verdict: Verdict,
    now: Callable[[], float] = time.time,
) -> None:
    """Makes it a version, which is served from now on; see :func:`selflearn.versions.register`."""
    register(
        connection,
        update_id=sealed.update,
        manifest_sha256=sealed.manifest_sha256,
        adapter_sha256=sha256_file(sealed.directory / ADAPTER),
        report=report,
        verdict=verdict.as_dict(),
        actor=ACTOR,
        now=now,
    )
