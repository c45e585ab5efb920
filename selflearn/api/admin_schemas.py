"""What operators may send."""

from __future__ import annotations

from pydantic import Field, model_validator

from selflearn.api.bodies import Finite, Number, Query, Strict
from selflearn.api.data_schemas import Limit
from selflearn.api.status_schemas import UpdateState


class PageQuery(Query):
    """Of lists that are latest first; ``before`` is the number of the last one of the page before."""

    limit: Limit = 50
    before: Number | None = None


class VersionQuery(Query):
    """Of ``GET /admin/versions``: as of other lists, but without ``limit`` all of them."""

    limit: Limit | None = None
    before: Number | None = None


class UpdateQuery(PageQuery):
    """Of ``GET /admin/updates``."""

    state: UpdateState | None = None


class LearnRequest(Strict):
    """The body of ``POST /admin/learn``."""

    trigger: str = Field("operator", min_length=1, max_length=64)
    dry_run: bool = False


class Order(Strict):
    """What every change of serving has; the body of ``POST /admin/rollouts/abort``."""

    reason: str = Field("asked by the operator", min_length=1, max_length=1024)
    dry_run: bool = False


class RollbackRequest(Order):
    """The body of ``POST /admin/rollback``; without ``to``, the version served before.

    With ``expected`` only if that version is still served: of two who go back at once, one does.
    """

    to: Number | None = None
    expected: Number | None = None


class PromoteRequest(Order):
    """The body of ``POST /admin/rollouts/promote``; without ``version``, the canary.

    With ``force`` also an update that the gate did not promote; then a ``reason`` must be given.
    """

    version: Number | None = None
    force: bool = False

    @model_validator(mode="after")
    def _forced_with_a_reason(self) -> PromoteRequest:
        if self.force and "reason" not in self.model_fields_set:
            raise ValueError("with force, a reason must be given")
        return self


class PinRequest(Order):
    """The body of ``POST /admin/rollouts/pin``; with ``hold`` the version also stays in service."""

    version: Number
    hold: bool = False


class UnpinRequest(Order):
    """The body of ``POST /admin/rollouts/unpin``; without ``version``, the held one, or the only one."""

    version: Number | None = None


class VerifyAuditRequest(Strict):
    """The body of ``POST /admin/audit/verify``; ``expect`` is a digest that must be among its rows."""

    expect: str | None = Field(None, max_length=64)


class CanaryRequest(Order):
    """The body of ``POST /admin/rollouts/canary``; the versions room judges share and time."""

    version: Number
    share: Finite
    for_seconds: Finite | None = None
