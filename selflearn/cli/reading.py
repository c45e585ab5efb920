"""What ``evaluate`` and ``versions diff`` measure on: a file that somebody names, or what the state directory has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from selflearn.cli.loading import judge_anchors
from selflearn.cli.output import message
from selflearn.cli.progress import Tell
from selflearn.cli.session import Session

if TYPE_CHECKING:
    from selflearn.experience.transfer.imports import LineError
    from selflearn.learning.care.material import Material
    from selflearn.models.base import LoadedBase

Data = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="JSON Lines: chat, completion or multiple choice (default: reserve, anchors)."),
]
AnswerTokens = Annotated[int, typer.Option(min=1, max=4096, help="Longest answer, in tokens.")]
MAX_ROWS = 2000
MAX_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Read:
    """What there is to measure on, and the lines of a file that were none."""

    materials: list[Material]
    rejected: list[LineError]

    @property
    def left_out(self) -> int:
        return sum(material.left_out for material in self.materials)


def read_material(session: Session, base: LoadedBase, file: str | None, most: int, tell: Tell) -> Read:
    """At most ``most`` rows of a file, or of the learner's permanent reserve, and then the anchors."""
    from selflearn.errors import BadRequest

    read = _from_state(session, base, most, tell) if file is None else _from_file(session, base, file, most)
    _tell(read)
    if not any(material.items or material.questions for material in read.materials):
        raise BadRequest(
            f"There is nothing to measure on in {file or 'the state directory'}: {len(read.rejected)} lines were "
            f"rejected, {read.left_out} rows are longer than learning.max_length. Expected rows of chat, completion or "
            "multiple choice."
        )
    return read


def _from_file(session: Session, base: LoadedBase, file: str, most: int) -> Read:
    from selflearn.cli.transfer import opened_file
    from selflearn.experience.transfer.importing import read_lines
    from selflearn.experience.transfer.references import read_references
    from selflearn.learning.care.material import material_of

    with opened_file(file) as opened:
        rows = read_references(read_lines(opened.lines, session.settings.api.max_body_bytes), most)
    material = material_of(base, "data", rows.references, rows.questions, session.settings.learning.max_length)
    return Read([material], list(rows.rejected))


def _from_state(session: Session, base: LoadedBase, most: int, tell: Tell) -> Read:
    from selflearn.experience import load_examples
    from selflearn.learning.care.material import anchor_material, material_of

    condition = "learner = ? AND state = 'reserve' AND objective = 'supervised' ORDER BY id LIMIT ?"
    with session.store() as store:
        examples = load_examples(store.connection(), condition, (session.learner, most))
    if not examples:
        message("The permanent reserve is empty: only the anchors are measured. Name a file with --data.")
    reserve = material_of(base, "reserve", examples, (), session.settings.learning.max_length)
    return Read([reserve, anchor_material(base, judge_anchors(session, base, tell))], [])


def _tell(read: Read) -> None:
    for error in read.rejected[:MAX_SHOWN]:
        message(f"line {error.line}: {error.reason}")
    if len(read.rejected) > MAX_SHOWN:
        message(f"… and {len(read.rejected) - MAX_SHOWN} more lines that were rejected.")
    if read.left_out:
        message(f"{read.left_out} rows are longer than learning.max_length and were left out.")
