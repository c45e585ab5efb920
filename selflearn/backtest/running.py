"""One backtest: every configuration in turn, each result written down when it is there, and all of them side by side.

The directory of results has ``results.json``, the plot, and a file for each finished configuration, so that the same
backtest begun again goes on where it was interrupted. Copies of the record lie in ``work`` meanwhile and are removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from selflearn.backtest.configurations import RECORDED, Configuration
from selflearn.backtest.replay import Machine, replay
from selflearn.backtest.results import Result, Row, Step, summary
from selflearn.backtest.stage import Start, model_of, prepare_start
from selflearn.errors import Conflict, StateError
from selflearn.versions.files import remove_tree

RESULTS: Final = "results.json"
_PLAN: Final = "plan.json"
_FINISHED: Final = "configurations"
_WORK: Final = "work"


@dataclass(frozen=True, slots=True)
class Options:
    """What to replay and how; see :func:`~selflearn.backtest.history.read_history` and
    :class:`~selflearn.backtest.replay.Machine`. ``model`` is the setting ``serving.model``."""

    state: Path
    learner: str
    model: str
    updates: str | None = None
    last: int | None = None
    device: str | None = None
    measured: int = 16


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a backtest is: ``done`` is the share of the work, ``seconds_left`` None while nobody can know."""

    configuration: str
    update: int
    phase: str
    done: float
    seconds_left: float | None


Tell = Callable[[Progress], None]


def backtests_directory(state: Path) -> Path:
    """Where the results lie that were given no other place."""
    return state / "backtests"


def run(
    options: Options,
    configurations: Sequence[Configuration],
    directory: Path,
    tell: Tell = lambda progress: None,
    now: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """Replays the history under every configuration; returns what is in ``results.json`` as well.

    A configuration whose result lies in ``directory`` is not replayed again. With ``KeyboardInterrupt`` the finished
    ones are kept, and the result says that it was ``interrupted``. Raises :class:`~selflearn.errors.Conflict` if the
    directory has results of another history, or another backtest uses it; besides as
    :func:`~selflearn.backtest.stage.prepare_start` and :func:`~selflearn.backtest.stage.model_of`.
    """
    with _held(directory) as work:
        state, learner = options.state, options.learner
        start = prepare_start(state, work / "start", learner, updates=options.updates, last=options.last)
        machine = Machine(model_of(start.history, options.model, state), options.device, options.measured)
        for configuration in configurations:  # what cannot work is told before hours of work
            for update in start.history.updates:
                configuration.settings(update.config)
        _keep_plan(directory, start, options)
        todo = [each for each in configurations if not _file(directory, each).is_file()]
        watch = _Watch(start, len(todo), tell)
        interrupted = False
        try:
            for number, configuration in enumerate(todo):
                watch.begin(number, configuration)
                result = replay(start, configuration, work / f"{number:03d}", machine, watch.saw)
                _write(_file(directory, configuration), asdict(result))
        except KeyboardInterrupt:
            interrupted = True
        finished = [_read(_file(directory, each), each) for each in configurations if _file(directory, each).is_file()]
        found = {"interrupted": interrupted, "created_at": now(), **_told(start, finished, options)}
        _write(directory / RESULTS, found)
    return {"directory": str(directory.absolute()), **found}


@contextmanager
def _held(directory: Path) -> Iterator[Path]:
    """Holds the directory for this process; gives an empty place in it, which is removed in the end."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise StateError(f"The results cannot be written to {directory}: {error}. Name another place: --to.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        work = directory / _WORK
        remove_tree(work)  # what a killed one left
        work.mkdir(mode=0o700)
        try:
            yield work
        finally:
            remove_tree(work)
    except BlockingIOError:
        raise Conflict(f"Another backtest writes to {directory}. Wait for it, or name another place: --to.") from None
    finally:
        os.close(descriptor)


def _keep_plan(directory: Path, start: Start, options: Options) -> None:
    """Writes down what is replayed, or checks that it is what the results in the directory are about."""
    updates = [[update.number, update.snapshot_digest, update.outcome] for update in start.history.updates]
    plan: dict[str, Any] = {"base_sha256": start.history.base_sha256, "updates": updates}
    plan |= {"device": options.device, "measured": options.measured}
    path = directory / _PLAN
    if path.is_file() and json.loads(path.read_bytes()) != plan:
        raise Conflict(
            f"{directory} has results of another history, or of other options: its {_PLAN} differs. Expected the same "
            "to go on with it; name a new place for another backtest: --to."
        )
    _write(path, plan)


def _file(directory: Path, configuration: Configuration) -> Path:
    told = json.dumps(dict(configuration.changes), sort_keys=True)
    return directory / _FINISHED / f"{hashlib.sha256(told.encode()).hexdigest()[:12]}.json"


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1), encoding="utf-8")
    part.replace(path)


def _read(path: Path, configuration: Configuration) -> Result:
    """A finished result, under the name that its configuration has now."""
    found = json.loads(path.read_bytes())
    lists = {
        "steps": tuple(Step(**step) for step in found["steps"]),
        "rows": tuple(Row(row["after"], row["version"], tuple(row["losses"])) for row in found["rows"]),
        "columns": tuple(found["columns"]),
        "differences": tuple(found["differences"]),
    }
    return Result(**{**found, **lists, "name": configuration.name})


def _told(start: Start, finished: Sequence[Result], options: Options) -> dict[str, Any]:
    history = start.history
    recorded = {update.number: update.outcome for update in history.updates}
    baseline = next((summary(result)["identical"] for result in finished if result.name == RECORDED), None)
    return {
        "judge_only": False,
        "learner": options.learner,
        "base_sha256": history.base_sha256,
        "updates": list(recorded),
        "recorded": {str(number): outcome for number, outcome in recorded.items()},
        "skipped": {str(number): outcome for number, outcome in history.skipped.items()},
        "missing": dict(start.timeline.missing),
        "identical": baseline,
        "configurations": [{**asdict(result), "summary": summary(result)} for result in finished],
    }


class _Watch:
    """Turns what workers say into progress: an update's share of the work is its share of the recorded time."""

    def __init__(self, start: Start, configurations: int, tell: Tell) -> None:
        updates = start.history.updates
        seconds = [float(update.report.get("seconds", 0.0)) or 1.0 for update in updates]
        self._before = {update.number: sum(seconds[:n]) / sum(seconds) for n, update in enumerate(updates)}
        self._share = {update.number: each / sum(seconds) for update, each in zip(updates, seconds, strict=True)}
        self._configurations, self._tell = configurations, tell
        self._began = time.monotonic()
        self._number, self._name, self._done = 0, "", 0.0

    def begin(self, number: int, configuration: Configuration) -> None:
        self._number, self._name = number, configuration.name

    def saw(self, update: int, line: Mapping[str, Any]) -> None:
        """Takes in a progress line of the worker that carries out ``update``."""
        within = line["step"] / line["steps"] if line.get("steps") else 0.0
        done = (self._number + self._before[update] + within * self._share[update]) / self._configurations
        self._done = max(self._done, done)  # before and after its steps an update says nothing of how far it is
        spent = time.monotonic() - self._began
        left = spent / self._done * (1.0 - self._done) if self._done else None
        self._tell(Progress(self._name, update, str(line["phase"]), self._done, left))
