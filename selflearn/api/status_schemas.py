"""What operators are told of the daemon at a glance, and of its updates: shapes of ``/admin/status`` and its parts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from selflearn.api.bodies import Strict

Moment = Annotated[float, Field(description="unix seconds")]
Version = Annotated[int, Field(ge=0, description="number of a version; 0 is the base model")]
Name = Annotated[str, Field(description="of a version, as v000007; v000000 is the base model")]
Sha256 = Annotated[str, Field(description="SHA-256 in hex")]
Counts = Annotated[dict[str, int], Field(description="how many of each; what there is none of is left out")]
Json = Annotated[dict[str, Any], Field(description="some JSON object")]
Number = float | str  # JSON has no word for what is not finite: "nan", "inf"
UpdateState = Literal["running", "promoted", "refused", "inconclusive", "failed", "cancelled", "interrupted"]


class Served(Strict):
    """What the rollout log says is served."""

    version: Version
    name: Name
    sha256: Annotated[str, Field(description="of the adapter, of the base weights for version 0; empty if unknown")]
    since: Moment | None = Field(description="None: the base was never replaced")
    action: str | None = Field(description="the rollout that put it there: promote, rollback or recover")
    forced: bool = Field(False, description="an operator put it into service against the gate")


class Canary(Strict):
    """A version that answers a share of the conversations."""

    version: Version
    name: Name
    sha256: Sha256
    share: float = Field(description="of the conversations, between 0 and 1")
    since: Moment
    until: Moment | None = Field(description="None: until it is promoted or aborted")
    actor: str
    reason: str


class Pin(Strict):
    """A version that an operator keeps."""

    version: Version
    held: bool = Field(description="nothing replaces it in service by itself")
    actor: str
    reason: str
    since: Moment


class Alarm(Strict):
    """What the watchdog raised, and what it did about it."""

    id: int
    version: Version
    signal: str
    action: str = Field(description="rollback, abort, reopen or none")
    detail: Json = Field(description="the numbers, and the reason in words")
    created_at: Moment


class Alarms(Strict):
    """Alarms, latest first."""

    alarms: list[Alarm]


class LastUpdate(Strict):
    """The newest update that ended."""

    update: int
    state: UpdateState
    reason: str | None
    finished_at: Moment | None = None


class RunningUpdate(Strict):
    """How far an update is."""

    update: int
    trigger: str
    phase: str
    step: int
    steps: int = Field(description="0 until they are known")
    loss: float | None = Field(description="of the last step")
    started_at: Moment
    elapsed_seconds: float
    paused_seconds: float = Field(description="while serving came first")
    seconds_left: float | None = Field(description="None until it can be known")


class Remade(Strict):
    """What became of an update that was to be made again."""

    update: int
    became: int | None = Field(description="the number that it has now; None if it was not tried")
    outcome: str
    reason: str | None


class Rebuild(Strict):
    """Versions that are made again without what was forgotten."""

    began_at: Moment
    left: list[int]
    made: list[Remade]
    certificate: int | None


class Learning(Strict):
    """What learning does, or waits for."""

    enabled: bool = Field(description="updates start by themselves")
    paused: bool
    waiting_for: str | None = Field(description="None while an update runs")
    fresh: int = Field(description="new examples that ask for an update")
    needed: int = Field(description="so many start one")
    running: RunningUpdate | None
    last: LastUpdate | None
    rebuild: Rebuild | None
    rate_factor: float = Field(description="on the learning rate of the next update")
    why_not: str | None = Field(description="why no update runs, in one sentence")


class Requests(Strict):
    running: int
    waiting: int


class Recorded(Strict):
    """How much there is, by what became of it."""

    interactions: Counts
    feedback: dict[str, dict[str, int]] = Field(description="by kind, then by status")
    examples: Counts
    quarantine: Counts


class KeptCandidates(Strict):
    """Candidates that were not promoted and are kept, so that an operator may."""

    updates: list[int]
    bytes: int


class Status(Strict):
    """Everything that matters, at a glance."""

    daemon: bool = Field(description="a daemon answered; else the state directory was read")
    state: str = Field(description="the state directory")
    health: Literal["starting", "ready", "stopped"]
    learner: str
    model: str = Field(description="the base model")
    answering: Version | None = Field(description="takes new requests; None while none does")
    answering_sha256: Sha256 | None = Field(description="of the adapter it was loaded from; None for the base")
    resident: list[Version] = Field(description="versions that answer at once")
    requests: Requests
    served: Served
    canary: Canary | None
    pins: list[Pin]
    kept_candidates: KeptCandidates
    alarm: Alarm | None = Field(description="the last one")
    audit_digest: Sha256 = Field(description="the newest of the audit log; see 'selflearn audit verify --expect'")
    counts: Recorded
    learning: Learning


class RolloutStatus(Strict):
    """What is served, beside what, and what else answers at once."""

    served: Served
    canary: Canary | None
    pins: list[Pin]
    answering: Version | None
    resident: list[Version]
    health: Literal["starting", "ready", "stopped"]


class Check(Strict):
    """One question of the gate. What is not finite is null, or named: "nan"."""

    name: str
    outcome: Literal["pass", "fail", "inconclusive"] = "inconclusive"
    value: Number | None = None
    limit: Number | None = None
    low: Number | None = Field(None, description="end of the interval, where there is one")
    high: Number | None = None
    samples: int = 0
    detail: str = ""
    needed: int | None = Field(None, description="so many measured examples would decide it")


class Verdict(Strict):
    """What the gate found."""

    outcome: Literal["promote", "refuse", "inconclusive"]
    reason: str
    checks: list[Check]


class Update(Strict):
    """An update as it is recorded."""

    id: int
    learner: str
    parent: Version
    trigger: str
    state: UpdateState
    seed: int
    config: Json = Field(description="the settings that decide how it turns out")
    snapshot_digest: Sha256 = Field(description="of the ids, digests and roles of its examples")
    report: Json | None = Field(description="all that its worker measured; None if it ended before")
    verdict: Verdict | None
    reason: str | None
    started_at: Moment
    finished_at: Moment | None
    newest_example: int = Field(description="the newest example when it began")
    rebuild_of: int | None = Field(description="the update that this one makes again without what was forgotten")


class ListedUpdate(Strict):
    """An update in short."""

    id: int
    parent: Version
    trigger: str
    state: UpdateState
    reason: str | None
    started_at: Moment
    finished_at: Moment | None
    rebuild_of: int | None
    verdict: Verdict | None


class UpdateList(Strict):
    """Updates, latest first."""

    updates: list[ListedUpdate]


class StartedUpdate(Strict):
    """An update that was started and is not waited for."""

    update: int
    state: Literal["running"]
