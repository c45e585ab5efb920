"""``selflearn versions diff``: two versions on the same prompts, answers and losses side by side.

It computes in the command's own process; the state directory is only read, whether a daemon runs on it or not.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from selflearn.cli.evaluate import interval_text
from selflearn.cli.loading import find, load_versions
from selflearn.cli.output import message, show, table, text_of
from selflearn.cli.progress import bar
from selflearn.cli.reading import MAX_ROWS, AnswerTokens, Data, read_material
from selflearn.cli.session import Session, session_of
from selflearn.cli.versions import Json, app
from selflearn.cli.why import version_or_base

SHOWN_CHARACTERS = 300


@app.command("diff")
def diff(
    context: typer.Context,
    first: Annotated[int, typer.Argument(metavar="A", min=0, help="The version before; 0 is the base model.")],
    second: Annotated[int, typer.Argument(metavar="B", min=0, help="The version after.")],
    data: Data = None,
    limit: Annotated[int, typer.Option(min=0, max=MAX_ROWS, help="Prompts whose answers are shown.")] = 10,
    answer_tokens: AnswerTokens = 64,
    as_json: Json = False,
) -> None:
    """Show what changed from version A to B: answers and losses on the same prompts, worst first, weights, settings."""
    from selflearn.learning.care.differing import Pair, answers_of, losses_of, mean_changes, weight_change
    from selflearn.learning.care.observing import Options

    session = session_of(context)
    with bar() as tell:
        base, (one, two) = load_versions(session, [first, second])
        read = read_material(session, base, data, MAX_ROWS, tell)
        pair = Pair(base, one, two, Options(answer_tokens, session.settings.learning.batch_tokens), tell)
        changed = losses_of(pair, read.materials)
        answers = answers_of(pair, changed[:limit])
        weights = weight_change(pair)
    found = {
        "first": first,
        "second": second,
        "data": data,
        "confidence": session.settings.judging.confidence,
        "losses": mean_changes(changed, session.settings.judging.confidence),
        "prompts": answers,
        "weights": weights,
        "configuration": _configuration(session, first, second),
        "left_out": read.left_out,
        "rejected": [{"line": error.line, "reason": error.reason} for error in read.rejected],
    }
    show(found, as_json, _print)


def _configuration(session: Session, first: int, second: int) -> list[dict[str, Any]]:
    """What the base model has none of is no difference."""
    from selflearn.learning.care.differing import configuration_change

    if not (first and second):
        return []
    return configuration_change(find(session, first).config, find(session, second).config)


def _print(found: dict[str, Any]) -> None:
    first, second = version_or_base(found["first"]), version_or_base(found["second"])
    for row in found["prompts"]:
        _print_prompt(row, first, second)
    rows = [(row["on"], row["change"], interval_text(row), row["samples"]) for row in found["losses"]]
    table(("change of the loss on", "mean", f"{found['confidence']:.0%} interval", "texts"), rows)
    table(("layers", "largest ‖Δ‖/‖W‖"), list(found["weights"]["by_kind"].items()), empty="No weight differs.")
    settings = [(row["setting"], row["first"], row["second"]) for row in found["configuration"]]
    table(("setting", first, second), settings, empty="No setting differs.")
    message("The worst change comes first. Every layer, and prompts in full: add --json.")


def _print_prompt(row: dict[str, Any], first: str, second: str) -> None:
    losses = f"{text_of(row['first']['loss'])} → {text_of(row['second']['loss'])}"
    sign = "+" if (row["change"] or 0.0) > 0 else ""
    lines = [
        ("change", f"{sign}{text_of(row['change'])} nats per token ({losses}), of the {row['on']}"),
        ("prompt", _short(row["prompt"][-1].get("content"))),
        ("expected", _short(row["expected"])),
        (first, _short(row["first"]["answer"])),
        (second, _short(row["second"]["answer"])),
    ]
    width = max(len(name) for name, _ in lines)
    sys.stdout.write("".join(f"{name:<{width}}  {text}\n" for name, text in lines) + "\n")


def _short(text: str | None) -> str:
    line = text_of(text)
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"
