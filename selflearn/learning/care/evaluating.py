"""Evaluating: every measure of a version, with its interval, and against another version on the same material."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Final, Literal

from selflearn.judging.calibration import Confidences, expected_calibration_error
from selflearn.judging.choices import joined
from selflearn.judging.collapse import distinct, repetition
from selflearn.judging.fairness import likelihood_gaps
from selflearn.judging.layers import largest_by_kind
from selflearn.judging.measures import adapter_drift
from selflearn.judging.statistics import Interval, paired_bootstrap, proportion_interval
from selflearn.judging.text_match import bleu, exact_match, token_f1
from selflearn.learning.care.observing import Observed
from selflearn.models.base import LoadedBase

#: A ``mean`` of values by example; a ``share`` of examples, each 0 or 1; ``perplexity``: exp of a mean; or one
#: ``number`` of all examples together, which has no interval.
Kind = Literal["mean", "share", "perplexity", "number"]
Better = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True)
class Result:
    """One measure on one material. ``value`` is only given for a ``number``, whose ``values`` are then empty.

    None can be below 0 or above ``most``, and so no interval reaches farther.
    """

    metric: str
    on: str
    kind: Kind
    better: Better | None
    values: tuple[float, ...]
    value: float = math.nan
    samples: int = 0
    details: Mapping[str, Any] | None = None
    most: float = math.inf


def evaluate(observed: Observed, metrics: Collection[str]) -> list[Result]:
    """The measures named in ``metrics`` that fit the material, in the order of :data:`MEASURES`."""
    return [
        result
        for name, measure in MEASURES.items()
        if name in metrics and _fits(name, observed)
        for result in measure(observed)
    ]


def evaluate_weights(model: LoadedBase, metrics: Collection[str]) -> list[Result]:
    """The measures of a model that need no material: ``drift``, and ``fairness`` on pairs of its own."""
    found = list[Result]()
    if "drift" in metrics and (drift := adapter_drift(model.model)):
        details = {"by_kind": largest_by_kind(drift), "by_layer": drift}
        found.append(Result("drift", "weights", "number", None, (), max(drift.values()), len(drift), details))
    if "fairness" in metrics:
        gaps = likelihood_gaps(model.model, model.tokenizer, model.device)
        found.append(Result("fairness_gap", "pairs", "mean", "lower", tuple(map(abs, gaps))))
        found.append(Result("stereotype_share", "pairs", "share", None, tuple(float(gap > 0.0) for gap in gaps)))
    return found


def summary(result: Result, confidence: float) -> dict[str, Any]:
    """A result as a row: its value with the interval at ``confidence``; None for what is not finite or has none."""
    interval = _interval(result, confidence)
    row = {"metric": result.metric, "on": result.on, "better": result.better, **_row(interval)}
    return row if result.details is None else {**row, "details": dict(result.details)}


def difference(result: Result, other: Result, confidence: float) -> dict[str, Any]:
    """``result − other``, paired by example where both are means of values by example, else of the two values alone."""
    if result.kind in ("mean", "share"):
        pairs = zip(result.values, other.values, strict=True)
        return _row(paired_bootstrap([one - two for one, two in pairs], confidence=confidence, seed=0))
    apart = _interval(result, confidence).mean - _interval(other, confidence).mean
    return _row(Interval(apart, math.nan, math.nan, _samples(result)))


def _interval(result: Result, confidence: float) -> Interval:
    if result.kind == "number":
        return Interval(result.value, math.nan, math.nan, _samples(result))
    if result.kind == "share":
        return proportion_interval(sum(result.values), len(result.values), confidence)
    found = paired_bootstrap(result.values, confidence=confidence, seed=0)
    found = replace(found, low=max(found.low, min(found.mean, 0.0)), high=min(found.high, result.most))
    if result.kind == "perplexity":
        return Interval(_exp(found.mean), _exp(found.low), _exp(found.high), found.samples)
    return found


def _samples(result: Result) -> int:
    return result.samples or len(result.values)


def _row(interval: Interval) -> dict[str, Any]:
    numbers = {"value": interval.mean, "low": interval.low, "high": interval.high}
    shown = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    return {**shown, "samples": interval.samples}


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


# Measures


def _loss(observed: Observed) -> list[Result]:
    return [Result("loss", observed.material.on, "mean", "lower", tuple(observed.losses))]


def _perplexity(observed: Observed) -> list[Result]:
    return [Result("perplexity", observed.material.on, "perplexity", "lower", tuple(observed.losses))]


def _exact_match(observed: Observed) -> list[Result]:
    return [Result("exact_match", observed.material.on, "share", "higher", _against(observed, exact_match))]


def _f1(observed: Observed) -> list[Result]:
    return [Result("f1", observed.material.on, "mean", "higher", _against(observed, token_f1), most=1.0)]


def _against(observed: Observed, score: Callable[[str, str], float]) -> tuple[float, ...]:
    pairs = zip(observed.answers, observed.material.items, strict=True)
    return tuple(score(answer, item.target) for answer, item in pairs)


def _bleu(observed: Observed) -> list[Result]:
    on = observed.material.on
    found = bleu(observed.answers, [item.target for item in observed.material.items])
    signature = {"signature": found.signature}
    return [
        Result("bleu", on, "number", "higher", (), found.corpus, len(found.sentences), signature),
        Result("sentence_bleu", on, "mean", "higher", found.sentences, most=100.0),
    ]


def _accuracy(observed: Observed) -> list[Result]:
    on, chosen = observed.material.on, observed.chosen
    return [
        Result("accuracy", on, "share", "higher", chosen.plain),
        Result("accuracy_normalised", on, "share", "higher", chosen.normalised),
    ]


def _calibration(observed: Observed) -> list[Result]:
    """Of the choices and of the next token: the error of calibration, and the Brier score by question or text."""
    on, found = observed.material.on, list[Result]()
    if observed.material.questions:
        found += _calibrated("choice", on, observed.chosen.confidences, observed.chosen.confidences.brier)
    if observed.material.items:
        by_text = observed.confidences
        found += _calibrated("token", on, joined(by_text), [fmean(text.brier) for text in by_text])
    return found


def _calibrated(of: str, on: str, confidences: Confidences, brier: Sequence[float]) -> list[Result]:
    error = expected_calibration_error(confidences.confidence, confidences.correct)
    return [
        Result(f"{of}_calibration", on, "number", "lower", (), error, len(confidences.confidence)),
        Result(f"{of}_brier", on, "mean", "lower", tuple(brier), most=2.0),
    ]


def _kl(observed: Observed) -> list[Result]:
    return [Result("kl", observed.material.on, "mean", None, tuple(observed.divergences))]


def _entropy(observed: Observed) -> list[Result]:
    return [Result("entropy", observed.material.on, "mean", None, tuple(observed.entropies))]


def _repetition(observed: Observed) -> list[Result]:
    values = tuple(repetition(sample) for sample in observed.samples)
    return [Result("repetition", observed.material.on, "mean", "lower", values, most=1.0)]


def _distinct(observed: Observed) -> list[Result]:
    value = distinct(observed.samples)
    return [Result("distinct", observed.material.on, "number", None, (), value, len(observed.samples))]


MEASURES: Final[Mapping[str, Callable[[Observed], list[Result]]]] = {
    "loss": _loss,
    "perplexity": _perplexity,
    "exact_match": _exact_match,
    "f1": _f1,
    "bleu": _bleu,
    "accuracy": _accuracy,
    "calibration": _calibration,
    "kl": _kl,
    "entropy": _entropy,
    "repetition": _repetition,
    "distinct": _distinct,
}
#: What can be asked for; the last two are of the model itself.
METRICS: Final = (*MEASURES, "drift", "fairness")
#: What a reference is needed for that the model itself did not write.
_BY_REFERENCE: Final = ("perplexity", "exact_match", "f1", "bleu", "calibration")
#: What is measured on samples. Where there are anchors they give the prompts: always the same.
SAMPLED: Final = ("entropy", "repetition", "distinct")


def _fits(metric: str, observed: Observed) -> bool:
    material = observed.material
    if metric in ("accuracy", "calibration") and material.questions:
        return True
    unfit = {"anchors": _BY_REFERENCE, "reserve": SAMPLED}.get(material.on, ())
    return bool(material.items) and metric != "accuracy" and metric not in unfit
