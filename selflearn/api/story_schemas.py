"""Shapes of what ``why`` tells: of an update, and of an interaction."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from selflearn.api.bodies import Strict
from selflearn.api.record_schemas import GivenFeedback, Message
from selflearn.api.status_schemas import Alarm, Check, Counts, Json, Moment, Name, Sha256, UpdateState, Verdict, Version
from selflearn.api.version_schemas import Curve, Removal, RolloutOf, Verified


class ChangedSetting(Strict):
    setting: str
    value: Any
    default: Any = Field(description="of today")


class CameIn(Strict):
    """The examples that came in since the update before, in the state that they have today."""

    examples: int
    used: int
    quarantined: Counts = Field(description="by reason")
    forgotten: int
    waiting: int = Field(description="found no place in it")


class Words(Strict):
    id: int
    question: str | None
    target: str | None


class UsedExample(Strict):
    id: int
    digest: Sha256
    kind: str
    state: str
    source: str
    feedback_id: str | None
    interaction_id: str | None


class Role(Strict):
    """The examples of one role."""

    count: int
    sources: Counts
    kinds: Counts
    forgotten: int
    words: list[Words] = Field(description="the first few, cut")
    items: list[UsedExample]


class Roles(Strict):
    train: Role
    replay: Role
    holdout: Role
    retained: Role
    left_out: Role


class LeftOut(Strict):
    reasons: Counts
    items: list[Json] = Field(description="id, role, reason, and its numbers or a detail in words")


class TriedScale(Strict):
    scale: float
    outcome: str
    reason: str = ""
    checks: list[Check] = Field([], description="at that scale")


class Scale(Strict):
    kept: float = Field(description="share of the trained change that was judged in the end")
    tried: list[TriedScale]


class Learned(Strict):
    """What was answered before and after to something that it never trained on."""

    example: int
    prompt: list[Message]
    expected: str
    before: str
    after: str


class Deed(Strict):
    actor: str
    reason: str
    at: Moment


class Promotion(Deed):
    forced: bool = Field(description="against the gate")


class End(Deed):
    action: str
    to: Version


class Period(Strict):
    from_: Moment = Field(alias="from")
    until: Moment | None = Field(description="None: still")
    share: float | None = Field(description="of the conversations, as a canary")


class TrafficOf(Strict):
    """What a version answered, and what was said about it."""

    version: Version
    answers: Counts = Field(description="by how they ended")
    feedback: Counts = Field(description="by kind")
    negative: int
    negative_share: float | None = Field(description="per completed answer; None without any")


class Child(Strict):
    update: int
    outcome: UpdateState


class After(Strict):
    """What followed."""

    promoted_by: Promotion | None
    served: list[Period]
    traffic: TrafficOf | None
    before: TrafficOf | None = Field(description="of the version that it replaced")
    alarms: list[Alarm]
    ended_by: End | None
    removed: Removal | None
    children: list[Child] = Field(description="updates that were made from it")
    descendants: list[Version]


class Story(Strict):
    """The whole story of an update."""

    update: int
    name: Name
    learner: str
    outcome: UpdateState
    reason: str | None
    trigger: str
    rebuild_of: int | None
    parent: Version
    lineage: list[int] = Field(description="itself and its ancestors, nearest first")
    started_at: Moment
    finished_at: Moment | None
    seed: int
    config: Json
    changed_settings: list[ChangedSetting]
    snapshot_digest: Sha256
    came_in: CameIn
    examples: Roles
    left_out: LeftOut
    curve: Curve
    scale: Scale
    verdict: Verdict | None
    answers: list[Learned]
    report: Json | None = Field(description="of its worker; of a long list {first, last, length}")
    rollouts: list[RolloutOf]
    after: After
    version: Verified | None = Field(description="None if it left none")


class ExplainedInteraction(Strict):
    id: str
    conversation: str
    source: str
    user: str | None
    role: str
    version: Version
    state: str
    created_at: Moment
    messages: list[Message]
    answer: str | None


class Use(Strict):
    update: int
    role: str
    outcome: UpdateState
    finished_at: Moment | None


class ExplainedExample(Strict):
    id: int
    feedback_id: str | None
    kind: str
    objective: str
    state: str
    reason: str | None
    detail: str | None
    because: str = Field(description="why it is in its state, in words")
    updates: list[Use]


class UpdatesByRole(Strict):
    train: list[int]
    replay: list[int]
    holdout: list[int]
    retained: list[int]
    left_out: list[int]


class LearnedByServed(Strict):
    """Whether what is served has learned from it."""

    version: Version
    learned: bool
    through: list[Version] = Field(description="versions of its line that trained on it")
    judged_by_it: list[Version] = Field(description="versions of its line that it judged")
    because: str


class InteractionStory(Strict):
    """What came of an interaction."""

    interaction: ExplainedInteraction
    feedback: list[GivenFeedback]
    compared_in: list[str] = Field(description="feedback on a better answer that names this one as worse")
    examples: list[ExplainedExample]
    updates: UpdatesByRole
    served: LearnedByServed
