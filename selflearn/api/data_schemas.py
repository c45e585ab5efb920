"""What operators may ask and order about recorded data."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from selflearn.api.bodies import MAX_ID, Number, Query, Strict
from selflearn.experience.browsing import InteractionState
from selflearn.experience.examples import ExampleState
from selflearn.experience.signals import Kind

MOST = 1000
Word = Annotated[str, Field(min_length=1, max_length=256)]
Limit = Annotated[int, Field(ge=1, le=MOST)]
Numbers = Annotated[tuple[Number, ...], Field(min_length=1, max_length=MOST, strict=False)]


class ListQuery(Query):
    """What a list is asked for."""

    source: Word | None = None
    contains: Word | None = None
    limit: Limit = 50


class ExampleQuery(ListQuery):
    """Of ``GET /admin/data/examples``; ``before`` is the number of the last example of the page before."""

    state: ExampleState | None = None
    reason: Word | None = None
    kind: Kind | None = None
    before: Annotated[int, Field(ge=0, le=MAX_ID)] | None = None


class InteractionQuery(ListQuery):
    """Of ``GET /admin/data/interactions``; ``before`` is the id of the last interaction of the page before."""

    state: InteractionState | None = None
    before: Word | None = None


class QuarantineRequest(Strict):
    """The body of ``POST /admin/data/quarantine``: either ``examples`` or a ``source``."""

    examples: Numbers | None = None
    source: Word | None = None
    reason: str = Field("asked by the operator", min_length=1, max_length=1024)
    dry_run: bool = False

    @model_validator(mode="after")
    def _one(self) -> QuarantineRequest:
        if (self.examples is None) == (self.source is None):
            raise ValueError("exactly one of examples and source is needed")
        return self


class ReleaseRequest(Strict):
    """The body of ``POST /admin/data/release``."""

    examples: Numbers
    reason: str = Field("asked by the operator", min_length=1, max_length=1024)
