"""What is replayed: the recorded updates that came to a verdict, and what people did to the line between them."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from selflearn.daemon.steps import ACTOR
from selflearn.errors import ConfigurationError, NotFound
from selflearn.store import rows

_RANGE: Final = re.compile(r"([0-9]*):([0-9]*)")
_VERDICTS: Final = ("promoted", "refused", "inconclusive")


@dataclass(frozen=True, slots=True)
class RecordedUpdate:
    """One update as it was recorded. ``adapter_sha256`` is None if it was not promoted; times are unix seconds.

    ``newest_example`` is the highest number that an example had when it began.
    """

    number: int
    parent: int
    outcome: str
    config: Mapping[str, Any]
    snapshot_digest: str
    report: Mapping[str, Any]
    verdict: Mapping[str, Any]
    adapter_sha256: str | None
    started_at: float
    newest_example: int


@dataclass(frozen=True, slots=True)
class Deed:
    """A change of what is served that was not the gate's: an operator's rollback or promotion, or a recovery."""

    version: int
    action: str
    at: float


@dataclass(frozen=True, slots=True)
class History:
    """The chosen updates, oldest first, what was done from the first one's start on, and what is passed over.

    ``skipped`` maps the number of an update that ended without a verdict to how it ended.
    """

    learner: str
    base_model: str
    base_sha256: str
    updates: tuple[RecordedUpdate, ...]
    deeds: tuple[Deed, ...]
    skipped: Mapping[int, str]


def read_history(
    connection: sqlite3.Connection, learner: str, *, updates: str | None = None, last: int | None = None
) -> History:
    """Reads the history of a learner; ``updates`` is a range of numbers (``3:7``), ``last`` so many of the latest.

    Raises :class:`NotFound` if no update was recorded there, :class:`ConfigurationError` for a range that is none.
    """
    bases = rows(connection, "SELECT base_model, base_sha256 FROM learners WHERE name = ?", (learner,))
    numbers = rows(
        connection, "SELECT id, state FROM updates WHERE learner = ? AND state != 'running' ORDER BY id", (learner,)
    )
    judged = [int(row["id"]) for row in numbers if row["state"] in _VERDICTS]
    chosen = _chosen(judged, updates, last)
    if not bases or not chosen:
        raise NotFound(
            f"There is nothing to replay: learner {learner!r} has {_listed(judged)} that came to a verdict"
            f"{f', none of them in {updates}' if judged and updates else ''}. Expected one at least.",
            code="no_updates",
        )
    found = tuple(_read_update(connection, number) for number in chosen)
    following = rows(
        connection, "SELECT min(started_at) AS at FROM updates WHERE learner = ? AND id > ?", (learner, chosen[-1])
    )[0]["at"]
    skipped = {int(row["id"]): str(row["state"]) for row in numbers if chosen[0] <= row["id"] <= chosen[-1]}
    return History(
        learner=learner,
        base_model=bases[0]["base_model"],
        base_sha256=bases[0]["base_sha256"],
        updates=found,
        deeds=_read_deeds(connection, learner, found[0].started_at, math.inf if following is None else following),
        skipped={number: state for number, state in skipped.items() if state not in _VERDICTS},
    )


def numbers_of(values: Any) -> Any:
    """A report as it was measured: NaN and infinities are recorded by name, since JSON has no word for them."""
    if isinstance(values, str) and values in ("nan", "inf", "-inf"):
        return float(values)
    if isinstance(values, Mapping):
        return {key: numbers_of(value) for key, value in values.items()}
    return [numbers_of(value) for value in values] if isinstance(values, list) else values


def _chosen(numbers: Sequence[int], updates: str | None, last: int | None) -> list[int]:
    if updates is not None and last is not None:
        raise ConfigurationError("Both --updates and --last were given; expected one of them.")
    if updates is None:
        return list(numbers[-last:] if last is not None else numbers)
    match = _RANGE.fullmatch(updates)
    if match is None or updates == ":":
        raise ConfigurationError(f"Found --updates {updates!r}, expected two numbers as 3:7, or 3: or :7.")
    first, end = int(match[1] or 1), int(match[2] or max(numbers, default=0))
    if match[2] and end < first:
        raise ConfigurationError(f"Found --updates {updates!r}, expected the lower number first.")
    return [number for number in numbers if first <= number <= end]


def _listed(numbers: Sequence[int]) -> str:
    if not numbers:
        return "no update"
    return f"update {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} updates ({numbers[0]} to {numbers[-1]})"


def _read_update(connection: sqlite3.Connection, number: int) -> RecordedUpdate:
    row = rows(
        connection,
        "SELECT updates.*, versions.adapter_sha256 FROM updates LEFT JOIN versions ON versions.id = updates.id"
        " WHERE updates.id = ?",
        (number,),
    )[0]
    return RecordedUpdate(
        number=number,
        parent=row["parent"],
        outcome=row["state"],
        config=json.loads(row["config"]),
        snapshot_digest=row["snapshot_digest"],
        report=numbers_of(json.loads(row["report"] or "{}")),
        verdict=json.loads(row["verdict"] or "{}"),
        adapter_sha256=row["adapter_sha256"],
        started_at=row["started_at"],
        newest_example=row["newest_example"],
    )


def _read_deeds(connection: sqlite3.Connection, learner: str, since: float, until: float) -> tuple[Deed, ...]:
    found = rows(
        connection,
        "SELECT version, action, created_at FROM rollouts WHERE learner = ? AND created_at > ? AND created_at <= ?"
        " AND (action IN ('rollback', 'recover') OR action = 'promote' AND actor != ?) ORDER BY id",
        (learner, since, until, ACTOR),
    )
    return tuple(Deed(row["version"], row["action"], row["created_at"]) for row in found)
