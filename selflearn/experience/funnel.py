"""The funnel: what came in, what may be learned from, what was learned, and why the rest was not.

Numbers come from the table ``tallies``, which triggers keep: they cost the same however much was recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from selflearn.store import Store

#: Why an example is in quarantine, in words for people; the keys are the words of ``examples.reason``.
QUARANTINE: Final = {
    "superseded": "a newer word about the same answer replaced them",
    "down_rated": "the answer was rated down after all",
    "refused": "they trained updates that were refused",
    "too_long": "they are longer than an example may be",
    "repetitive": "they repeat themselves",
    "boilerplate": "they are stock phrases",
    "malformed": "they are empty or malformed",
    "language": "they are in a language that is not asked for",
    "contradiction": "somebody else says something else; release who is right",
    "outlier": "their loss is far from the usual",
    "empty": "there is nothing in them to learn",
    "same_answer": "their worse answer is the better one",
    "template": "the model's chat template cannot say them",
    "operator": "an operator put them there",
}
_UNANSWERED: Final = {
    "running": "are being answered",
    "failed": "failed",
    "cancelled": "were cancelled by their client",
    "interrupted": "were cut off by the end of the daemon",
}
_UNUSED: Final = {
    "folded": "said what was known already",
    "ignored": "changed nothing: a stronger word stands, or who said it may not teach",
    "quarantined": "became examples in quarantine",
}
_UNTRAINED: Final = {
    "fresh": "wait for an update",
    "held": "judged an update that serves, and train in the next",
    "due": "judged an earlier update, and train in the next",
    "reserve": "never train: they measure what is kept over months",
}
_BARRED: Final = {"suspect": "trained a version that was rolled back", "forgotten": "were forgotten on demand"}


def counts(store: Store, learner: str) -> dict[str, Any]:
    """How much there is, by what became of it; labels without any are left out.

    ``{"interactions": {state: n}, "feedback": {kind: {status: n}}, "examples": {state: n},
    "quarantine": {reason: n}}``.
    """
    found = _tallies(store, learner)
    return {
        "interactions": found.get("interactions", {}),
        "feedback": _nested(found.get("feedback", {})),
        "examples": found.get("examples", {}),
        "quarantine": found.get("quarantine", {}),
    }


def funnel(store: Store, learner: str) -> dict[str, Any]:
    """As :func:`counts` (``interactions`` are ``received``), and what is read from it.

    ``implicit`` has ``{signal: {status: n}}`` of feedback that nobody typed, ``redacted`` ``{kind: n}``, ``removed``
    ``{interaction|feedback|example: n}`` of what was deleted with a tombstone. ``stages`` go from received to trained:
    ``{"stage", "number", "losses": [{"reason", "number", "text"}]}``, each with what did not reach the next one.
    """
    found = _tallies(store, learner)
    numbers = {
        "received": found.get("interactions", {}),
        "feedback": _nested(found.get("feedback", {})),
        "implicit": _nested(found.get("implicit", {})),
        "examples": found.get("examples", {}),
        "quarantine": found.get("quarantine", {}),
        "redacted": found.get("redactions", {}),
        "removed": found.get("tombstones", {}),
    }
    return {**numbers, "stages": _stages(numbers)}


def why_not(learning: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """Why no update runs, in one sentence: None while one runs. ``learning`` is the shape of its status."""
    if learning["running"] is not None:
        return None
    parts = [str(learning["waiting_for"])]
    examples = found["examples"]
    if not found["feedback"]:
        parts.append(f"{sum(found['received'].values())} answers, and no feedback on any of them")
    if (tried := examples.get("fresh", 0) - learning["fresh"]) > 0:
        parts.append(f"{tried} took part in an update that does not serve, and go again once something new comes")
    if quarantined := examples.get("quarantined", 0):
        parts.append(f"{quarantined} in quarantine ({_listed(found['quarantine'])})")
    if suspect := examples.get("suspect", 0):
        parts.append(f"{suspect} suspect since a rollback")
    if unused := found["feedback"] and sum(by_status.get("ignored", 0) for by_status in found["feedback"].values()):
        parts.append(f"{unused} feedback ignored")
    return "; ".join(parts)


def _tallies(store: Store, learner: str) -> dict[str, dict[str, int]]:
    """Every number by subject and label, without zeros."""
    found: dict[str, dict[str, int]] = {}
    sql = "SELECT subject, label, number FROM tallies WHERE learner = ? AND number != 0 ORDER BY subject, label"
    for row in store.read(sql, (learner,)):
        found.setdefault(row["subject"], {})[row["label"]] = row["number"]
    return found


def _nested(numbers: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """``{"a/b": n}`` as ``{"a": {"b": n}}``."""
    found: dict[str, dict[str, int]] = {}
    for label, number in numbers.items():
        first, _, second = label.partition("/")
        found.setdefault(first, {})[second] = number
    return found


def _stages(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    examples = found["examples"]
    statuses: dict[str, int] = {}
    for by_status in found["feedback"].values():
        for status, number in by_status.items():
            statuses[status] = statuses.get(status, 0) + number
    trained = examples.get("trained", 0)
    eligible = trained + sum(examples.get(state, 0) for state in _UNTRAINED)
    return [
        _stage("received", sum(found["received"].values()), _losses(found["received"], _UNANSWERED)),
        _stage("feedback", sum(statuses.values()), _losses(statuses, _UNUSED)),
        _stage("examples", sum(examples.values()), _barred(found)),
        _stage("eligible", eligible, _losses(examples, _UNTRAINED)),
        _stage("trained", trained, iter(())),
    ]


def _stage(name: str, number: int, losses: Iterator[dict[str, Any]]) -> dict[str, Any]:
    return {"stage": name, "number": number, "losses": list(losses)}


def _losses(numbers: Mapping[str, int], texts: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for reason, text in texts.items():
        if number := numbers.get(reason, 0):
            yield {"reason": reason, "number": number, "text": f"{number} {text}"}


def _barred(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Examples that are kept from training, by reason."""
    for reason, number in found["quarantine"].items():
        text = f"{number} in quarantine: {QUARANTINE.get(reason, reason)}"
        yield {"reason": reason, "number": number, "text": text}
    yield from _losses(found["examples"], _BARRED)


def _listed(numbers: Mapping[str, int]) -> str:
    """``contradiction 2, too_long 1``: the most first."""
    ordered = sorted(numbers.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{label} {number}" for label, number in ordered)
