"""Shapes of what operators are told about versions, rollouts and the audit log."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, RootModel

from selflearn.api.bodies import Strict
from selflearn.api.status_schemas import Json, Moment, Name, Sha256, Version


class Removal(Strict):
    """When and why a version's files were removed on purpose."""

    at: Moment
    because: Literal["retention", "forgotten"]


class ListedVersion(Strict):
    name: Name
    served: bool
    version: Version
    parent: Version | None = Field(description="None for the base")
    created_at: Moment | None
    adapter_sha256: Sha256 | None
    manifest_sha256: Sha256 | None
    forced: bool = Field(False, description="an operator put it into service against the gate")
    removed: Removal | None = None
    trigger: str | None = Field(description="what started its update")


class VersionList(Strict):
    """All promoted versions, latest first, and the base last."""

    versions: list[ListedVersion]


class Base(Strict):
    learner: str
    base_model: str
    base_sha256: Sha256
    created_at: Moment


class ShownBase(Strict):
    """The base model, as version 0."""

    version: Literal[0]
    name: Name
    lineage: list[Version]
    bases: list[Base]
    problem: None


class Rollout(Strict):
    """A change of what is served, or of the canary."""

    id: int
    version: Version
    action: str = Field(description="promote, rollback, recover, canary, abort or fail")
    share: float | None = Field(description="of a canary")
    until: Moment | None = Field(description="of a canary")
    actor: str
    reason: str
    created_at: Moment


class RolloutOf(Rollout):
    """A rollout that leads to a version or away from it."""

    from_: Version = Field(alias="from", description="what was served before")


class RolloutList(Strict):
    """Rollouts, latest first."""

    rollouts: list[Rollout]


class Manifest(Strict):
    """What a version's manifest says, in short."""

    base_model: str
    base_sha256: Sha256
    seed: int
    files: dict[str, str] = Field(description="the SHA-256 of each")
    examples: dict[str, int] = Field(description="how many in each role")
    libraries: dict[str, str]
    made_with: Json = Field(description="what its bytes depend on besides")


class Curve(Strict):
    """What training looked like."""

    train: list[tuple[int, float]] = Field(description="step and loss of that step's batch, in nats")
    held_out: list[tuple[int, float]] = Field(description="step and mean loss of the fresh held-out examples")
    best_step: int | None = Field(description="where the held-out loss was lowest")
    kept_step: int | None = Field(description="whose weights the version has")
    rise: float | None = Field(description="of the held-out loss from its best to the end")


class ShownVersion(Strict):
    """One version with its place, line, rollouts and manifest."""

    version: Version
    learner: str
    parent: Version
    created_at: Moment
    adapter_sha256: Sha256
    manifest_sha256: Sha256
    forced: bool = False
    name: Name
    served: bool
    lineage: list[Version] = Field(description="itself and its ancestors, nearest first")
    directory: str
    rollouts: list[RolloutOf]
    removed: Removal | None = None
    curve: Curve | None = None
    manifest: Manifest | None = Field(description="None if it is damaged or removed")
    problem: str | None


class AnyVersion(RootModel[ShownVersion | ShownBase]):
    """A version, or the base model."""


class Verified(Strict):
    """Whether a version's files are as they were sealed."""

    version: Version
    name: Name
    intact: bool | None = Field(description="None: its files were removed on purpose")
    files: int = Field(description="that were checked")
    problem: str | None = Field(description="the first file that is not as it was")
    removed: Removal | None


class ServedNow(Strict):
    """What the log names and what answers."""

    version: Version
    sha256: str
    answering: Version | None = Field(description="None where no daemon runs")
    answering_sha256: Sha256 | None
    problem: str | None = Field(description="None if both agree")


class VerifiedAll(Strict):
    """Everything that is kept; ``refused`` and ``served`` only without a number."""

    versions: list[Verified]
    refused: list[Verified] = Field([], description="kept candidates that were not promoted")
    served: ServedNow | None = None


class Difference(Strict):
    what: str
    recorded: object
    found: object


class Reproduced(Strict):
    """Whether a version can be made again byte by byte."""

    update: int
    identical: bool
    recorded_sha256: Sha256
    found_sha256: Sha256
    max_difference: float | None = Field(description="of any weight; None for other names or shapes")
    differences: list[Difference] = Field(description="what is not as it was recorded")
    seconds: float


class Loaded(Strict):
    """A version that answers to its own name, and all those that do."""

    version: Version
    resident: list[Version]


class Change(Strict):
    """A change of what is served."""

    from_version: Version
    to_version: Version
    dry_run: bool


class CanaryStarted(Strict):
    version: Version
    served: Version
    share: float
    until: Moment | None
    dry_run: bool


class CanaryEnded(Strict):
    version: Version
    served: Version
    dry_run: bool


class Pinned(Strict):
    """The pin that was made or taken away."""

    version: Version
    held: bool
    actor: str
    reason: str
    since: Moment
    dry_run: bool


class Pruned(Strict):
    version: Version
    name: Name
    bytes: int


class Kept(Strict):
    version: Version
    name: Name
    because: list[str]


class PrunedVersions(Strict):
    """What retention removed, or would."""

    removed: list[Pruned]
    kept: list[Kept]
    dry_run: bool


class AuditRow(Strict):
    id: int
    at: Moment
    actor: str
    action: str
    detail: Json
    digest: Sha256 = Field(description="of this row and all before it")


class AuditList(Strict):
    """What was done, latest first."""

    audit: list[AuditRow]


class AuditVerified(Strict):
    """Whether the audit log is whole."""

    rows: int
    digest: Sha256 = Field(description="of the last row")
    broken_at: int | None = Field(description="the first row that does not follow from the one before it")
    contains_expected: bool | None = Field(description="None without --expect")
    holds: bool
