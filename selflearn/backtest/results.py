"""What a replay found, update by update, and what follows from that in sum."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

Outcome = Literal["promoted", "refused", "inconclusive", "failed", "not_enough"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("promoted", "refused", "inconclusive", "failed", "not_enough")

#: How a step calls what a check of the gate measured.
_MEASURED: Final = {
    "learned": "improvement",
    "retained": "retained_rise",
    "anchored": "anchor_rise",
    "kl_drift": "kl_drift",
    "weight_drift": "weight_drift",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One replayed update. ``served`` is what is served after it; losses and rises are in nats per token.

    ``examples`` counts by role. ``same_examples``: it used the examples that the recorded one used. ``identical``: it
    came to the same outcome by the same numbers and, if promoted, to the same adapter, byte for byte.
    """

    update: int
    outcome: Outcome
    reason: str
    parent: int
    served: int
    examples: Mapping[str, int]
    measured: Mapping[str, float | None]
    seconds: float
    tokens: int
    adapter_sha256: str | None
    same_examples: bool
    identical: bool


@dataclass(frozen=True, slots=True)
class Row:
    """The losses of the version that was served after an update (0: before the first), by column.

    A column is what one recorded update taught. None: that had not been taught yet, or there is nothing to measure.
    """

    after: int
    version: int
    losses: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What one configuration would have done. ``columns`` are the recorded updates of the matrix of losses.

    ``states`` counts the examples by their state in the end; ``differences`` say what of the record was not replayed.
    """

    name: str
    changes: Mapping[str, str]
    steps: tuple[Step, ...]
    columns: tuple[int, ...]
    rows: tuple[Row, ...]
    states: Mapping[str, int]
    differences: tuple[str, ...]


def measured_of(verdict: Mapping[str, Any]) -> dict[str, float | None]:
    """What the gate saw, by the names of :class:`Step`; None for what was not a number."""
    values = {check["name"]: check["value"] for check in verdict.get("checks", ())}
    return {name: values.get(check) for check, name in _MEASURED.items()}


def summary(result: Result) -> dict[str, Any]:
    """The result in one line.

    ``improvement`` is the mean over promoted updates on examples that they had not seen. ``loss_before`` and
    ``loss_after`` are means over all that the recorded updates taught, of the first and of the last version. Rises and
    drifts are those of the version that is served in the end (None if it is older than the replay). See
    :func:`backward_transfer`.
    """
    counted = Counter(step.outcome for step in result.steps)
    promoted = [step for step in result.steps if step.outcome == "promoted"]
    final = result.rows[-1].version if result.rows else result.steps[-1].served
    last = next((step.measured for step in promoted if step.update == final), {} if final else _NOTHING_CHANGED)
    return {
        **{outcome: counted[outcome] for outcome in OUTCOMES},
        "served": final,
        "trained": result.states.get("trained", 0),
        "waiting": sum(result.states.get(state, 0) for state in ("fresh", "held", "due")),
        "improvement": _mean([step.measured["improvement"] for step in promoted]),
        "loss_before": _mean(result.rows[0].losses) if result.rows else None,
        "loss_after": _mean(result.rows[-1].losses) if result.rows else None,
        "backward_transfer": backward_transfer(result),
        **{name: last.get(name) for name in ("anchor_rise", "kl_drift", "weight_drift")},
        "seconds": sum(step.seconds for step in result.steps),
        "tokens": sum(step.tokens for step in result.steps),
        "identical": all(step.identical for step in result.steps),
    }


_NOTHING_CHANGED: Final[Mapping[str, float | None]] = {"anchor_rise": 0.0, "kl_drift": 0.0, "weight_drift": 0.0}


def backward_transfer(result: Result) -> float | None:
    """Mean of R[j][j] − R[T][j] over the updates j before the last, in nats per token; below 0 it forgot.

    R[i][j] is the loss after update i on what update j taught (Lopez-Paz and Ranzato 2017, eq. 3, with losses in place
    of accuracies and therefore the other sign). None with fewer than two updates.
    """
    if not result.rows:
        return None
    after = {row.after: row.losses for row in reversed(result.rows)}  # the first of those after the same update
    changes = []
    for index, update in enumerate(result.columns[:-1]):
        then, now = after[update][index], result.rows[-1].losses[index]
        if then is not None and now is not None:
            changes.append(then - now)
    return _mean(changes)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
