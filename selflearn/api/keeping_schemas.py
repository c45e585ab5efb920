"""What operators may send about what is kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from selflearn.api.bodies import Strict
from selflearn.experience.keeping.selection import By, Selector

Named = Annotated[str, Field(min_length=1, max_length=1024)]


class ForgetRequest(Strict):
    """The body of ``POST /admin/data/forget``: exactly one of ``user``, ``source``, ``interaction`` and ``match``.

    With ``rebuild`` the versions that had to go are made again without it.
    """

    user: Named | None = None
    source: Named | None = None
    interaction: Named | None = None
    match: Named | None = None
    reason: str = Field("asked by the operator", min_length=1, max_length=1024)
    rebuild: bool = True
    dry_run: bool = False

    @model_validator(mode="after")
    def _one(self) -> ForgetRequest:
        if (found := len(self._selectors())) != 1:
            raise ValueError(f"exactly one of user, source, interaction and match is needed; found {found}")
        return self

    @property
    def selector(self) -> Selector:
        """What is to be forgotten."""
        return self._selectors()[0]

    def _selectors(self) -> list[Selector]:
        given: dict[By, str | None] = {
            "user": self.user,
            "source": self.source,
            "interaction": self.interaction,
            "match": self.match,
        }
        return [Selector(by, value) for by, value in given.items() if value is not None]


class RetainRequest(Strict):
    """The body of ``POST /admin/data/retain`` and ``POST /admin/versions/prune``."""

    dry_run: bool = False
