"""What imports and exports take and answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from selflearn.api.bodies import MAX_ID, Query, Strict
from selflearn.experience.transfer.formats import Format
from selflearn.experience.transfer.importing import MAX_NAME

Count = Annotated[int, Field(ge=0)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the file, in hex")]


class ImportQuery(Query):
    """``name`` makes the rows of an operator a source of their own, import:NAME. ``file`` is for files that are sent
    in parts, each with the number of its first ``line``; ``last`` says that there are no more, ``again`` that those
    which were done before are to be looked at once more."""

    name: str | None = Field(None, min_length=1, max_length=MAX_NAME)
    format: Format | None = Field(None, description="what the rows are; each is looked at if it is not said")
    file: Hash | None = None
    line: int = Field(1, ge=1, le=MAX_ID)
    last: bool = False
    again: bool = False


class ProgressQuery(Query):
    """As in the import that is asked for."""

    file: Hash
    name: str | None = Field(None, min_length=1, max_length=MAX_NAME)
    format: Format | None = None


class ExportQuery(Query):
    """Which examples, and how. Without a state: all but suspect and quarantined ones."""

    format: Format = "chat"
    state: list[str] = Field(default=[], max_length=16)
    source: list[str] = Field(default=[], max_length=64)
    metadata: bool = False


class BadLine(Strict):
    line: Count
    reason: str


class Import(Strict):
    """What became of rows. A row gives an example for each answer that trains; rejected ones give none."""

    object: Literal["selflearn.import"]
    source: str
    received: Count
    accepted: Count
    known: Count
    folded: Count
    quarantined: Count
    rejected: Count
    errors: list[BadLine] = Field(description="the first lines that were rejected")


class ImportProgress(Import):
    """How far the import of a file has come: so many lines are done."""

    lines: Count
    finished_at: float | None
