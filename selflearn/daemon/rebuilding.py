"""Carries a rebuild to its end: each update that saw something forgotten is made again without it, one by one.

It is the recorded update once more: its settings, seed and roles, without the forgotten examples, over what the update
before it has become. The gate judges it with the limits of now. The examples of one that does not pass are fresh again
and wait for an update of their own. In the end a certificate says what came of it all.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from apscheduler.schedulers.background import BackgroundScheduler

from selflearn import overview
from selflearn.config import JudgingSettings, LearningSettings
from selflearn.daemon.jobs import Base, configuration, recorded_settings
from selflearn.daemon.steps import Opened, open_next
from selflearn.errors import Conflict, SelflearnError, UpdateError
from selflearn.experience import Snapshot, recorded_roles
from selflearn.store import Store, rows
from selflearn.versions import held, open_update, served
from selflearn.versions.certificates import follow
from selflearn.versions.forgetting import end_broken_off
from selflearn.versions.rebuilds import (
    ACTOR,
    Rebuild,
    note_outcome,
    open_rebuild,
    pass_over,
    require_no_rebuild,
    save_rebuild,
)
from selflearn.versions.rollouts import lineage

#: What an update says that is made again.
TRIGGER: Final = "rebuild"
LOOK_SECONDS: Final = 1.0

logger = logging.getLogger(__name__)


def open_update_for(
    connection: sqlite3.Connection,
    learner: str,
    *,
    trigger: str,
    base: Base,
    learning: LearningSettings,
    judging: JudgingSettings,
    now: Callable[[], float] = time.time,
) -> Opened:
    """Opens the next update, in the caller's transaction: with the trigger ``rebuild`` the next one of the rebuild.

    Raises :class:`Conflict` for another one while there is a rebuild, and for a rebuild while there is none; else as
    :func:`open_next`.
    """
    if trigger == TRIGGER:
        return open_remake(connection, learner, base=base, learning=learning, judging=judging, now=now)
    require_no_rebuild(connection, learner)
    return open_next(connection, learner, trigger=trigger, base=base, learning=learning, judging=judging, now=now)


def open_remake(
    connection: sqlite3.Connection,
    learner: str,
    *,
    base: Base,
    learning: LearningSettings,
    judging: JudgingSettings,
    now: Callable[[], float] = time.time,
) -> Opened:
    """Opens the next update of the rebuild, over what is served, in the caller's transaction.

    Its seed, roles and learning settings are the recorded ones (those of now where this selflearn does not know the
    recorded ones), on the device of now. Raises :class:`Conflict` if there is nothing to be made again.
    """
    rebuild = open_rebuild(connection, learner)
    if rebuild is None or rebuild.erasing or not rebuild.updates:
        raise Conflict("There is nothing to be made again. See: selflearn learn status.", code="nothing_to_rebuild")
    number, parent = rebuild.updates[0], served(connection, learner)
    (row,) = rows(connection, "SELECT seed, config, report, newest_example FROM updates WHERE id = ?", (number,))
    config, report = json.loads(row["config"]), json.loads(row["report"] or "{}")
    recorded = _recorded(number, config, learning)
    recorded = recorded.model_copy(update={"threads": int(report.get("threads", recorded.threads))})
    rate_factor = float(config.get("rate_factor", 1.0))
    snapshot = _roles(connection, learner, rebuild)
    update = open_update(
        connection,
        learner,
        parent=parent,
        trigger=TRIGGER,
        seed=int(row["seed"]),
        config=configuration(base, recorded, judging, rate_factor),
        snapshot=snapshot,
        now=now,
    )
    # It has looked at nothing that the first one had not: what came since still asks for an update.
    connection.execute(
        "UPDATE updates SET rebuild_of = ?, newest_example = ? WHERE id = ?", (number, row["newest_example"], update)
    )
    return Opened(update, parent, int(row["seed"]), snapshot, rate_factor, recorded)


def advance(connection: sqlite3.Connection, learner: str, judging: JudgingSettings) -> Rebuild | None:
    """Notes what became of the last update of the rebuild, and passes over those of which too little is left.

    Returns the rebuild, without ``updates`` if it is done; None if there is none, or if it has to wait.
    """
    before = open_rebuild(connection, learner)
    if before is None or before.erasing:
        return None
    rebuild = note_outcome(connection, learner, before)
    while rebuild.updates and (problem := _too_little(_roles(connection, learner, rebuild), judging)):
        rebuild = pass_over(rebuild, "empty", problem)
    if rebuild != before:
        save_rebuild(connection, learner, rebuild)
    return rebuild


def finish(connection: sqlite3.Connection, learner: str, rebuild: Rebuild, at: float) -> list[int]:
    """Ends a rebuild with a certificate for each forgetting that it belongs to; returns their numbers."""
    made = [asdict(each) for each in rebuild.made]
    numbers = [follow(connection, number, made, actor=ACTOR, at=at) for number in rebuild.certificates]
    save_rebuild(connection, learner, None)
    return numbers


class Rebuilding:
    """Looks every second whether an update has to be made again, and starts it."""

    def __init__(
        self,
        *,
        store: Store,
        learner: str,
        judging: Callable[[], JudgingSettings],
        running: Callable[[], bool],
        start: Callable[[], Any],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._learner, self._judging = store, learner, judging
        self._running, self._start, self._now = running, start, now

    def begin(self, scheduler: BackgroundScheduler) -> None:
        """Looks from now on; what a killed daemon left begins again."""
        if end_broken_off(self._store, self._learner):
            logger.warning("a forgetting was broken off: what is left of it is still there; order it once more")
        scheduler.add_job(
            self.look,
            "interval",
            seconds=LOOK_SECONDS,
            misfire_grace_time=None,
            coalesce=True,
            max_instances=1,
            next_run_time=datetime.now().astimezone(),
        )

    def look(self) -> None:
        """Starts the next update of the rebuild if it is time, or ends the rebuild."""
        try:
            if not self._waits():
                self._go_on()
        except SelflearnError as error:  # it is tried again
            logger.warning("what was forgotten cannot be taken out of the versions yet: %s", error)

    def _waits(self) -> bool:
        connection = self._store.connection()
        rebuild = open_rebuild(connection, self._learner)
        if rebuild is None or rebuild.erasing or self._running():
            return True
        return overview.is_paused(self._store) or held(connection, self._learner) is not None

    def _go_on(self) -> None:
        rebuild = self._store.write(lambda connection: advance(connection, self._learner, self._judging()))
        if rebuild is None:
            return
        if rebuild.updates:
            self._start()
            return
        numbers = self._store.write(lambda it: finish(it, self._learner, rebuild, self._now()))
        told = {"made_again": [asdict(each) for each in rebuild.made], "certificates": numbers}
        logger.info("the versions know nothing any more of what was forgotten", extra={"fields": told})


def _recorded(number: int, config: dict[str, Any], learning: LearningSettings) -> LearningSettings:
    try:
        return recorded_settings(number, config)[0]
    except UpdateError as error:
        logger.warning("made again with the settings of now: %s", error)
        return learning


def _roles(connection: sqlite3.Connection, learner: str, rebuild: Rebuild) -> Snapshot:
    line = lineage(connection, served(connection, learner))
    return recorded_roles(connection, learner, rebuild.updates[0], lineage=line, without=rebuild.without)


def _too_little(snapshot: Snapshot, judging: JudgingSettings) -> str | None:
    """Why an update with these examples would come to nothing; None if it may come to something."""
    if not snapshot.train:
        return "nothing is left to train on"
    if len(snapshot.holdout) < judging.min_holdout:
        return (
            f"{len(snapshot.holdout)} examples are left to judge on, judging.min_holdout asks for {judging.min_holdout}"
        )
    return None
