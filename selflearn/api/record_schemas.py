"""Shapes of what operators are told about interactions, feedback, examples and copies of them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from selflearn.api.bodies import Strict
from selflearn.api.status_schemas import Counts, Moment, Sha256, Version

Message = dict[str, Any]


class GivenFeedback(Strict):
    id: str
    kind: str
    value: float | None
    text: str | None
    rejected: str | None
    reason: str | None
    signal: str | None = Field(description="what nobody typed was read from")
    source: str
    user: str | None
    role: str
    status: str
    created_at: Moment


class ListedFeedback(GivenFeedback):
    interaction_id: str | None
    conversation: str | None
    redactions: int
    example_id: int | None
    example_state: str | None


class FeedbackList(Strict):
    """Feedback, latest first."""

    feedback: list[ListedFeedback]


class ListedExample(Strict):
    id: int
    kind: str
    objective: str
    state: str
    reason: str | None
    detail: str | None
    vouched: bool
    question: str | None = Field(description="the last user turn, cut")
    target: str | None = Field(description="cut")
    duplicates: int
    source: str
    user: str | None
    interaction_id: str | None
    created_at: Moment


class ExampleList(Strict):
    """Examples, newest first."""

    examples: list[ListedExample]


class RoleIn(Strict):
    update: int
    role: str
    outcome: str


class LearnedFrom(Strict):
    version: Version
    parent: Version
    examples: int


class Like(Strict):
    id: int
    source: str
    state: str
    reason: str | None


class ShownExample(Strict):
    """An example with all that is known of it."""

    id: int
    kind: str
    objective: str
    state: str
    reason: str | None
    detail: str | None
    vouched: bool
    messages: list[Message]
    target: str
    rejected: str | None
    reward: float | None
    digest: Sha256
    cluster: str
    conversation: str
    duplicates: int
    refusals: int
    replays: int
    source: str
    user: str | None
    feedback_id: str | None
    interaction_id: str | None
    created_at: Moment
    feedback: GivenFeedback | None
    updates: list[RoleIn]
    learned_from: list[LearnedFrom]
    likes: list[Like]
    contradicts: list[Like]


class ListedInteraction(Strict):
    id: str
    conversation: str
    source: str
    user: str | None
    role: str
    version: Version
    state: str
    finish_reason: str | None
    question: str | None
    answer: str | None
    created_at: Moment
    feedback: int
    examples: int


class InteractionList(Strict):
    """Interactions, newest first."""

    interactions: list[ListedInteraction]


class ShownInteraction(Strict):
    """An interaction and what came of it."""

    id: str
    learner: str
    conversation: str
    source: str
    user: str | None
    role: str
    version: Version
    messages: list[Message]
    answer: str | None
    state: str
    finish_reason: str | None
    parameters: dict[str, Any]
    prompt_tokens: int | None
    completion_tokens: int | None
    redactions: int
    created_at: Moment
    completed_at: Moment | None
    feedback: list[GivenFeedback]
    examples: list[ListedExample]
    learned_from: list[LearnedFrom]


class Source(Strict):
    source: str
    examples: Counts
    quarantine: Counts
    contradictions: int
    feedback: int = Field(description="among the newest ten thousand pieces")


class SourceList(Strict):
    """Where examples come from, those with the most first."""

    sources: list[Source]


class Quarantined(Strict):
    """What went into quarantine, or would."""

    quarantined: int
    unchanged: int
    examples: list[int] = Field(description="the first of them")
    freed: list[int] = Field(description="what only they had contradicted")
    learned_from: list[LearnedFrom]
    dry_run: bool


class ReleasedExample(Strict):
    id: int
    state: str


class Released(Strict):
    """What may train again."""

    released: list[ReleasedExample]
    unchanged: list[int]
    superseded: list[int]


class Loss(Strict):
    reason: str
    number: int
    text: str


class Stage(Strict):
    stage: str
    number: int
    losses: list[Loss]


class Stats(Strict):
    """The funnel: what came in, what became of it, and why no update runs."""

    received: Counts
    feedback: dict[str, dict[str, int]]
    implicit: dict[str, dict[str, int]]
    examples: Counts
    quarantine: Counts
    redacted: Counts
    removed: Counts
    stages: list[Stage]
    why_not: str | None


class Imported(Strict):
    """What became of a file."""

    source: str
    lines: int
    received: int
    accepted: int
    known: int
    folded: int
    quarantined: int
    rejected: int
    errors: list[dict[str, Any]]
    finished_before: bool


class Retained(Strict):
    """What retention deleted, or would."""

    interactions: int
    feedback: int
    examples: int
    kept: int = Field(description="examples that stay although their interaction goes")
    megabytes_before: float
    megabytes_after: float
    fits: bool = Field(description="False: more than experience.max_megabytes is needed")
    dry_run: bool


class BackedUpLearner(Strict):
    name: str
    base_model: str
    base_sha256: Sha256
    served: Version


class BackedUpFile(Strict):
    bytes: int
    sha256: Sha256


class Backup(Strict):
    """A copy of the database and of all versions."""

    directory: str
    sha256: Sha256 = Field(description="of the list of its files")
    format: int
    created_at: Moment
    selflearn: str
    learners: list[BackedUpLearner]
    counts: Counts
    audit_digest: Sha256
    files: dict[str, BackedUpFile]
    left_out: dict[str, str] = Field(description="what could not be copied, and why")


class Forgotten(Strict):
    """What was forgotten, or would be, in the store and in the weights."""

    by: str
    dry_run: bool
    interactions: int
    feedback: int
    examples: int
    emptied: int = Field(description="of the examples, those that an update names: their rows stay, without words")
    imports: int
    learned_by: list[Version]
    continued_by: list[Version] = Field(description="versions that descend from those")
    judged: list[Version]
    serving: bool = Field(description="one of those was served")
    rollback_to: Version | None = Field(description="the newest that knew nothing of it")
    updates_ended: list[int]
    log_emptied: bool = True
    traces: int = Field(0, description="pieces that are left in free space; see 'data vacuum'")
    copies: list[str] = Field(description="older copies, which may still have it")
    versions_gone: list[Version]
    to_rebuild: list[int] = Field(description="updates that are made again without it")
    serves: Version = Field(description="what is served now")
    certificate: int | None = Field(description="None if there was nothing to forget")


class ListedCertificate(Strict):
    certificate: int
    state: Literal["rebuilding", "finished"]
    follows: int | None
    by: str
    rows: int
    versions: int
    sha256: Sha256
    created_at: Moment


class CertificateList(Strict):
    """Certificates of forgetting, latest first."""

    certificates: list[ListedCertificate]


class Asked(Strict):
    by: str
    sha256: Sha256 = Field(description="of what was named, which is not kept")
    actor: str
    at: Moment


class TombstoneRange(Strict):
    number: int
    first: int | None
    last: int | None
    sha256: Sha256


class GoneVersion(Strict):
    version: Version
    manifest_sha256: Sha256
    adapter_sha256: Sha256


class MadeAgain(Strict):
    update: int
    became: int | None
    outcome: str
    reason: str | None
    manifest_sha256: Sha256 | None
    adapter_sha256: Sha256 | None


class CertificateDocument(Strict):
    """What is certified; nobody's words."""

    format: int
    learner: str
    state: Literal["rebuilding", "finished"]
    follows: int | None = Field(description="the certificate that this one tells the end of")
    asked: Asked
    counts: Counts
    tombstones: TombstoneRange
    versions: list[GoneVersion]
    judged: list[Version]
    updates_ended: list[int]
    to_rebuild: list[int]
    log_emptied: bool
    traces: int
    copies: list[str]
    audit_digest: Sha256
    finished_at: Moment | None = None
    made_again: list[MadeAgain] = Field([], description="once all is made again")


class Certificate(Strict):
    """A certificate of forgetting."""

    certificate: int
    sha256: Sha256 = Field(description="of the document: keys sorted, no white space")
    created_at: Moment
    document: CertificateDocument


class VerifiedCertificate(Strict):
    """Whether a certificate holds (``--verify``)."""

    certificate: int
    sha256: Sha256
    holds: bool
    problems: list[str]
