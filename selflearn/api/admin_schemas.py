"""What operators may send."""

from __future__ import annotations

from pydantic import Field

from selflearn.api.bodies import Finite, Number, Strict


class LearnRequest(Strict):
    """The body of ``POST /admin/learn``."""

    trigger: str = Field("operator", min_length=1, max_length=64)


class Order(Strict):
    """What every change of serving has; the body of ``POST /admin/rollouts/abort``."""

    reason: str = Field("asked by the operator", min_length=1, max_length=1024)
    dry_run: bool = False


class RollbackRequest(Order):
    """The body of ``POST /admin/rollback``; without ``to``, the version served before."""

    to: Number | None = None


class PromoteRequest(Order):
    """The body of ``POST /admin/rollouts/promote``; without ``version``, the canary."""

    version: Number | None = None


class CanaryRequest(Order):
    """The body of ``POST /admin/rollouts/canary``; the versions room judges share and time."""

    version: Number
    share: Finite
    for_seconds: Finite | None = None
