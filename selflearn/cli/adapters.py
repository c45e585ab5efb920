"""``selflearn versions compact|merge|export`` and ``selflearn distil``: a version made smaller, merged, or taken away.

They read the state directory, whether a daemon runs on it or not, and write a new directory; no version changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selflearn.cli.loading import find, judge_anchors, load_below, model_directory
from selflearn.cli.output import pairs, show, table
from selflearn.cli.progress import Tell, bar
from selflearn.cli.session import Session, session_of
from selflearn.cli.versions import Json, Version, app

if TYPE_CHECKING:
    from selflearn.learning.care.distilling import Distillation
    from selflearn.learning.care.subject import Subject
    from selflearn.models.base import LoadedBase
    from selflearn.models.forward import TokenSequence

To = Annotated[Path, typer.Option("--to", metavar="DIR", help="Where to write; must not exist.")]
JUDGED, LEARNED = ("holdout", "retained"), ("train", "replay")


@app.command("export")
def export(
    context: typer.Context,
    number: Version,
    to: To,
    merged: Annotated[bool, typer.Option("--merged", help="A whole model: the adapter added to the base.")] = False,
    gguf: Annotated[bool, typer.Option("--gguf", help="The adapter as a GGUF file, for llama.cpp --lora.")] = False,
    as_json: Json = False,
) -> None:
    """Write a version's adapter to a new directory, in the PEFT layout, or merged, or as GGUF."""
    from selflearn.learning.care.exporting import new_directory

    if merged and gguf:
        raise typer.BadParameter("give --merged or --gguf, not both")
    session = session_of(context)
    subject = find(session, number)
    write = _write_merged if merged else _write_gguf if gguf else _write_plain
    with new_directory(to) as work:
        told = write(session, subject, work)
        size = _size(work)
    show({"version": number, "directory": str(to.absolute()), **told, "bytes": size}, as_json, _print)


def _write_plain(session: Session, subject: Subject, work: Path) -> dict[str, Any]:
    from selflearn.learning.care.exporting import export_plain

    del session
    export_plain(subject.adapter, work)
    return {"format": "peft"}


def _write_merged(session: Session, subject: Subject, work: Path) -> dict[str, Any]:
    from selflearn.learning.care.exporting import export_merged, stored_dtype

    base = load_below(session, subject, stored_dtype(model_directory(session)))
    merged = export_merged(base, subject.adapter, work)
    return {"format": "merged", "dtype": merged.dtype, "rounding": merged.rounding}


def _write_gguf(session: Session, subject: Subject, work: Path) -> dict[str, Any]:
    from selflearn.learning.care.llama_cpp import FILE, export_gguf

    base = load_below(session, subject, weights=False)
    export_gguf(base.model.config, subject.adapter, work / FILE)
    return {"format": "gguf"}


@app.command("compact")
def compact(
    context: typer.Context,
    number: Version,
    to: To,
    energy: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Share of each layer's squared norm to keep.")
    ] = 0.99,
    as_json: Json = False,
) -> None:
    """Write a version's adapter at a lower rank, and measure what that costs. The version itself stays as it is."""
    from selflearn.learning.care.compaction import compact_model
    from selflearn.learning.care.exporting import new_directory
    from selflearn.learning.care.measuring import measure
    from selflearn.models.adapter import WEIGHTS_FILE, attach_saved, save_adapter

    session = session_of(context)
    subject = find(session, number)
    with new_directory(to) as work, bar() as tell:
        base = load_below(session, subject)
        anchors = judge_anchors(session, base, tell)
        sequences = _sequences(session, subject, base, JUDGED, objective="supervised")
        attach_saved(base.model, subject.adapter)
        tell("measuring the version", 0.0)
        before = measure(base, anchors, sequences)
        report = compact_model(base.model, energy)
        tell("measuring the compacted adapter", 0.5)
        after = measure(base, anchors, sequences)
        save_adapter(base.model, work)
        size = {
            "before": (subject.adapter / WEIGHTS_FILE).stat().st_size,
            "after": (work / WEIGHTS_FILE).stat().st_size,
        }
    found = {
        "version": number,
        "directory": str(to.absolute()),
        **report.as_dict(),
        "bytes": size,
        "before": before.as_dict(),
        "after": after.as_dict(),
    }
    show(found, as_json, _print_compacted)


