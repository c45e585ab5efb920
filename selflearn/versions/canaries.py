"""Canaries: a registered version answers a share of the conversations until it is promoted, aborted, or its time is up.

All of it is rows in the rollout log, so it works with the daemon down; the daemon follows the log. With ``dry_run``
everything is checked and nothing written: then a connection for reading will do.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from selflearn.errors import BadRequest, Conflict
from selflearn.store import rows
from selflearn.store.audit import write_audit
from selflearn.versions.overrides import override, was_not_promoted
from selflearn.versions.pins import end_hold
from selflearn.versions.removal import unknown_version
from selflearn.versions.rollouts import (
    ACTOR,
    Canary,
    Change,
    append,
    end_canary,
    last_canary,
    running_canary,
    served,
    verify_target,
    write_row,
)

MAX_SECONDS: Final = 365 * 86400.0


@dataclass(frozen=True, slots=True)
class Trial:
    """What a canary changes: ``share`` of the conversations go to ``version``, the others stay with ``served``.

    ``until`` is unix seconds, None for no end of its own.
    """

    version: int
    served: int
    share: float
    until: float | None


@dataclass(frozen=True, slots=True)
class Abort:
    """An ended canary, and the version that answers everyone now."""

    version: int
    served: int


def start_canary(
    connection: sqlite3.Connection,
    *,
    learner: str,
    version: int,
    share: float,
    for_seconds: float | None,
    actor: str,
    reason: str,
    state: Path,
    now: Callable[[], float] = time.time,
    dry_run: bool = False,
) -> Trial:
    """Lets a version answer a share of the conversations; a running canary of this version gets the new share and end.

    Raises ``BadRequest`` (share, time), ``NotFound`` (never promoted), ``Conflict`` (served, another canary runs),
    ``VersionDamaged`` or ``VersionRemoved``; nothing changed then.
    """
    _check_bounds(share, for_seconds)
    present = _check_target(connection, learner, version, state)
    at = now()
    running = running_canary(connection, learner, at)
    if running is not None and running.version != version:
        raise Conflict(
            f"Version {running.version} runs as canary; one at a time is possible. End it first: selflearn rollout "
            "abort, or selflearn rollout promote.",
            code="canary_running",
        )
    until = None if for_seconds is None else at + for_seconds
    if not dry_run:
        end_expired(connection, learner, at)
        end_hold(connection, learner, actor=actor, because=f"version {version} is tried as canary", at=at)
        write_row(
            connection,
            learner=learner,
            version=version,
            action="canary",
            share=share,
            until=until,
            actor=actor,
            reason=reason,
            created_at=at,
        )
        detail = {"learner": learner, "version": version, "share": share, "until": until, "reason": reason}
        write_audit(connection, actor=actor, action="rollout.canary", detail=detail, at=at)
    return Trial(version, present, share, until)


def promote(
    connection: sqlite3.Connection,
    *,
    learner: str,
    version: int | None,
    actor: str,
    reason: str,
    state: Path,
    force: bool = False,
    now: Callable[[], float] = time.time,
    dry_run: bool = False,
) -> Change:
    """Makes a registered version, or without one the running canary, the served one; a canary is over then.

    An update that was not promoted comes into service against the gate, see
    :func:`~selflearn.versions.overrides.override`: mostly that takes ``force``.
    Raises ``Conflict`` (no canary runs, served already), ``NotFound``, ``VersionDamaged`` or ``VersionRemoved``;
    nothing changed then.
    """
    target = _running(connection, learner, now()).version if version is None else version
    if was_not_promoted(connection, learner, target):
        return override(
            connection,
            learner=learner,
            state=state,
            update=target,
            force=force,
            actor=actor,
            reason=reason,
            now=now,
            dry_run=dry_run,
        )
    present = _check_target(connection, learner, target, state)
    if not dry_run:
        append(connection, learner=learner, version=target, action="promote", actor=actor, reason=reason, now=now)
    return Change(from_version=present, to_version=target)


def abort_canary(
    connection: sqlite3.Connection,
    *,
    learner: str,
    actor: str,
    reason: str,
    now: Callable[[], float] = time.time,
    dry_run: bool = False,
) -> Abort:
    """Ends the running canary: the served version answers everyone. Raises ``Conflict`` if none runs."""
    at = now()
    running = _running(connection, learner, at)
    if not dry_run:
        end_canary(connection, learner, running, actor=actor, reason=reason, at=at)
    return Abort(running.version, served(connection, learner))


def abort_broken(
    connection: sqlite3.Connection, learner: str, broken: Canary, reason: str, now: Callable[[], float] = time.time
) -> None:
    """Ends the canary that could not be served, unless another rollout has ended it already."""
    if last_canary(connection, learner) == broken:
        end_canary(connection, learner, broken, actor=ACTOR, reason=reason, at=now())


def end_expired(connection: sqlite3.Connection, learner: str, at: float) -> None:
    """Writes down the end of a canary whose time is up; does nothing if there is none."""
    last = last_canary(connection, learner)
    if last is not None and last.is_over(at):
        end_canary(connection, learner, last, actor=ACTOR, reason="", at=at)


def _check_bounds(share: float, for_seconds: float | None) -> None:
    if not 0 < share < 1:
        raise BadRequest(
            f"The share is {share}; expected a number between 0 and 1, as 0.1 for a tenth of the conversations. "
            "For all of them: selflearn rollout promote N.",
            param="share",
            code="invalid_value",
        )
    if for_seconds is not None and not 0 < for_seconds <= MAX_SECONDS:
        raise BadRequest(
            f"The time is {for_seconds} seconds; expected more than 0 and at most {MAX_SECONDS:.0f} (a year).",
            param="for_seconds",
            code="invalid_value",
        )


def _check_target(connection: sqlite3.Connection, learner: str, version: int, state: Path) -> int:
    """Checks that a version may come into service, and returns the one that is served."""
    present = served(connection, learner)
    if version == present:
        raise Conflict(f"Version {version} is served already; nothing changed.", param="version", code="already_served")
    if version == 0:
        raise Conflict(
            "The base model is no version that passed the gate. To serve it: selflearn rollback 0.",
            param="version",
            code="base_model",
        )
    if not rows(connection, "SELECT 1 FROM versions WHERE id = ? AND learner = ?", (version, learner)):
        raise unknown_version(version)
    verify_target(connection, state, learner, version)
    return present


def _running(connection: sqlite3.Connection, learner: str, at: float) -> Canary:
    found = running_canary(connection, learner, at)
    if found is None:
        raise Conflict(
            "No canary runs; nothing changed. Start one: selflearn rollout canary N --share 0.1.", code="no_canary"
        )
    return found
