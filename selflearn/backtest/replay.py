"""Carries one configuration through the history: every recorded update anew, by the steps that the daemon takes."""

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from selflearn.backtest.configurations import Configuration
from selflearn.backtest.history import Deed, History, RecordedUpdate
from selflearn.backtest.measuring import Losses, Question, Text, measure
from selflearn.backtest.results import Outcome, Result, Row, Step, measured_of
from selflearn.backtest.stage import Start, number_next, staged
from selflearn.backtest.timeline import LATER, bring, take_away
from selflearn.config import JudgingSettings, LearningSettings
from selflearn.daemon.jobs import Base, make_job
from selflearn.daemon.steps import Opened, judge, open_next, register_sealed, seal_candidate
from selflearn.errors import NotEnoughExamples, SelflearnError, WorkerFailed
from selflearn.experience import Snapshot
from selflearn.judging import Verdict
from selflearn.learning.job import write_job
from selflearn.learning.process import Cancelled, Worker
from selflearn.store import Store, rows
from selflearn.versions import ADAPTER, append, close_update, served, version_directory, work_directory
from selflearn.versions.files import remove_tree, sha256_file
from selflearn.versions.outcomes import past_of

TRIGGER: Final = "backtest"

#: Told with the number of the update that is carried out, and a line of its worker's progress.
Saw = Callable[[int, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the base model is, and on which device everything runs (None: on the one that was recorded).

    ``measured`` is how many examples of each recorded update are measured in the end.
    """

    model: Path
    device: str | None
    measured: int


@dataclass(frozen=True, slots=True)
class _Stage:
    """One configuration under way in a state directory of its own. ``differences`` collects what was not replayed."""

    directory: Path
    store: Store
    history: History
    configuration: Configuration
    machine: Machine
    differences: list[str] = field(default_factory=list)

    def base(self, recorded: RecordedUpdate) -> Base:
        device = self.machine.device or str(recorded.config["device"])
        history = self.history
        return Base(history.base_model, self.machine.model, history.base_sha256, device, str(recorded.config["dtype"]))

    def served(self) -> int:
        return served(self.store.connection(), self.history.learner)


@dataclass(frozen=True, slots=True)
class _Judged:
    """What became of an update. ``report`` is empty if its worker failed."""

    outcome: Outcome
    reason: str
    report: Mapping[str, Any] = field(default_factory=dict)
    verdict: Verdict | None = None


def replay(start: Start, configuration: Configuration, directory: Path, machine: Machine, saw: Saw) -> Result:
    """Replays the history under one configuration in ``directory``, which is made and removed again.

    An update that fails is an outcome like others; raises what hinders all of them (a full disk, no memory).
    """
    with staged(start, directory) as store:
        stage = _Stage(directory, store, start.history, configuration, machine)
        steps: list[Step] = []
        before, since = 0, start.history.updates[0].started_at
        for recorded in start.history.updates:
            _do(stage, [deed for deed in start.history.deeds if since < deed.at <= recorded.started_at])
            _let_time_pass(stage, start, before, recorded.number)
            steps.append(_step(stage, recorded, functools.partial(saw, recorded.number)))
            before, since = recorded.number, recorded.started_at
        _do(stage, [deed for deed in start.history.deeds if deed.at > since])
        saw(start.history.updates[-1].number, {"phase": "measuring all versions"})
        return Result(
            name=configuration.name,
            changes=configuration.changes,
            steps=tuple(steps),
            columns=tuple(update.number for update in start.history.updates),
            rows=_matrix(stage, start, steps) if machine.measured else (),
            states=_states(stage),
            differences=tuple(stage.differences),
        )


def _do(stage: _Stage, deeds: Sequence[Deed]) -> None:
    """Does again what operators did, where that version exists here as well."""
    learner = stage.history.learner
    for deed in deeds:
        known = deed.version == 0 or stage.store.read("SELECT 1 FROM versions WHERE id = ?", (deed.version,))
        if not known:
            stage.differences.append(
                f"the recorded {deed.action} to version {deed.version} was not made: that version does not exist here"
            )
        elif stage.served() != deed.version:
            stage.store.write(functools.partial(_repeat, learner=learner, deed=deed))


def _repeat(connection: sqlite3.Connection, *, learner: str, deed: Deed) -> None:
    append(
        connection,
        learner=learner,
        version=deed.version,
        action="rollback",
        actor=TRIGGER,
        reason=f"as recorded: {deed.action}",
        now=lambda: deed.at,
    )


def _let_time_pass(stage: _Stage, start: Start, before: int, number: int) -> None:
    coming, going = start.timeline.coming(number), start.timeline.going(before, number)

    def work(connection: sqlite3.Connection) -> None:
        bring(connection, stage.history.learner, coming)
        take_away(connection, going)
        number_next(connection, number)

    stage.store.write(work)


def _step(stage: _Stage, recorded: RecordedUpdate, saw: Callable[[Mapping[str, Any]], None]) -> Step:
    learning, judging = stage.configuration.settings(recorded.config)
    base, parent = stage.base(recorded), stage.served()
    open_it = functools.partial(
        open_next,
        learner=stage.history.learner,
        trigger=TRIGGER,
        base=base,
        learning=learning,
        judging=judging,
        now=lambda: recorded.started_at,
    )
    try:
        opened = stage.store.write(open_it)
    except NotEnoughExamples as error:
        return _told(recorded, parent, parent, None, _Judged("not_enough", str(error)), None)
    work = work_directory(stage.directory, opened.update)
    try:
        judged = _judged(stage, opened, base, learning, judging, work, saw)
        adapter = _settled(stage, opened, base, judged, work, recorded.started_at)
    finally:
        remove_tree(work)
    return _told(recorded, parent, stage.served(), opened.snapshot, judged, adapter)


def _told(
    recorded: RecordedUpdate,
    parent: int,
    served_now: int,
    snapshot: Snapshot | None,
    judged: _Judged,
    adapter: str | None,
) -> Step:
    same = snapshot is not None and snapshot.digest == recorded.snapshot_digest
    same_end = (judged.outcome, adapter) == (recorded.outcome, recorded.adapter_sha256)
    return Step(
        update=recorded.number,
        outcome=judged.outcome,
        reason=judged.reason,
        parent=parent,
        served=served_now,
        examples={} if snapshot is None else {role: len(found) for role, found in snapshot.roles().items()},
        measured=measured_of({} if judged.verdict is None else judged.verdict.as_dict()),
        seconds=float(judged.report.get("seconds", 0.0)),
        tokens=int(judged.report.get("training", {}).get("tokens", 0)),
        adapter_sha256=adapter,
        same_examples=same,
        identical=same and same_end and _same_numbers(judged.report, recorded.report),
    )


def _judged(
    stage: _Stage,
    opened: Opened,
    base: Base,
    learning: LearningSettings,
    judging: JudgingSettings,
    work: Path,
    saw: Callable[[Mapping[str, Any]], None],
) -> _Judged:
    """Trains in a worker process and asks the gate."""
    job = make_job(
        stage.directory,
        update=opened.update,
        parent=opened.parent,
        seed=opened.seed,
        snapshot=opened.snapshot,
        learner=stage.history.learner,
        base=base,
        learning=learning,
        judging=judging,
        rate_factor=opened.rate_factor,
        past=past_of(stage.store.connection(), stage.history.learner, opened.parent),
    )
    write_job(job, work)
    try:
        report = Worker(work).wait(learning.timeout_seconds, saw)
    except WorkerFailed as error:
        return _Judged("failed", str(error))
    if isinstance(report, Cancelled):
        raise SelflearnError("The worker was cancelled, which nobody asked for.")
    verdict = judge(report, judging)
    outcome: Outcome = {"promote": "promoted", "refuse": "refused"}.get(verdict.outcome, "inconclusive")  # type: ignore[assignment]
    return _Judged(outcome, verdict.reason, report, verdict)


def _settled(stage: _Stage, opened: Opened, base: Base, judged: _Judged, work: Path, at: float) -> str | None:
    """Promotes or closes the update; returns the SHA-256 of the adapter that is served from now on, if it is one."""
    report, verdict = judged.report, judged.verdict
    if judged.outcome == "promoted" and verdict is not None:
        sealed = seal_candidate(
            stage.directory, work, base=base, snapshot=opened.snapshot, report=report, verdict=verdict, created_at=at
        )
        stage.store.write(lambda connection: register_sealed(connection, sealed, report, verdict, lambda: at))
        return sha256_file(sealed.directory / ADAPTER)
    closed: Any = judged.outcome
    stage.store.write(
        lambda connection: close_update(
            connection,
            opened.update,
            state=closed,
            report=report or None,
            reason=judged.reason,
            verdict=None if verdict is None else verdict.as_dict(),
            now=lambda: at,
        )
    )
    return None


def _same_numbers(report: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    """Compares by text, since a NaN does not equal itself."""
    mine, theirs = (json.dumps(each.get("measurements"), sort_keys=True) for each in (report, recorded))
    return mine == theirs


def _states(stage: _Stage) -> dict[str, int]:
    found = stage.store.read(
        "SELECT state, count(*) AS number FROM examples WHERE learner = ? AND reason IS NOT ? GROUP BY state",
        (stage.history.learner, LATER),
    )
    return {row["state"]: row["number"] for row in found}


def _matrix(stage: _Stage, start: Start, steps: Sequence[Step]) -> tuple[Row, ...]:
    """The losses of every version that came to be served, on what the recorded updates taught up to then."""
    places = [(0, start.version, len(steps)), *((step.update, step.served, n + 1) for n, step in enumerate(steps))]
    if stage.served() != steps[-1].served:  # somebody rolled back in the end
        places.append((steps[-1].update, stage.served(), len(steps)))
    wanted: dict[int, int] = {}
    for _, version, columns in places:
        wanted[version] = max(columns, wanted.get(version, 0))
    losses = _losses(stage, start, wanted)
    return tuple(
        Row(after, version, tuple(loss if n < columns else None for n, loss in enumerate(losses[version])))
        for after, version, columns in places
    )


def _losses(stage: _Stage, start: Start, wanted: Mapping[int, int]) -> dict[int, list[float | None]]:
    """For each version the losses on the first so many columns."""
    last = start.history.updates[-1]
    learning, _ = stage.configuration.settings(last.config)
    base = stage.base(last)
    question = Question(
        model=base.directory,
        device=base.device,
        dtype=base.dtype,
        threads=learning.threads,
        max_length=learning.max_length,
        columns=tuple(_texts(stage.store, _spread(column, stage.machine.measured)) for column in start.columns),
        versions=tuple(
            (version_directory(stage.directory, version) if version else None, tuple(range(columns)))
            for version, columns in wanted.items()
        ),
    )
    measured: Losses = measure(question)
    return dict(zip(wanted, measured, strict=True))


def _spread(ids: Sequence[int], most: int) -> Sequence[int]:
    """At most so many of them, evenly spread."""
    return ids if len(ids) <= most else [ids[n * len(ids) // most] for n in range(most)]


def _texts(store: Store, ids: Sequence[int]) -> tuple[Text, ...]:
    found = rows(
        store.connection(),
        "SELECT messages, target FROM examples WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id",
        (json.dumps(list(ids)),),
    )
    return tuple(Text(json.loads(row["messages"]), row["target"]) for row in found)