@app.command("merge")
def merge(
    context: typer.Context,
    numbers: Annotated[list[int], typer.Argument(metavar="N M…", min=1, help="Versions of one base.")],
    to: To,
    weights: Annotated[
        str | None, typer.Option(help="A weight for each, as 0.5,0.5 (default: their mean). May be negative.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Rank of the result (default: the largest of theirs).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the weighted sum of versions as one adapter, and say how exact it is at this rank.

    A version continues its parent, so one line needs no merging; this is for versions that went different ways.
    """
    from selflearn.learning.care.exporting import new_directory
    from selflearn.learning.care.merging import merge as merge_saved
    from selflearn.learning.care.merging import read_saved, write_saved

    session = session_of(context)
    factors = [1.0 / len(numbers)] * len(numbers) if weights is None else _weights(weights)
    subjects = [find(session, number) for number in numbers]
    saved = [read_saved(subject.adapter) for subject in subjects]
    merged, report = merge_saved(saved, factors, rank or max(each.rank for each in saved))
    with new_directory(to) as work:
        write_saved(merged, work)
        size = _size(work)
    found = {"versions": numbers, "weights": factors, "directory": str(to.absolute()), **report.as_dict()}
    show({**found, "bytes": size}, as_json, _print)


def distil(
    context: typer.Context,
    number: Version,
    to: To,
    student: Annotated[str, typer.Option(help="The smaller model: a directory, or a name on the hub.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of training.")] = 400,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences in a step.")] = 8,
    rate: Annotated[float, typer.Option(min=1e-8, max=1.0, help="Peak learning rate, for all weights.")] = 1e-4,
    temperature: Annotated[
        float, typer.Option(min=0.1, max=100.0, help="Above 1: also what is unlikely counts.")
    ] = 1.0,
    held_back: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of sequences that only measure.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same machine: same student.")] = 0,
    as_json: Json = False,
) -> None:
    """Distil the base with version N into a smaller model of the same vocabulary, which any server can load."""
    from selflearn.learning.care.distilling import Distillation
    from selflearn.learning.care.exporting import new_directory

    session = session_of(context)
    options = Distillation(
        steps, batch_size, rate, temperature, held_back, seed, session.settings.learning.batch_tokens
    )
    subject = find(session, number)
    with new_directory(to) as work, bar() as tell:
        told = _distil(session, subject, student, options, work, tell)
        size = _size(work)
    show({"version": number, "directory": str(to.absolute()), **told, "bytes": size}, as_json, _print)


def _distil(
    session: Session, subject: Subject, student_name: str, options: Distillation, work: Path, tell: Tell
) -> dict[str, Any]:
    from selflearn.learning.anchors import anchor_prompts
    from selflearn.learning.care import distilling
    from selflearn.learning.care.exporting import save_model, stored_dtype
    from selflearn.models.adapter import attach_saved
    from selflearn.models.base import DTYPES, load_base
    from selflearn.models.library import prepare

    settings = session.settings
    directory = prepare(student_name, settings.state, tell)
    teacher = load_below(session, subject)
    student = load_base(directory, device=settings.serving.device, dtype="float32")
    distilling.check_vocabulary(teacher, student)
    attach_saved(teacher.model, subject.adapter)
    prompts = [row["prompt"] for row in anchor_prompts()]
    answers = distilling.answered(teacher, prompts, lambda share: tell("the teacher answers", share))
    sequences = [*_sequences(session, subject, teacher, LEARNED), *answers]
    tell("the teacher reads", 0.0)
    material = distilling.taught(teacher, student, sequences, options)
    before, after = distilling.distil(
        student,
        material,
        options,
        save_as=DTYPES[stored_dtype(directory)],
        on_step=lambda step, loss: tell(f"step {step} of {options.steps}, loss {loss:.4f}", step / options.steps),
    )
    save_model(student.model, teacher.tokenizer, work)
    return {
        "divergence_before": before,
        "divergence_after": after,
        "trained": len(material.train),
        "held_back": len(material.held_back),
        "steps": options.steps,
        "teacher_parameters": teacher.model.num_parameters(),
        "student_parameters": student.model.num_parameters(),
    }


def _sequences(
    session: Session, subject: Subject, base: LoadedBase, roles: Sequence[str], objective: str | None = None
) -> list[TokenSequence]:
    """The examples that had one of ``roles`` (and an objective, if given), as far as they can still be read."""
    from selflearn.learning.care.subject import encoded, subject_examples

    with session.store() as store:
        examples = subject_examples(store.connection(), subject, roles)
    chosen = [example for example in examples if objective in (None, example.objective)]
    return encoded(base, chosen, session.settings.learning.max_length)


def _weights(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"found {text!r}, expected numbers such as 0.5,0.5", param_hint="--weights") from error


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def _print(found: dict[str, Any]) -> None:
    pairs([(name.replace("_", " "), value) for name, value in found.items() if name != "layers"])


def _print_compacted(found: dict[str, Any]) -> None:
    """What a lower rank changed, before and after side by side."""
    before, after = found["before"], found["after"]
    table(
        ("", "before", "after"),
        [
            ("rank", found["rank_before"], found["rank_after"]),
            ("bytes", found["bytes"]["before"], found["bytes"]["after"]),
            ("loss on the anchors", before["anchor_loss"], after["anchor_loss"]),
            ("KL to the base there", before["anchor_divergence"], after["anchor_divergence"]),
            (f"loss on {before['examples']} examples", before["example_loss"], after["example_loss"]),
        ],
    )
    pairs([(name.replace("_", " "), found[name]) for name in ("kept", "relative_error", "directory")])
