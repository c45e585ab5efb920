"""``selflearn evaluate``: every measure of a version, with intervals, alone or against another version.

It computes in the command's own process; the state directory is only read, whether a daemon runs on it or not.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli.loading import load_versions
from selflearn.cli.output import DASH, message, show, table, text_of
from selflearn.cli.progress import Tell, bar
from selflearn.cli.reading import MAX_ROWS, AnswerTokens, Data, Read, read_material
from selflearn.cli.session import session_of
from selflearn.cli.versions import Json, Version

if TYPE_CHECKING:
    from selflearn.learning.care.evaluating import Result
    from selflearn.learning.care.observing import Options
    from selflearn.models.base import LoadedBase

WEIGHTS = ("drift", "fairness")  # what is not measured on the data that somebody names, unless asked for


def evaluate(
    context: typer.Context,
    number: Version,
    data: Data = None,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this measure; may be given again (default: all).")
    ] = None,
    compare: Annotated[
        int | None, typer.Option(metavar="M", min=0, help="Another version: differences to it on the same rows.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_ROWS, help="Most rows of the file, or of the reserve.")] = 256,
    answer_tokens: AnswerTokens = 64,
    seed: Annotated[int, typer.Option(min=0, help="What samples are drawn by.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure version N: losses, answers, choices, calibration, collapse, drift, fairness. 0 is the base model."""
    from selflearn.learning.care.observing import Options

    session = session_of(context)
    wanted = _wanted(metric, with_weights=data is None)
    options = Options(answer_tokens, session.settings.learning.batch_tokens, seed)
    numbers = [number] if compare is None else [number, compare]
    with bar() as tell:
        base, models = load_versions(session, numbers)
        read = read_material(session, base, data, limit, tell)
        results = [_measured(model, base, read, wanted, options, tell) for model in models]
    _require(metric, results[0])
    rows = _rows(results, session.settings.judging.confidence)
    found = {
        "version": number,
        "compared_with": compare,
        "data": data,
        "confidence": session.settings.judging.confidence,
        "results": rows,
        "left_out": read.left_out,
        "rejected": [{"line": error.line, "reason": error.reason} for error in read.rejected],
    }
    show(found, as_json, _print)


def _wanted(metrics: list[str] | None, *, with_weights: bool) -> Collection[str]:
    from selflearn.learning.care.evaluating import METRICS

    if metrics:
        for name in metrics:
            if name not in METRICS:
                raise typer.BadParameter(
                    f"found {name!r}, expected one of: {', '.join(METRICS)}", param_hint="--metric"
                )
        return set(metrics)
    chosen = set(METRICS) if with_weights else set(METRICS) - set(WEIGHTS)
    if find_spec("sacrebleu") is None:
        chosen.remove("bleu")
        message("BLEU is left out: it needs sacrebleu, which comes with pip install 'selflearn[evaluation]'.")
    return chosen


def _measured(
    model: LoadedBase, base: LoadedBase, read: Read, wanted: Collection[str], options: Options, tell: Tell
) -> list[Result]:
    from selflearn.learning.care.evaluating import evaluate as measures_of
    from selflearn.learning.care.evaluating import evaluate_weights
    from selflearn.learning.care.observing import Observed

    found = [
        result
        for material in read.materials
        for result in measures_of(Observed(model, base, material, options, tell), wanted)
    ]
    tell("the model itself", 0.0)
    return [*found, *evaluate_weights(model, wanted)]


def _require(asked: list[str] | None, results: list[Result]) -> None:
    """A measure that somebody asks for is there, or it is said that it cannot be."""
    from selflearn.errors import BadRequest

    if asked and not results:
        raise BadRequest(
            f"None of {', '.join(asked)} can be measured here. accuracy needs rows with choices; drift needs another "
            "version than 0; the others need rows with an answer, in a file (--data) or in the reserve."
        )


def _rows(results: list[list[Result]], confidence: float) -> list[dict[str, Any]]:
    """A row for each result of the first version, with the difference to that of the second if there is one."""
    from selflearn.learning.care.evaluating import difference, summary

    others = {(each.metric, each.on): each for each in results[-1]} if len(results) > 1 else {}
    rows = []
    for result in results[0]:
        other = others.get((result.metric, result.on))
        apart = None if other is None else difference(result, other, confidence)
        rows.append({**summary(result, confidence), "difference": apart})
    return rows


def _print(found: dict[str, Any]) -> None:
    compared = found["compared_with"]
    headings = ["measure", "on", "value", f"{found['confidence']:.0%} interval", "samples", "better"]
    headings += [] if compared is None else [f"against {compared}", "interval"]
    rows = []
    for row in found["results"]:
        cells = [row["metric"], row["on"], row["value"], interval_text(row), row["samples"], row["better"]]
        if compared is not None:
            apart = row["difference"] or {}
            cells += [apart.get("value"), interval_text(apart)]
        rows.append(cells)
    table(headings, rows)


def interval_text(row: dict[str, Any]) -> str:
    """``0.12 … 0.34``, or a dash where there is no interval."""
    low, high = row.get("low"), row.get("high")
    return DASH if low is None or high is None else f"{text_of(low)} … {text_of(high)}"
